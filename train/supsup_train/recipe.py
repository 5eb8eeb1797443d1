"""How a task is learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from supsup_runtime.errors import InputError
from supsup_train.rules import Rule

__all__ = ["OptimizerKind", "Recipe", "TransferKind"]

OptimizerKind = Literal["rmsprop", "adam", "sgd"]
TransferKind = Literal["none", "masks", "scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a task is learned. The defaults are the paper's for PermutedMNIST.

    Attributes:
        rule: Scores to mask.
        steps: Batches.
        batch_size: Inputs a batch; all of them where there are fewer.
        optimizer: ``rmsprop``, ``adam``, or ``sgd`` with momentum 0.9.
        learning_rate: Constant.
        seed: Of scores and order of batches, together with the task's name.
        transfer: What scores begin with: fresh ones (``none``), or the running mean of the earlier
            tasks' ``masks``, as in the paper, or ``scores``, as in its code; see `Transfer`.
    """

    rule: Rule = field(default_factory=Rule)
    steps: int = 1000
    batch_size: int = 128
    optimizer: OptimizerKind = "rmsprop"
    learning_rate: float = 1e-4
    seed: int = 0
    transfer: TransferKind = "none"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate: must be positive, got {self.learning_rate}")
        if self.optimizer not in get_args(OptimizerKind):
            raise InputError(
                f"optimizer: must be one of {list(get_args(OptimizerKind))}, got {self.optimizer!r}"
            )
        if self.transfer not in get_args(TransferKind):
            raise InputError(
                f"transfer: must be one of {list(get_args(TransferKind))}, got {self.transfer!r}"
            )
