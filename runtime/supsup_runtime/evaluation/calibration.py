"""Calibrate how a model infers tasks, and when it rejects an image as of no known task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import (
    Images,
    Scores,
    check_kind,
    check_number,
    check_sequence,
    checked_images,
    checked_reals,
    checked_whole,
)
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import JUDGING, Calibration, Judging
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation.accuracy import Progress, check_progress, check_stream
from supsup_runtime.evaluation.choosing import Tried, tries_all, ways_to_infer
from supsup_runtime.model.inference import DEFAULT_CANDIDATES, Inference, resolved_score
from supsup_runtime.model.model import Model

_CHUNK = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Measures with one task left out, as the unknown one.

    Attributes:
        task: Name.
        auroc: AUROC of the other tasks' images against its own, in ``[0, 1]``.
        rejected: Fraction of its images whose best score is below the threshold.
    """

    task: str
    auroc: float
    rejected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Result of a calibration.

    Attributes:
        calibration: Threshold and measures, for `MaskBank.set_calibration`.
        left_out: One entry per task; empty for a single task.
        ways: What `ways_to_infer` tried, the chosen one first; empty if nothing.
    """

    calibration: Calibration
    left_out: tuple[LeftOut, ...]
    ways: tuple[Tried, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``supsup-calibrate --json`` prints."""
        worst = min(self.left_out, key=lambda task: task.auroc, default=None)
        rejected = [task.rejected for task in self.left_out]
        return {
            **self.calibration.to_dict(),
            "auroc_min": None if worst is None else worst.auroc,
            "auroc_min_task": None if worst is None else worst.task,
            "left_out": [asdict(task) for task in self.left_out],
            "rejected": fmean(rejected) if rejected else None,
            "ways": [way.to_dict() for way in self.ways],
        }


def check_same_bank(model: Model, bank: MaskBank) -> None:
    """Check that a model has the network and the task names of a bank.

    Args:
        model: A loaded model.
        bank: The bank.

    Raises:
        InputError: If they differ.
    """
    check_kind("model", model, Model, "a loaded model")
    check_kind("bank", bank, MaskBank, "a MaskBank")
    if model.info.digest != bank.digest:
        raise InputError(
            f"{model.place}: must be a model of {bank.path}: its network's digest must be "
            f"{bank.digest}, got {model.info.digest}; export this bank"
        )
    pairs = zip((task.name for task in model.tasks), bank.task_names, strict=False)
    different = [f"{want!r}, got {got!r}" for got, want in pairs if got != want]
    if model.num_tasks != len(bank) or different:
        expected = different[0] if different else f"{len(bank)} tasks, got {model.num_tasks}"
        raise InputError(
            f"{model.place}: must have the tasks of {bank.path}: expected {expected}; export the "
            "bank again"
        )
    if model.revision not in {None, bank.revision}:  # None: of contract 1
        raise InputError(
            f"{model.place}: a task of {bank.path} was replaced since the export: revision must be "
            f"{bank.revision}, got {model.revision}; export the bank again"
        )


def choose_samples(model: Model, stream: Tasks, *, per_task: int = 100) -> list[Images]:
    """Sample test images of each task.

    Takes the end of the shuffle whose beginning `evaluate` takes, so that samples are disjoint if
    there are enough images.

    Args:
        model: A loaded model.
        stream: A `Stream` or `OwnTasks` with every task of the model, by name.
        per_task: Test images per task, at least 1; all if fewer.

    Returns:
        ``float32 (images, *input_shape)`` per task.

    Raises:
        InputError: If the stream does not fit the model or lacks a task, or `per_task` is below 1.
    """
    per_task = checked_whole("per_task", per_task, 1)
    check_stream(model, stream)
    places = {name: place for place, name in enumerate(stream.task_names)}
    missing = [task.name for task in model.tasks if task.name not in places]
    if missing:
        raise InputError(
            f"{stream.kind} stream: must have each task of {model.place}, has no {missing[0]!r}; "
            "use the stream it was trained on"
        )
    samples = []
    for task in model.tasks:
        x = stream.task(places[task.name], train=False).test_x
        samples.append(x[np.random.RandomState(task.index).permutation(len(x))[-per_task:]])
    return samples


