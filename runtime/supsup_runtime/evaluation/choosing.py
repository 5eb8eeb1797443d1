"""Choose how a model infers tasks: score, its adjustment by task, method and candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Images, Scores
from supsup_runtime.model.inference import DEFAULT_CANDIDATES, SCORES, Inference
from supsup_runtime.model.model import Model
from supsup_runtime.objectives import Score, evidence

MAX_PASSES = 10_000_000
"""Images times tasks; larger models are not measured, and keep the default."""
_IMAGES = 2000
"""Over all tasks."""
_CANDIDATES = (4, 8, 16, 32, 64, 128)
_MAY_LOSE = 0.005
"""Share of images that fewer candidates may lose to trying all tasks."""
_TOGETHER = 8
"""Images of a group."""
_STEPS, _RATE, _PRIOR, _WEAK = 300, 0.05, 3.0, 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """A way to infer the task, measured on single images that were not learned from.

    Attributes:
        how: Method and settings.
        inferred: Fraction of images whose task it infers, in ``[0, 1]``.
        together: The same of groups of up to 8 images of a task.
        scale: Adjustment ``float64 (tasks,)`` of its score, or empty.
        shift: As `scale`.
    """

    how: Inference
    inferred: float
    together: float
    scale: Scores
    shift: Scores

    @property
    def score(self) -> Score:
        """The score of passes."""
        assert self.how.score is not None  # noqa: S101 - of each way
        return self.how.score

    @property
    def is_adjusted(self) -> bool:
        """Whether scores are adjusted."""
        return len(self.scale) > 0

    def to_dict(self) -> dict[str, Any]:
        """Return how it infers and how well, for JSON."""
        how = self.how
        value = {"method": how.method, "score": how.score, "candidates": how.candidates}
        shares = {"inferred": self.inferred, "together": self.together}
        return {**value, "adjusted": self.is_adjusted, **shares}

    def adjusted(self, scores: Scores) -> Scores:
        """Adjust scores ``(images, tasks)``."""
        return scores * self.scale + self.shift if self.is_adjusted else scores


def tries_all(model: Model) -> bool:
    """Return whether a model tries all tasks unless asked otherwise: few, or it cannot choose."""
    return model.tries_all or model.info.mode == "known"


def ways_to_infer(model: Model, samples: Sequence[Images], how: Inference | None) -> list[Tried]:
    """Measure ways to infer tasks on up to 2000 images; the best one comes first.

    The first half of each task's images, rounded up, adjusts scores, the rest measures. Each score
    is tried as it is and adjusted, on all tasks. Of those within a standard error of the best, the
    one that infers groups best comes first. Where the model does not try all tasks by default, it
    is tried with ``verified`` and more and more candidates, until they lose at most half a point.

    Args:
        model: A loaded model.
        samples: ``float32 (images, *input_shape)`` per task, in index order.
        how: Method, and the score to keep, which ``adjusted=False`` leaves as it is; or None to
            choose.

    Returns:
        The ways; none if there is one task, no second image, or `MAX_PASSES` are not enough.
    """
    own, half, images = _sampled(samples)
    if model.num_tasks == 1 or not half.any() or len(own) * model.num_tasks > MAX_PASSES:
        return []
    kinds = (how.score,) if how is not None and how.score else _scores_of(model)
    scores = _all_scores(model, images, kinds)
    adjust = how is None or how.adjusted is not False
    tried = [way for k in kinds for way in _by_score(k, scores[k], own, half, adjust=adjust)]
    best = _best(tried, int(half.sum()))
    tried = [best, *sorted((way for way in tried if way is not best), key=lambda w: -w.inferred)]
    counts = tuple(count for count in _CANDIDATES if count < model.num_tasks)
    if how is not None and how.method == "verified":
        counts = (how.candidates or DEFAULT_CANDIDATES,)
    elif how is not None or tries_all(model) or not counts:
        return tried
    adjusted, rest = best.adjusted(scores[best.score]), np.flatnonzero(half)
    fewer = _verified(model, images[rest], adjusted[rest], own[rest], best, counts)
    enough = fewer[0].inferred >= best.inferred - _MAY_LOSE
    return [*fewer, *tried] if enough or how is not None else [*tried, *fewer]


def fitted(scores: Scores, own: npt.NDArray[np.int64]) -> tuple[Scores, Scores]:
    """Fit the adjustment of scores: logistic regression over tasks, one slope and shift for each.

    The cross entropy of ``softmax(scale * score + shift)`` is least, with normal priors that draw
    slopes to a common one and shifts to zero, so that few images suffice, and weakly the common one
    to that of scores of unit spread.

    Args:
        scores: ``(images, tasks)``, higher is likelier.
        own: ``(images,)``, index of each image's task.

    Returns:
        ``scale``, positive, and ``shift``, ``float64 (tasks,)``.
    """
    count, tasks = scores.shape
    unit = float(scores.std()) or 1.0
    x, truth = scores / unit, np.zeros(scores.shape)
    truth[np.arange(count), own] = 1
    values = np.zeros(2 * tasks + 1)  # logs of slopes, shifts, log of the common slope
    mean, square = np.zeros_like(values), np.zeros_like(values)
    for step in range(1, _STEPS + 1):
        slopes, shifts = np.exp(values[:tasks] + values[-1]), values[tasks:-1]
        logits = x * slopes + shifts
        mass = np.exp(logits - logits.max(axis=1, keepdims=True))
        wrong = (mass / mass.sum(axis=1, keepdims=True) - truth) / count
        of_slopes = (wrong * x).sum(axis=0) * slopes
        gradient = np.concatenate([of_slopes, wrong.sum(axis=0), [of_slopes.sum()]])
        gradient[:-1] += _PRIOR / count * values[:-1]
        gradient[-1] += _WEAK / count * values[-1]  # separable images leave it open
        mean = 0.9 * mean + 0.1 * gradient  # Adam (Kingma and Ba, 2015)
        square = 0.999 * square + 0.001 * gradient**2
        change = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        values = values - _RATE * change
    return np.exp(values[:tasks] + values[-1]) / unit, values[tasks:-1]


def _sampled(
    samples: Sequence[Images],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], Images]:
    """Return of some images their tasks, whether they measure, and the images."""
    most = max(2, _IMAGES // len(samples))
    parts = [x[:most] for x in samples]
    own = np.repeat(np.arange(len(parts)), [len(x) for x in parts])
    half = np.concatenate([np.arange(len(x)) >= (len(x) + 1) // 2 for x in parts])
    return own, half, np.concatenate(parts)


def _scores_of(model: Model) -> tuple[Score, ...]:
    network = model.info.network
    return tuple(s for s in SCORES if s != "log-odds" or network.superfluous_outputs)


def _all_scores(model: Model, x: Images, kinds: Sequence[Score]) -> dict[Score, Scores]:
    """Return scores ``(images, tasks)`` of forward passes through every mask, by kind."""
    found = {kind: np.empty((len(x), model.num_tasks)) for kind in kinds}
    for task in model.tasks:
        logits = np.concatenate(
            [model.logits(x[at : at + 500], task) for at in range(0, len(x), 500)]
        ).astype(np.float64)
        for kind in kinds:
            found[kind][:, task.index] = evidence(logits, task.real_outputs, kind)
    return found


def _by_score(
    kind: Score,
    scores: Scores,
    own: npt.NDArray[np.int64],
    half: npt.NDArray[np.bool_],
    *,
    adjust: bool,
) -> list[Tried]:
    """Measure trying all tasks by a score, as it is and adjusted."""
    how, none = Inference(method="exhaustive", score=kind), np.zeros(0)
    ways = []
    for scale, shift in ((none, none), *([fitted(scores[~half], own[~half])] if adjust else [])):
        way = Tried(how=how, inferred=0.0, together=0.0, scale=scale, shift=shift)
        ways.append(_measured(way, way.adjusted(scores[half]), own[half]))
    return ways


def _measured(way: Tried, scores: Scores, own: npt.NDArray[np.int64]) -> Tried:
    """Return a way with what it infers from scores ``(images, tasks)``, as it adjusts them."""
    right = scores.argmax(axis=1) == own
    groups = []
    for task in np.unique(own):
        rows = scores[own == task]
        windows = np.lib.stride_tricks.sliding_window_view(rows, min(_TOGETHER, len(rows)), axis=0)
        groups.append(windows.mean(axis=-1).argmax(axis=1) == task)
    together = float(np.concatenate(groups).mean())
    return replace(way, inferred=float(right.mean()), together=together)


def _best(tried: Sequence[Tried], images: int) -> Tried:
    """Return the way that infers groups best, of those as good on single images, about."""
    most = max(way.inferred for way in tried)
    error = math.sqrt(most * (1 - most) / images)
    near = [way for way in tried if way.inferred >= most - error]
    return max(near, key=lambda way: (way.together, way.inferred))


def _verified(
    model: Model,
    x: Images,
    scores: Scores,
    own: npt.NDArray[np.int64],
    best: Tried,
    counts: Sequence[int],
) -> list[Tried]:
    """Measure ``verified`` by rising numbers of candidates, until enough; the last comes first."""
    found = model.infer_tasks(x, method="one-shot")
    order = np.argsort(-np.stack([each.scores for each in found]), axis=1, kind="stable")
    ways = list[Tried]()
    for count in counts:
        few, kept = order[:, :count], np.full(scores.shape, -np.inf)
        np.put_along_axis(kept, few, np.take_along_axis(scores, few, 1), 1)
        how = Inference(method="verified", score=best.score, candidates=count)
        ways.insert(0, _measured(replace(best, how=how), kept, own))
        if ways[0].inferred >= best.inferred - _MAY_LOSE:
            break
    return ways
