"""How a task is learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from supsup_runtime.errors import InputError
from supsup_train.masks.rules import Rule

OptimizerKind = Literal["rmsprop", "adam", "sgd"]
ScheduleKind = Literal["constant", "cosine"]
ScoreInit = Literal["uniform", "zeros"]
TransferKind = Literal["none", "masks", "scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a task is learned. The defaults are the paper's for PermutedMNIST.

    Attributes:
        rule: Scores to mask.
        steps: Batches.
        batch_size: Inputs a batch; all of them where there are fewer.
        optimizer: ``rmsprop``, ``adam``, or ``sgd`` with momentum 0.9.
        learning_rate: Of the first step.
        schedule: ``constant``, or ``cosine``: step ``t`` has ``(1 + cos(pi t / steps)) / 2`` of the
            learning rate, counted from 0.
        weight_decay: Added to a gradient: this times the value.
        score_init: Fresh scores: ``uniform`` in ``+-1 / sqrt(fan_in)``, or ``zeros``, which the
            rule ``threshold`` takes for a mask of ones, as the paper's code has it for unit masks.
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
    schedule: ScheduleKind = "constant"
    weight_decay: float = 0.0
    score_init: ScoreInit = "uniform"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate: must be positive, got {self.learning_rate}")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(f"weight_decay: must be at least 0, got {self.weight_decay}")
        for name, kinds in (
            ("optimizer", OptimizerKind),
            ("schedule", ScheduleKind),
            ("score_init", ScoreInit),
            ("transfer", TransferKind),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise InputError(
                    f"{name}: must be one of {list(get_args(kinds))}, got {getattr(self, name)!r}"
                )
        if self.score_init == "zeros" and self.rule.kind != "threshold":
            raise InputError(
                f"score_init: 'zeros' goes with rule 'threshold', got {self.rule.kind!r}, which "
                "has no gradient at 0; take 'uniform'"
            )
        if self.score_init == "zeros" and self.transfer == "masks":
            raise InputError(
                "score_init: transfer 'masks' scales random scores, got 'zeros'; take 'uniform', "
                "or transfer 'scores'"
            )
