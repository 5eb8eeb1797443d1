"""Algorithms that score every task of an input; `inference` says how they are asked.

One row of scores is for a batch, which is one task, or for each row of it (``per_image``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Floats, Images, Scores, checked_outputs
from supsup_runtime.objectives import Score, evidence

_ALL = slice(None)
"""All rows of a batch, which are then not copied."""


class Scorer(Protocol):
    """What inference needs of a model."""

    place: str
    num_tasks: int
    real_outputs: int

    def task_scores(self, x: Images) -> Floats:
        """One-shot scores ``(tasks,)`` of a batch at the uniform superposition of all tasks."""

    def scored(self, x: Images) -> list[Floats]:
        """Logits ``(batch, outputs)`` through the best task by `task_scores`, and these scores."""

    def scores_at(self, x: Images, tasks: npt.NDArray[np.int64], alphas: Floats) -> Floats:
        """As `task_scores`, at the superposition ``sum_j alphas[j] M[tasks[j]]``."""

    def row_scores(self, x: Images) -> Floats:
        """As `task_scores`, for each row on its own: ``(batch, tasks)``."""

    def task_logits(self, x: Images, task_index: int) -> Floats:
        """Logits ``(batch, outputs)`` through one task's mask."""


def one_shot(scorer: Scorer, x: Images, *, per_image: bool) -> Scores:
    """One pass through the uniform superposition (paper, equation 4): ``(rows, tasks)``."""
    scores = scorer.row_scores(x) if per_image else scorer.task_scores(x)[None]
    return scores.astype(np.float64)


def binary(scorer: Scorer, x: Images, *, per_image: bool) -> tuple[Scores, list[int]]:
    """Halve the tasks until one is left (paper, Binary), each time at their superposition.

    Of `n` tasks the ``ceil(n / 2)`` with the highest scores stay, of equal ones those of lower
    index, so that one is left after ``ceil(log2(tasks))`` rounds, whatever the scores.

    Returns:
        Scores ``(rows, tasks)``: those of the last round, ``-inf`` for tasks that had gone by
        then, zero for the only task of a model; and the passes of each row.
    """
    if scorer.num_tasks == 1:
        rows = len(x) if per_image else 1
        return np.zeros((rows, 1)), [0] * rows
    first = one_shot(scorer, x, per_image=per_image)
    found = [
        _halve(scorer, x[row : row + 1] if per_image else x, scores)
        for row, scores in enumerate(first)
    ]
    return np.stack([scores for scores, _ in found]), [passes for _, passes in found]


def _halve(scorer: Scorer, x: Images, scores: Scores) -> tuple[Scores, int]:
    """Go on from the first round's `scores` ``(tasks,)``."""
    left, passes = np.arange(len(scores)), 1
    while len(left) > 2:
        best = np.argsort(-scores[left], kind="stable")
        left = np.sort(left[best[: -(-len(left) // 2)]])
        alphas = np.full(len(left), 1 / len(left), np.float32)
        scores = scorer.scores_at(x, left, alphas).astype(np.float64)
        passes += 1
    last = np.full(len(scores), -np.inf)
    last[left] = scores[left]
    return last, passes


def gradient(
    scorer: Scorer, x: Images, *, per_image: bool, steps: int, step_size: float
) -> tuple[Scores, list[int]]:
    """Ascend the scores by alphas (paper, equation 3), from the uniform superposition.

    ``alphas += step_size * (scores - mean) / max |scores - mean|``, so that `step_size` is what an
    alpha changes by at most, whatever the objective's scale; then negative ones become zero, and
    all are divided by their sum. Ends early where one alpha has it all, or all scores are equal.

    Returns:
        The last alphas ``(rows, tasks)``, which sum to 1, and the passes of each row.
    """
    first = one_shot(scorer, x, per_image=per_image)
    found = [
        _ascend(scorer, x[row : row + 1] if per_image else x, scores, steps, step_size)
        for row, scores in enumerate(first)
    ]
    return np.stack([alphas for alphas, _ in found]), [passes for _, passes in found]


def _ascend(
    scorer: Scorer, x: Images, scores: Scores, steps: int, step_size: float
) -> tuple[Scores, int]:
    """Go on from the first pass's `scores` ``(tasks,)``."""
    alphas, passes = np.full(len(scores), 1 / len(scores)), 1
    while True:
        away = scores - scores.mean()
        peak = np.abs(away).max()
        if peak == 0:
            return alphas, passes
        alphas = np.maximum(alphas + step_size * away / peak, 0)
        alphas /= alphas.sum()
        used = np.flatnonzero(alphas)
        if passes == steps or len(used) == 1:
            return alphas, passes
        scores = scorer.scores_at(x, used, alphas[used].astype(np.float32)).astype(np.float64)
        passes += 1


def exhaustive(
    scorer: Scorer, x: Images, *, per_image: bool, score: Score | None
) -> tuple[Scores, Floats]:
    """A real pass through every mask, judged by `score`; returns what `_judged` does."""
    tried = ((task, _ALL) for task in range(scorer.num_tasks))
    return _judged(scorer, x, tried, per_image=per_image, score=score)


def verified(
    scorer: Scorer, x: Images, *, per_image: bool, score: Score | None, candidates: int
) -> tuple[Scores, Floats]:
    """Real passes for the best `candidates` of one-shot; returns what `_judged` does."""
    given: dict[int, Floats] = {}
    if per_image:
        first = one_shot(scorer, x, per_image=True)
    else:  # the graph runs its own best task in any case
        logits, scores = scorer.scored(x)
        first, given = scores.astype(np.float64)[None], {int(scores.argmax()): logits}
    best = np.argsort(-first, axis=1, kind="stable")[:, :candidates]  # (rows, candidates)
    tried = (
        (task, np.flatnonzero((best == task).any(axis=1)) if per_image else _ALL)
        for task in np.unique(best).tolist()
    )
    return _judged(scorer, x, tried, per_image=per_image, score=score, given=given)


def _judged(
    scorer: Scorer,
    x: Images,
    tried: Iterable[tuple[int, slice | npt.NDArray[np.int64]]],
    *,
    per_image: bool,
    score: Score | None,
    given: Mapping[int, Floats] | None = None,
) -> tuple[Scores, Floats]:
    """Judge real passes through masks: tasks in ascending order, each with rows to run.

    Tasks whose logits are `given` are not run again.

    Returns:
        Scores ``(rows, tasks)``, ``-inf`` where a task was not tried; and the logits ``(batch,
        outputs)`` of each row through the task with the best score, the first of equal ones.
    """
    scores = np.full((len(x) if per_image else 1, scorer.num_tasks), -np.inf)
    best, numbers = np.full(len(x), -np.inf), np.arange(len(x))
    kept = np.empty((len(x), 0), np.float32)
    for task, rows in tried:
        known = (given or {}).get(task)
        logits = scorer.task_logits(x[rows], task) if known is None else known
        checked_outputs(logits, "logits", scorer.place, rows=numbers[rows])
        judged = evidence(logits.astype(np.float64), scorer.real_outputs, score)
        if not per_image:
            judged = judged.mean(keepdims=True)
        scores[rows if per_image else [0], task] = judged
        if not kept.size:
            kept = np.empty((len(x), logits.shape[1]), np.float32)
        won = judged > best[rows]
        kept[rows] = np.where(won[:, None], logits, kept[rows])
        best[rows] = np.maximum(best[rows], judged)
    return scores, kept
