"""Algorithms that score every task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Floats, Images, Scores, checked_outputs
from supsup_runtime.objectives import Score, evidence

_ALL = slice(None)
"""All rows of a batch, without a copy."""


class Adjustment(NamedTuple):
    """Per task, ``float64 (tasks,)``: a score counts as ``scale * score + shift``."""

    scale: Scores
    shift: Scores


class Scorer(Protocol):
    """Interface of a model that the methods use."""

    place: str
    num_tasks: int
    real_outputs: Sequence[int]
    default_score: Score

    def task_scores(self, x: Images) -> Floats:
        """Return one-shot scores ``(tasks,)``."""

    def scored(self, x: Images) -> list[Floats]:
        """Return logits ``(batch, outputs)`` of the best task, and `task_scores`."""

    def scores_at(self, x: Images, tasks: npt.NDArray[np.int64], alphas: Floats) -> Floats:
        """Return scores at ``sum_j alphas[j] M[tasks[j]]``."""

    def row_scores(self, x: Images) -> Floats:
        """Return one-shot scores ``(batch, tasks)``."""

    def task_logits(self, x: Images, task_index: int) -> Floats:
        """Return logits ``(batch, outputs)`` of one task."""


def one_shot(scorer: Scorer, x: Images, *, per_image: bool) -> Scores:
    """Return scores ``(rows, tasks)`` at the uniform superposition (paper, equation 4)."""
    scores = scorer.row_scores(x) if per_image else scorer.task_scores(x)[None]
    return scores.astype(np.float64)


def binary(scorer: Scorer, x: Images, *, per_image: bool) -> tuple[Scores, list[int]]:
    """Halve the tasks until one is left, scoring at their superposition (paper, Binary).

    Each of ``ceil(log2(tasks))`` rounds keeps the best ``ceil(n / 2)`` tasks, of equal ones the
    lower indices.

    Returns:
        Scores ``(rows, tasks)`` of the last round, ``-inf`` for dropped tasks, zero for a single
        task; passes per row.
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
    """Follow the scores from the uniform superposition (paper, equation 3).

    ``alphas += step_size * (scores - mean) / max |scores - mean|``, so `step_size` is the largest
    change; then clip at zero and divide by the sum. Ends early if one alpha is 1 or all scores are
    equal.

    Returns:
        Alphas ``(rows, tasks)``, which sum to 1; passes per row.
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
    scorer: Scorer,
    x: Images,
    *,
    per_image: bool,
    score: Score,
    adjustment: Adjustment | None = None,
) -> tuple[Scores, Floats]:
    """Score every task as `_judged`."""
    tried = ((task, _ALL) for task in range(scorer.num_tasks))
    return _judged(scorer, x, tried, per_image=per_image, score=score, adjustment=adjustment)


def verified(
    scorer: Scorer,
    x: Images,
    *,
    per_image: bool,
    score: Score,
    candidates: int,
    adjustment: Adjustment | None = None,
) -> tuple[Scores, Floats]:
    """Score the best `candidates` of one-shot as `_judged`."""
    given: dict[int, Floats] = {}
    if per_image:
        first = one_shot(scorer, x, per_image=True)
    else:  # the graph runs its best task anyway
        logits, scores = scorer.scored(x)
        first, given = scores.astype(np.float64)[None], {int(scores.argmax()): logits}
    best = np.argsort(-first, axis=1, kind="stable")[:, :candidates]  # (rows, candidates)
    tried = (
        (task, np.flatnonzero((best == task).any(axis=1)) if per_image else _ALL)
        for task in np.unique(best).tolist()
    )
    return _judged(
        scorer, x, tried, per_image=per_image, score=score, adjustment=adjustment, given=given
    )


def _judged(
    scorer: Scorer,
    x: Images,
    tried: Iterable[tuple[int, slice | npt.NDArray[np.int64]]],
    *,
    per_image: bool,
    score: Score,
    adjustment: Adjustment | None,
    given: Mapping[int, Floats] | None = None,
) -> tuple[Scores, Floats]:
    """Score forward passes through single masks, unless their logits are `given`.

    Returns:
        Scores ``(rows, tasks)``, ``-inf`` for tasks not tried; logits ``(batch, outputs)`` of each
        row's best task, the first of equal ones.
    """
    scores = np.full((len(x) if per_image else 1, scorer.num_tasks), -np.inf)
    best, numbers = np.full(len(x), -np.inf), np.arange(len(x))
    kept = np.empty((len(x), 0), np.float32)
    for task, rows in tried:
        known = (given or {}).get(task)
        logits = scorer.task_logits(x[rows], task) if known is None else known
        checked_outputs(logits, "logits", scorer.place, rows=numbers[rows])
        judged = evidence(logits.astype(np.float64), scorer.real_outputs[task], score)
        if adjustment is not None:
            judged = adjustment.scale[task] * judged + adjustment.shift[task]
        if not per_image:
            judged = judged.mean(keepdims=True)
        scores[rows if per_image else [0], task] = judged
        if not kept.size:
            kept = np.empty((len(x), logits.shape[1]), np.float32)
        won = judged > best[rows]
        kept[rows] = np.where(won[:, None], logits, kept[rows])
        best[rows] = np.maximum(best[rows], judged)
    return scores, kept
