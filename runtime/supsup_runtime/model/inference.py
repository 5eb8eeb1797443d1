"""Task inference: methods, settings and results; ties go to the lowest index."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from supsup_runtime.arrays import (
    Floats,
    Images,
    Scores,
    about,
    check_choice,
    check_flag,
    check_number,
    checked_whole,
    shown,
)
from supsup_runtime.bank.calibration import JUDGING, Calibration
from supsup_runtime.errors import InputError
from supsup_runtime.model import methods
from supsup_runtime.model.metadata import ModelInfo, TaskInfo
from supsup_runtime.model.methods import Adjustment, Scorer
from supsup_runtime.objectives import Score, default_score

Method = Literal["one-shot", "binary", "gradient", "verified", "exhaustive"]
Auto = Method | Literal["auto"]
"""A method, or the one that the calibration found best."""
METHODS: tuple[Method, ...] = get_args(Method)
SCORES: tuple[Score, ...] = get_args(Score)
DEFAULT_CANDIDATES = 4
DEFAULT_STEPS = 5
DEFAULT_STEP_SIZE = 0.5
_APPLIES: dict[str, tuple[str, ...]] = {
    "adjusted": JUDGING,
    "score": JUDGING,
    "candidates": ("verified",),
    "steps": ("gradient",),
    "step_size": ("gradient",),
}
"""Methods that each setting applies to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """Task inference method and its settings.

    Attributes:
        method: ``one-shot`` (paper, equation 4): one forward and backward pass through the uniform
            superposition. ``binary``: halve the tasks until one is left. ``gradient`` (equation
            3): several steps on the alphas. ``exhaustive``: a forward pass through every mask.
            ``verified``: forward passes through the best tasks of one-shot.
        score: Score of a pass in ``verified`` and ``exhaustive``: ``log-odds`` of real against
            superfluous outputs, minus the ``entropy`` (paper), ``max-probability``, or ``energy``,
            the log-sum-exp of the real outputs. Defaults to log-odds if there are superfluous
            outputs, else entropy.
        adjusted: False leaves scores of ``verified`` and ``exhaustive`` as they are; by default a
            model that is calibrated for the score adjusts them, by task.
        candidates: Number of tasks that ``verified`` tries, at least 1, default 4.
        steps: Maximum passes of ``gradient``, at least 1, default 5.
        step_size: Largest change of an alpha per step of ``gradient``, positive, default 0.5.

    Raises:
        InputError: If a value is out of range or does not apply to the method.
    """

    method: Method
    score: Score | None = None
    candidates: int | None = None
    steps: int | None = None
    step_size: float | None = None
    adjusted: bool | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        for name, wanted in _APPLIES.items():
            value = getattr(self, name)
            if value is not None and self.method not in wanted:
                raise InputError(
                    f"{name} applies only to {' and '.join(wanted)}, got {shown(value)} with "
                    f"{self.method}; omit it"
                )
        if self.score is not None:
            check_choice("score", self.score, SCORES)
        if self.adjusted is not None:
            check_flag("adjusted", self.adjusted)
        for name in ("candidates", "steps"):
            if getattr(self, name) is not None:
                checked_whole(name, getattr(self, name), 1)
        if self.step_size is not None:
            check_number(
                "step_size", self.step_size, lambda s: 0 < s < math.inf, "positive and finite"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskInference:
    """Inferred task of a batch or of one input.

    Attributes:
        task: The likeliest task.
        scores: ``float64 (tasks,)``, higher is likelier; ``-inf`` for tasks that `verified` did
            not try or `binary` dropped before its last round. One-shot, binary: ``-d objective / d
            alphas``, batch mean; one-shot estimates those of tasks that cannot win, unless the
            model's scoring is exact. Gradient: the alphas. Verified, exhaustive:
            `Inference.score`, batch mean, in nats or a probability, or adjusted.
        margin: Best score minus the second best; infinite if only one task was scored.
        method: Method used.
        passes: Forward passes for the batch, or for this row with ``per_image``. Each has a
            backward pass, unless it scores a single mask.
        known: Whether the best score reaches the calibrated threshold; False means no known task.
            None if the model is not calibrated for the method and score.
    """

    task: TaskInfo
    scores: Scores
    margin: float
    method: Method
    passes: int
    known: bool | None = None

    def __repr__(self) -> str:
        known = "" if self.known is None else f"known {self.known}"
        found = f"margin {self.margin:.4g}", f"{self.method} in {self.passes} passes"
        return about(self, shown(self.task.name), *found, known)

    @classmethod
    def from_scores(
        cls,
        scores: Scores,
        tasks: tuple[TaskInfo, ...],
        method: Method,
        passes: int,
        threshold: float | None = None,
    ) -> TaskInference:
        """Pick the best score and compare it with `threshold`."""
        best = int(scores.argmax())
        # np.delete took 0.5 ms here after a pass over a large bank
        rivals = scores[:best], scores[best + 1 :]
        second = max(float(some.max(initial=-np.inf)) for some in rivals)
        margin = float(scores[best]) - second
        return cls(
            task=tasks[best],
            scores=scores,
            margin=margin,
            method=method,
            passes=passes,
            known=None if threshold is None else bool(scores[best] >= threshold),  # NaN: False
        )


def resolved_score(info: ModelInfo, how: Inference) -> Score | None:
    """Return the score of the method's forward passes; None if not applicable."""
    if how.method not in JUDGING:
        return None
    return how.score or default_score(info.network.outputs, info.network.real_outputs)


def threshold_of(info: ModelInfo, how: Inference) -> float | None:
    """Return the threshold; None if the model is not calibrated for `how`."""
    calibration = _calibration_of(info, how)
    return None if calibration is None else calibration.threshold


def adjustment_of(info: ModelInfo, how: Inference) -> Adjustment | None:
    """Return what adjusts the scores of a method; None if nothing does."""
    calibration = _calibration_of(info, how)
    if calibration is None or not calibration.scale:
        return None
    return Adjustment(np.array(calibration.scale), np.array(calibration.shift))


def _calibration_of(info: ModelInfo, how: Inference) -> Calibration | None:
    """Return the calibration if it was measured with this score, adjusted as here."""
    found = info.calibration
    if found is None or found.score != resolved_score(info, how):
        return None
    return None if found.scale and how.adjusted is False else found


def score_tasks(
    scorer: Scorer,
    x: Images,
    how: Inference,
    *,
    per_image: bool = False,
    adjustment: Adjustment | None = None,
) -> tuple[Scores, list[int], Floats | None]:
    """Score every task.

    Returns:
        Scores ``float64 (batch, tasks)`` if `per_image`, else ``(1, tasks)``; passes per row; for
        verified and exhaustive, logits ``(batch, outputs)`` of the best task.
    """
    rows = len(x) if per_image else 1
    score = how.score or scorer.default_score  # one for all tasks, whatever outputs they have
    match how.method:  # mypy reports a method without a case
        case "one-shot":
            return methods.one_shot(scorer, x, per_image=per_image), [1] * rows, None
        case "binary":
            return *methods.binary(scorer, x, per_image=per_image), None
        case "gradient":
            steps = how.steps or DEFAULT_STEPS
            size = how.step_size or DEFAULT_STEP_SIZE
            found = methods.gradient(scorer, x, per_image=per_image, steps=steps, step_size=size)
            return *found, None
        case "exhaustive":
            scores, logits = methods.exhaustive(
                scorer, x, per_image=per_image, score=score, adjustment=adjustment
            )
            return scores, [scorer.num_tasks] * rows, logits
        case "verified":
            count = min(how.candidates or DEFAULT_CANDIDATES, scorer.num_tasks)
            scores, logits = methods.verified(
                scorer,
                x,
                per_image=per_image,
                score=score,
                candidates=count,
                adjustment=adjustment,
            )
            return scores, [1 + count] * rows, logits
