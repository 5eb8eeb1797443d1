"""What an experiment is: banks to learn, and rows of a table to measure through their models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import Inference
from supsup_train.baselines import BaselineMethod

__all__ = ["Bank", "Experiment", "Row", "altered", "tiny"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table: a way to infer the task, measured on every task of some banks.

    Attributes:
        label: What the table calls it.
        banks: Keys in `Experiment.banks`; several are seeds, and their mean is reported.
        objective: What the model differentiates.
        how: How the task is inferred.
        images: Test images a task whose task is inferred; 0 where it is always given.
        batch: Images that are inferred together.
        reference: The paper's number, or another's, in words; empty for none.
        at_least: Percent that are asked for, by measure: ``known`` (GG), ``unknown`` (GNu),
            ``shared`` (GNs), ``inferred`` or ``near``.
    """

    label: str
    banks: tuple[str, ...]
    objective: Literal["entropy", "superfluous"]
    how: Inference
    images: int = 100
    batch: int = 1
    reference: str = ""
    at_least: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A table or figure.

    Attributes:
        name: On the command line, of its files, and of its place in the documentation.
        title: One line.
        banks: What is learned, by key.
        rows: What is measured.
        differs: How it differs from what it reproduces; one sentence or more.
        figure: ``rows``: a group of bars a row. ``tasks``: a line a row, over the tasks.
        seconds: Rough time from nothing on two cores, for `--list`.
    """

    name: str
    title: str
    banks: Mapping[str, Bank]
    rows: tuple[Row, ...]
    differs: str
    figure: Literal["rows", "tasks"] = "rows"
    seconds: int = 600

    def setting(self) -> dict[str, Any]:
        """All that numbers depend on, as JSON values; not what is only said of them."""
        told = ("label", "reference", "at_least")
        rows = [{k: v for k, v in asdict(row).items() if k not in told} for row in self.rows]
        return {"banks": {key: asdict(bank) for key, bank in self.banks.items()}, "rows": rows}


def altered(experiment: Experiment, *, tasks: int | None, images: int | None) -> Experiment:
    """The experiment with another number of tasks in every bank, or of images in every row.

    Raises:
        InputError: If a number is below 1.
    """
    for name, value in (("tasks", tasks), ("images", images)):
        if value is not None and value < 1:
            raise InputError(f"--{name}: must be at least 1, got {value}")
    banks = dict(experiment.banks)
    if tasks is not None:
        banks = {key: replace(bank, tasks=tasks) for key, bank in banks.items()}
    rows = experiment.rows
    if images is not None:
        rows = tuple(replace(row, images=images) for row in rows)
    return replace(experiment, banks=banks, rows=rows)


def tiny(experiment: Experiment) -> Experiment:
    """The same steps in seconds: digits, few tasks, few batches, one seed; numbers mean nothing."""
    banks = {key: _tiny(bank) for key, bank in experiment.banks.items()}
    # banks that become equal are learned once, under the first one's key
    key_of = {key: list(banks)[list(banks.values()).index(bank)] for key, bank in banks.items()}
    rows = tuple(
        replace(row, banks=(key_of[row.banks[0]],), images=4, batch=min(row.batch, 2), at_least=())
        for row in experiment.rows
    )
    used = {key for row in rows for key in row.banks}
    kept = {key: bank for key, bank in banks.items() if key in used}
    return replace(experiment, banks=kept, rows=rows)


def _tiny(bank: Bank) -> Bank:
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
