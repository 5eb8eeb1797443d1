"""Ways to infer the task of an input that does not say it.

Each method scores every task, the higher the likelier; ties go to the lowest index. A batch is one
task unless every row is asked for on its own (``per_image``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from supsup_runtime.contract import TaskInfo
from supsup_runtime.objectives import evidence

__all__ = ["DEFAULT_CANDIDATES", "METHODS", "Method", "Scorer", "TaskInference", "score_tasks"]

Method = Literal["one-shot", "verified", "exhaustive"]
METHODS: tuple[Method, ...] = ("one-shot", "verified", "exhaustive")
DEFAULT_CANDIDATES = 4
"""Tasks that `verified` tries for real."""
Scores = npt.NDArray[np.float64]
Images = npt.NDArray[np.float32]


class Scorer(Protocol):
    """What inference needs of a model."""

    num_tasks: int
    real_outputs: int

    def task_scores(self, x: Images) -> npt.NDArray[np.float32]:
        """One-shot scores ``(tasks,)`` of a batch at the uniform superposition."""

    def row_scores(self, x: Images) -> npt.NDArray[np.float32]:
        """As `task_scores`, for each row on its own: ``(batch, tasks)``."""

    def task_logits(self, x: Images, task_index: int) -> npt.NDArray[np.float32]:
        """Logits ``(batch, outputs)`` through one task's mask."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskInference:
    """The task of one input, or of one batch.

    Attributes:
        task: The likeliest task.
        scores: ``float64 (tasks,)``, the higher the likelier; ``-inf`` where `verified` did not
            try the task. One-shot scores are ``-d objective / d alphas``, batch mean; the others
            are log-odds in nats (minus the entropy without superfluous outputs), batch mean.
            One-shot scores of a model whose scoring is not exact are the expected ones where a task
            cannot win.
        margin: Best score less the second best; infinite where only one task was scored.
        method: How it was inferred.
    """

    task: TaskInfo
    scores: Scores
    margin: float
    method: Method

    @classmethod
    def from_scores(
        cls, scores: Scores, tasks: tuple[TaskInfo, ...], method: Method
    ) -> TaskInference:
        """Pick the best of ``(tasks,)`` scores."""
        best = int(scores.argmax())
        # not np.delete: its Python code, cold after a pass over a large bank, took half a ms
        second = float(
            max(scores[:best].max(initial=-np.inf), scores[best + 1 :].max(initial=-np.inf))
        )
        return cls(
            task=tasks[best], scores=scores, margin=float(scores[best]) - second, method=method
        )


def score_tasks(
    scorer: Scorer,
    x: Images,
    *,
    method: Method,
    per_image: bool = False,
    candidates: int = DEFAULT_CANDIDATES,
) -> Scores:
    """Score every task.

    Args:
        scorer: The model.
        x: ``float32 (batch, ...)``.
        method: ``one-shot`` (paper, equation 4): one forward and backward pass through the
            uniform superposition. ``exhaustive``: a forward pass through every mask.
            ``verified``: forward passes through the best of one-shot alone.
        per_image: Score each row on its own.
        candidates: Tasks that ``verified`` tries.

    Returns:
        ``float64 (batch, tasks)`` if `per_image`, else ``(1, tasks)``.
    """
    if method == "exhaustive":
        return _exhaustive(scorer, x, per_image=per_image)
    first = _one_shot(scorer, x, per_image=per_image)
    if method == "one-shot":
        return first
    return _verified(scorer, x, first, candidates, per_image=per_image)


def _one_shot(scorer: Scorer, x: Images, *, per_image: bool) -> Scores:
    scores = scorer.row_scores(x) if per_image else scorer.task_scores(x)[None]
    return scores.astype(np.float64)


def _exhaustive(scorer: Scorer, x: Images, *, per_image: bool) -> Scores:
    columns = [_evidence(scorer, x, task) for task in range(scorer.num_tasks)]
    scores = np.stack(columns, axis=1)  # (batch, tasks)
    return scores if per_image else scores.mean(axis=0, keepdims=True)


def _verified(
    scorer: Scorer, x: Images, first: Scores, candidates: int, *, per_image: bool
) -> Scores:
    """Real passes for the best `candidates` of each row of `first` ``(rows, tasks)``."""
    best = np.argsort(-first, axis=1, kind="stable")[:, :candidates]  # (rows, candidates)
    scores = np.full(first.shape, -np.inf)
    for task in np.unique(best):
        rows = np.flatnonzero((best == task).any(axis=1))
        if per_image:
            scores[rows, task] = _evidence(scorer, x[rows], int(task))
        else:
            scores[0, task] = _evidence(scorer, x, int(task)).mean()
    return scores


def _evidence(scorer: Scorer, x: Images, task: int) -> Scores:
    logits = scorer.task_logits(x, task).astype(np.float64)
    return evidence(logits, scorer.real_outputs).astype(np.float64)