def measure(
    model: Model,
    samples: Sequence[Images],
    *,
    how: Inference | None = None,
    coverage: float,
    progress: Progress | None = None,
) -> Measured:
    """Calibrate a model on single images of its tasks.

    First `ways_to_infer` chooses the method, unless given, and adjusts its score by task. The first
    half of each task's images, rounded up, sets one threshold for all tasks; the rest
    measures what it accepts. Then each task in turn is removed from the candidates, to measure how
    its images are rejected.

    Args:
        model: A loaded model.
        samples: ``float32 (images, *input_shape)`` per task, in index order, at least one image.
        how: ``verified`` or ``exhaustive``; None chooses.
        coverage: Minimum fraction of the images to accept, in ``(0, 1]``.
        progress: Called after each task.

    Returns:
        The calibration and its measures.

    Raises:
        InputError: If an argument is invalid, the model does not support `how`, or scores are not
            finite.
    """
    _check_coverage(coverage)  # before a long measurement
    check_kind("model", model, Model, "a loaded model")
    check_progress(progress)
    check_sequence("samples", samples)
    if how is not None:
        check_kind("how", how, Inference, "an Inference")
        score = resolved_score(model.info, how)
        if score is None:
            raise InputError(f"method must be one of {list(JUDGING)}, got {how.method!r}")
        how = replace(how, score=score)
    sizes = [len(x) if isinstance(x, np.ndarray) and x.ndim else 0 for x in samples]
    if len(sizes) != model.num_tasks or 0 in sizes:
        raise InputError(
            f"samples must be at least one image of each of the {model.num_tasks} tasks, got "
            f"{sizes!s:.80}"
        )
    samples = [checked_images(x, model.info.network.input_shape) for x in samples]
    ways = ways_to_infer(model, samples, how)
    way = _way(model, ways, how)
    how, found = way.how, []
    for task, x in zip(model.tasks, samples, strict=True):
        found.append(_bests(model, x, way))
        if progress is not None:
            progress(task.name, task.index + 1, model.num_tasks)
    halves = [np.split(bests.best, [(len(bests.best) + 1) // 2]) for bests in found]
    held_out = np.concatenate([half for half, _ in halves])
    others = np.concatenate([half for _, half in halves])
    threshold = calibrate(held_out, coverage)
    left_out = _leave_out(model, found, threshold)
    calibration = Calibration(
        score=way.score,
        threshold=threshold,
        coverage=float((held_out >= threshold).mean()),
        images=len(held_out),
        auroc=fmean(task.auroc for task in left_out) if left_out else None,
        accepted=float((others >= threshold).mean()) if len(others) else None,
        method=cast(Judging, how.method),
        candidates=how.candidates,
        inferred=_inferred(found),
        scale=tuple(way.scale.tolist()),
        shift=tuple(way.shift.tolist()),
    )
    return Measured(calibration=calibration, left_out=left_out, ways=tuple(ways))


def default_way(model: Model) -> Inference:
    """Return the method of a model whose calibration, if it has one, is left out of account."""
    return Inference(method="exhaustive" if tries_all(model) else "verified")


def _way(model: Model, ways: Sequence[Tried], how: Inference | None) -> Tried:
    """Return the way to infer that is measured: as given, or the best, or the usual one."""
    if how is None and ways:
        return ways[0]
    if how is None:
        how = default_way(model)
        how = replace(how, score=resolved_score(model.info, how))
    if how.method == "verified":
        how = replace(how, candidates=how.candidates or DEFAULT_CANDIDATES)
    none = np.zeros(0)
    best = ways[0] if ways else Tried(how=how, inferred=0.0, together=0.0, scale=none, shift=none)
    return replace(best, how=how)


def _inferred(found: Sequence[_Bests]) -> float | None:
    """Return the share of the second halves whose own task is the best."""
    right = [
        bests.candidates[(len(bests.best) + 1) // 2 :, 0] == task
        for task, bests in enumerate(found)
    ]
    all_right = np.concatenate(right)
    return float(all_right.mean()) if len(all_right) else None


class _Bests(NamedTuple):
    """Best scores ``(images,)`` of single images.

    Attributes:
        best: With the usual candidates.
        candidates: ``int64 (images, candidates)``, tasks tried, best first; only the best if all
            were tried.
        second: With one more candidate, without the best task.
        wider: With one more candidate.
    """

    best: Scores
    candidates: npt.NDArray[np.int64]
    second: Scores
    wider: Scores

    def without(self, struck: int) -> Scores:
        tried = (self.candidates == struck).any(axis=1)
        left = np.where(tried, self.wider, self.best)
        return np.where(self.candidates[:, 0] == struck, self.second, left)


def _bests(model: Model, x: Images, way: Tried) -> _Bests:
    """Score in chunks, without keeping the scores of all tasks."""
    chunks = [_chunk(model, x[at : at + _CHUNK], way) for at in range(0, len(x), _CHUNK)]
    return _Bests(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _chunk(model: Model, x: Images, way: Tried) -> _Bests:
    how = way.how
    narrow, count = _infer(model, x, way, how), 1
    wide = narrow.copy()
    tried = how.candidates or DEFAULT_CANDIDATES
    if how.method == "verified" and tried < model.num_tasks:
        wide, count = _infer(model, x, way, replace(how, candidates=tried + 1)), tried
    candidates = np.argsort(-narrow, axis=1, kind="stable")[:, :count]
    wider = wide.max(axis=1)
    wide[np.arange(len(x)), candidates[:, 0]] = -np.inf
    return _Bests(narrow.max(axis=1), candidates, wide.max(axis=1), wider)


def _infer(model: Model, x: Images, way: Tried, how: Inference) -> Scores:
    plain = replace(how, adjusted=False)  # whatever the model was calibrated with
    return way.adjusted(np.stack([found.scores for found in model.infer_tasks(x, method=plain)]))


def _leave_out(model: Model, found: Sequence[_Bests], threshold: float) -> tuple[LeftOut, ...]:
    if model.num_tasks == 1:
        return ()
    rows = []
    for task in model.tasks:
        best = [bests.without(task.index) for bests in found]
        unknown = best.pop(task.index)
        rows.append(
            LeftOut(
                task=task.name,
                auroc=auroc(np.concatenate(best), unknown),
                rejected=float((unknown < threshold).mean()),
            )
        )
    return tuple(rows)


def auroc(known: npt.ArrayLike, unknown: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, as Mann-Whitney's U by ranks.

    Args:
        known: ``float (images,)``, scores of known tasks, at least one.
        unknown: ``float (images,)``, scores of unknown tasks, at least one.

    Returns:
        Probability that a known image scores above an unknown one; ties count half.

    Raises:
        InputError: If an array is empty or has NaN.
    """
    above, below = _checked("known", known), _checked("unknown", unknown)
    scores = np.concatenate([above, below])
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)  # last rank, from 1, of equal values
    ranks = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    wins = ranks[: len(above)].sum() - len(above) * (len(above) + 1) / 2
    return float(wins / (len(above) * len(below)))


def calibrate(known: npt.ArrayLike, coverage: float) -> float:
    """Return the highest threshold that accepts at least `coverage` of the known images.

    It is the `m`-th highest of `n` scores, with the smallest `m` such that ``m / n >= coverage``.

    Args:
        known: ``float (images,)``, best scores of held-out images, at least one.
        coverage: Minimum fraction to accept, in ``(0, 1]``.

    Returns:
        The threshold; an image is accepted if its score is at least this.

    Raises:
        InputError: If `coverage` is out of range, or `known` is empty or not finite.
    """
    _check_coverage(coverage)
    scores = np.sort(_checked("known", known))
    if not np.isfinite(scores).all():
        raise InputError("known scores must be finite, got infinity; check the model's outputs")
    shares = np.arange(1, len(scores) + 1) / len(scores)  # accepted with 1, 2, ... images
    kept = 1 + int(np.searchsorted(shares, coverage))
    return float(scores[len(scores) - kept])


def _check_coverage(coverage: float) -> None:
    check_number("coverage", coverage, lambda share: 0 < share <= 1, "in (0, 1]")


def _checked(name: str, scores: npt.ArrayLike) -> Scores:
    values = checked_reals(f"{name} scores", scores)
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"{name} scores must have shape (images,) with at least one image, got {values.shape}"
        )
    if np.isnan(values).any():
        raise InputError(f"{name} scores must be numbers, got NaN; check the model's outputs")
    return values.astype(np.float64)
