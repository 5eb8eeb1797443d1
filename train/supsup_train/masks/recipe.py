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
_LATER = {"warmup": 0, "augment": "none", "negatives": "none", "memory": 20}
"""Recorded if they differ: earlier banks have none."""
_PARTS: dict[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in ("turned", "shuffled", "others")},
    "memory": ("turned", "shuffled", "stored"),
}
"""Of kinds of negatives; a file is one of its own."""


def _without_path(kind: str) -> str:
    return kind.partition(":")[0]


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
        negatives: Images that are not the task's, for which superfluous outputs are to be high:
            ``none``, or some of these, joined by commas, in any order. ``turned`` and ``shuffled``:
            its own pictures, turned by quarters, or with their patches in another order.
            ``others``: images of the other tasks. ``memory``: ``turned``, ``shuffled`` and stored
            images of earlier tasks. ``file:PATH``: pictures in a file or folder, see
            `read_pictures`.
        memory: Images of each task to store, at least 1; with ``memory`` alone.

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
    negatives: str = "none"
    memory: int = 20

    def __post_init__(self) -> None:
        check_kind("rule:", self.rule, Rule, "a Rule")
        for setting, least, most in (
            ("steps", 1, None),
            ("batch_size", 1, None),
            ("seed", -MAX_SEED, MAX_SEED),
            ("warmup", 0, None),
            ("memory", 1, None),
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
        self._check_negatives()
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

    @property
    def negative_parts(self) -> tuple[str, ...]:
        """What negatives are drawn of: ``turned``, ``shuffled``, ``others``, ``stored``, files."""
        parts = (part for kind in self._kinds for part in _PARTS.get(kind, (kind,)))
        return tuple(dict.fromkeys(parts))

    @property
    def _kinds(self) -> list[str]:
        return [] if self.negatives == "none" else self.negatives.split(",")

    @property
    def depends_on_earlier(self) -> str:
        """Name of the setting by which a task depends on those before it; empty if none."""
        if self.transfer != "none":
            return f"transfer: {self.transfer}"
        return "negatives: memory" if "stored" in self.negative_parts else ""

    def _check_negatives(self) -> None:
        check_kind("negatives:", self.negatives, str, "text")
        kinds = self.negatives.split(",")
        known = [kind in _PARTS or (kind[:5] == "file:" and len(kind) > 5) for kind in kinds]
        if self.negatives != "none" and not (all(known) and len({*kinds}) == len(kinds)):
            raise InputError(
                f"negatives: must be none, or some of {', '.join(_PARTS)} and file:PATH, joined by "
                f"commas, each once, got {self.negatives!r:.200}"
            )
        order = [*_PARTS]
        kinds.sort(key=lambda kind: order.index(kind) if kind in _PARTS else len(order))
        object.__setattr__(self, "negatives", ",".join(kinds))
        if self.memory != _LATER["memory"] and "memory" not in kinds:
            raise InputError(
                f"memory: goes with negatives 'memory', got {self.negatives!r:.80}; leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as recorded with a task; of files, not where they are."""
        told = {**asdict(self), "negatives": ",".join(map(_without_path, self._kinds)) or "none"}
        return {name: value for name, value in told.items() if value != _LATER.get(name)}
