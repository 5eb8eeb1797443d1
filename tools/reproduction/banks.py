"""Which bank is learned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from supsup_train.baselines import BaselineMethod

__all__ = ["Bank", "tiny_bank"]

TINY_TASKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """A bank to learn with `supsup-train`, or to make from masks that others have learned.

    Attributes:
        stream: Kind of stream.
        tasks: Number of tasks.
        model: Name of the network.
        outputs: Length of the logits.
        source: ``mnist``, in the data folder, or the bundled ``digits``.
        steps: Batches a task.
        lr: Learning rate; None takes the method's own.
        seed: Of the stream, the scores and the batches.
        scenario: ``NNs`` learns from one unlabelled stream.
        period: Batches between inferences, for ``NNs``; None takes the default.
        transfer: What scores begin with.
        shared: Folder of learned masks in the data folder, in place of learning.
        method: A baseline of `supsup-baseline`, in place of masks.
        matrices: Of BatchE: tasks are rank-one matrices in the bank.
    """

    stream: str
    tasks: int
    model: str
    outputs: int
    source: Literal["mnist", "digits"] = "mnist"
    steps: int = 1000
    lr: float | None = 1e-4
    seed: int = 0
    scenario: Literal["GNu", "NNs"] = "GNu"
    period: int | None = None
    transfer: Literal["none", "masks", "scores"] = "none"
    shared: str | None = None
    method: BaselineMethod | None = None
    matrices: bool = False


def tiny_bank(bank: Bank) -> Bank:
    """The same steps in seconds: digits, few tasks, a small network, few batches."""
    return replace(
        bank,
        tasks=2 if bank.stream == "split" else min(bank.tasks, TINY_TASKS),
        model="mlp-16",
        outputs=min(bank.outputs, 30),
        source="digits",
        steps=10,
        lr=None if bank.method else 1e-2,
        period=5 if bank.scenario == "NNs" else None,
        shared=None,
    )
