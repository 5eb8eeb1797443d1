"""The training settings of a task."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from supsup_runtime.arrays import check_choice, check_kind, check_number, checked_whole
from supsup_runtime.bank.weights import MAX_SEED
from supsup_runtime.errors import InputError
from supsup_train.masks.rules import Rule

OptimizerKind = Literal["rmsprop", "adam", "sgd"]
ScheduleKind = Literal["constant", "cosine"]
ScoreInit = Literal["uniform", "zeros"]
TransferKind = Literal["none", "masks", "scores"]
AugmentKind = Literal["none", "flip", "crop", "crop,flip", "resized", "resized,flip"]
_LATER = {"warmup": 0, "augment": "none"}  # recorded if they differ: earlier banks have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Training settings of a task. The defaults are the paper's for PermutedMNIST.

    Attributes:
        rule: Rule that turns scores into a mask.
        steps: Training batches, at least 1.
        batch_size: Inputs per batch, at least 1; smaller tasks use all their inputs.
        optimizer: ``rmsprop``, ``adam``, or ``sgd`` with momentum 0.9.
        learning_rate: Initial learning rate, positive and finite.
        seed: Seed of scores and batches, combined with the task's name.
        transfer: ``none``, or start from the mean of earlier ``masks`` or ``scores``; see
            `Transfer`.
        schedule: ``constant``, or ``cosine``: step ``t``, from 0, uses the learning rate times
            ``(1 + cos(pi t / steps)) / 2``.
        weight_decay: L2 penalty factor, at least 0; this times the value is added to its gradient.
        score_init: Initial scores without transfer: ``uniform`` in ``+-1 / sqrt(fan_in)``, or
            ``zeros``, a mask of ones, as in the paper's code for unit masks.
        warmup: Steps, fewer than `steps`, over which the learning rate rises: step ``t``, from 0,
            uses it times ``(t + 1) / warmup``. The schedule begins after them.
        augment: Random changes of the pictures of each batch; see `augmented`.

    Raises:
        InputError: If a setting is out of range, or ``zeros`` is combined with ``top-k`` or the
            transfer of masks.
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
    warmup: int = 0
    augment: AugmentKind = "none"

    def __post_init__(self) -> None:
        check_kind("rule:", self.rule, Rule, "a Rule")
        for setting, least, most in (
            ("steps", 1, None),
            ("batch_size", 1, None),
            ("seed", -MAX_SEED, MAX_SEED),
            ("warmup", 0, None),
        ):
            value = checked_whole(f"{setting}:", getattr(self, setting), least, most)
            object.__setattr__(self, setting, value)
        rate, decay, most_real = self.learning_rate, self.weight_decay, float("inf")
        check_number("learning_rate:", rate, lambda r: 0 < r < most_real, "positive and finite")
        check_number("weight_decay:", decay, lambda d: 0 <= d < most_real, "at least 0 and finite")
        for name, kinds in (
            ("optimizer", OptimizerKind),
            ("schedule", ScheduleKind),
            ("score_init", ScoreInit),
            ("transfer", TransferKind),
            ("augment", AugmentKind),
        ):
            check_choice(f"{name}:", getattr(self, name), get_args(kinds))
        if self.warmup >= self.steps:
            raise InputError(
                f"warmup: must be fewer than the {self.steps} steps, got {self.warmup}; take more "
                "steps"
            )
        if self.score_init == "zeros" and self.rule.kind != "threshold":
            raise InputError(
                f"score_init: 'zeros' goes with rule 'threshold', got {self.rule.kind!r}, which "
                "has no gradient at 0; use 'uniform'"
            )
        if self.score_init == "zeros" and self.transfer == "masks":
            raise InputError(
                "score_init: transfer 'masks' scales random scores, got 'zeros'; use 'uniform', "
                "or transfer 'scores'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as recorded with a task."""
        return {name: value for name, value in asdict(self).items() if value != _LATER.get(name)}
