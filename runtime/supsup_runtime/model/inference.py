"""Ways to infer the task of an input that does not say it.

Each method scores every task, the higher the likelier; ties go to the lowest index. A batch is one
task unless every row is asked for on its own (``per_image``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from supsup_runtime.arrays import Floats, Images, Scores
from supsup_runtime.bank.calibration import JUDGING
from supsup_runtime.errors import InputError
from supsup_runtime.model import methods
from supsup_runtime.model.metadata import ModelInfo, TaskInfo
from supsup_runtime.model.methods import Scorer
from supsup_runtime.objectives import Score, default_score

Method = Literal["one-shot", "binary", "gradient", "verified", "exhaustive"]
METHODS: tuple[Method, ...] = get_args(Method)
SCORES: tuple[Score, ...] = get_args(Score)
DEFAULT_CANDIDATES = 4
DEFAULT_STEPS = 5
DEFAULT_STEP_SIZE = 0.5
_APPLIES: dict[str, tuple[str, ...]] = {
    "score": JUDGING,
    "candidates": ("verified",),
    "steps": ("gradient",),
    "step_size": ("gradient",),
}
"""Methods that each setting is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """How to infer the task. A setting that the method does not have is refused.

    Attributes:
        method: ``one-shot`` (paper, equation 4): one forward and backward pass through the uniform
            superposition. ``binary``: halve the tasks until one is left. ``gradient`` (equation
            3): several steps on the alphas. ``exhaustive``: a forward pass through every mask.
            ``verified``: forward passes through the best of one-shot alone.
        score: By what ``verified`` and ``exhaustive`` judge a forward pass: ``log-odds`` of the
            real outputs against the superfluous ones, minus the ``entropy`` (the paper's), or the
            ``max-probability``. By default log-odds where there are superfluous outputs, entropy
            elsewhere.
        candidates: Tasks that ``verified`` tries, at least 1; 4 by default.
        steps: Most passes of ``gradient``, at least 1; 5 by default.
        step_size: What ``gradient`` changes an alpha by at most, positive; 0.5 by default.

    Raises:
        InputError: If a value is out of range, or its method does not have it.
    """

    method: Method
    score: Score | None = None
    candidates: int | None = None
    steps: int | None = None
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method must be one of {list(METHODS)}, got {self.method!r}")
        for name, wanted in _APPLIES.items():
            value = getattr(self, name)
            if value is not None and self.method not in wanted:
                raise InputError(
                    f"{name} is for {' and '.join(wanted)}, got {value!r} with {self.method}; "
                    "leave it out"
                )
        if self.score not in {None, *SCORES}:
            raise InputError(f"score must be one of {list(SCORES)}, got {self.score!r}")
        for name in ("candidates", "steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(f"step_size must be positive and finite, got {self.step_size}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskInference:
    """The task of one input, or of one batch.

    Attributes:
        task: The likeliest task.
        scores: ``float64 (tasks,)``, the higher the likelier; ``-inf`` where `verified` did not
            try the task, or `binary` had given it up before its last round. One-shot and binary
            scores are ``-d objective / d alphas``, batch mean; those of gradient are the alphas;
            the others are what `Inference.score` says, in nats or as a probability, batch mean.
            One-shot scores of a model whose scoring is not exact are the expected ones where a
            task cannot win.
        margin: Best score less the second best; infinite where only one task was scored.
        method: How it was inferred.
        passes: Forward passes through the network that it took, of the whole batch or, with
            ``per_image``, of this row; all but those of verified and exhaustive that judge a mask
            are followed by a backward pass.
        known: Whether the best score reaches the model's calibrated threshold: False says that the
            input is of no known task, whatever `task` is. None where the model is not calibrated,
            or `method` does not judge real forward passes by the calibrated score.
    """

    task: TaskInfo
    scores: Scores
    margin: float
    method: Method
    passes: int
    known: bool | None = None

    @classmethod
    def from_scores(
        cls,
        scores: Scores,
        tasks: tuple[TaskInfo, ...],
        method: Method,
        passes: int,
        threshold: float | None = None,
    ) -> TaskInference:
        """Pick the best of ``(tasks,)`` scores, and hold it against a threshold if there is one."""
        best = int(scores.argmax())
        # not np.delete: its Python code, cold after a pass over a large bank, took half a ms
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
    """By what a model's real forward passes are judged; None where the method makes none."""
    if how.method not in JUDGING:
        return None
    return how.score or default_score(info.network.outputs, info.network.real_outputs)


def threshold_of(info: ModelInfo, how: Inference) -> float | None:
    """The best score from which on a task is known; None where `how` is not what was calibrated."""
    calibration = info.calibration
    if calibration is None or calibration.score != resolved_score(info, how):
        return None
    return calibration.threshold


def score_tasks(
    scorer: Scorer, x: Images, how: Inference, *, per_image: bool = False
) -> tuple[Scores, list[int], Floats | None]:
    """Score every task.

    Args:
        scorer: The model.
        x: ``float32 (batch, ...)``.
        how: The method and its settings.
        per_image: Score each row on its own.

    Returns:
        Scores, ``float64 (batch, tasks)`` if `per_image`, else ``(1, tasks)``, the passes of each
        of their rows, and, of methods that judge real passes, the likeliest task's logits
        ``float32 (batch, outputs)``.
    """
    rows = len(x) if per_image else 1
    match how.method:  # mypy misses a return where a method has no case
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
            scores, logits = methods.exhaustive(scorer, x, per_image=per_image, score=how.score)
            return scores, [scorer.num_tasks] * rows, logits
        case "verified":
            count = min(how.candidates or DEFAULT_CANDIDATES, scorer.num_tasks)
            scores, logits = methods.verified(
                scorer, x, per_image=per_image, score=how.score, candidates=count
            )
            return scores, [1 + count] * rows, logits
