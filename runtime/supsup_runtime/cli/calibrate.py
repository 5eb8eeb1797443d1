"""The command supsup-calibrate: when is an image of no known task? Measured, and stored."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import JUDGING, Calibration, auroc, calibrate
from supsup_runtime.cli.evaluate import add_stream_options, stream_of
from supsup_runtime.cli.run import add_model_options, load_model
from supsup_runtime.console import parser, print_result, run_command
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import DEFAULT_CANDIDATES, SCORES, Inference, resolved_score
from supsup_runtime.model.model import Model

__all__ = ["LeftOut", "Measured", "main", "measure"]

_EXAMPLES = (
    "out.onnx permuted --bank masks/",
    "out.onnx permuted --bank masks/ --data mnist/ --coverage 0.99 --images 400 --json",
)
_CHUNK = 100
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A task that was left out: its images are then of no known task.

    Attributes:
        task: Its name.
        auroc: Of the other tasks' images against its own, in ``[0, 1]``.
        rejected: Fraction of its images whose best score is below the threshold.
    """

    task: str
    auroc: float
    rejected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured: the calibration, and each task left out in turn (none of one)."""

    calibration: Calibration
    left_out: tuple[LeftOut, ...]


def main() -> None:
    """Run the command."""
    run_command("supsup-calibrate", _run)


def _run() -> None:
    made = parser(
        "supsup-calibrate",
        "Measure from which best score on an image is of a known task; store it in the bank.",
        _EXAMPLES,
    )
    add_model_options(made)
    add_stream_options(made)
    made.add_argument("--bank", type=Path, required=True, help="that the model was exported from")
    made.add_argument("--images", type=int, default=100, help="test images a task")
    made.add_argument(
        "--coverage", type=float, default=0.95, help="fraction of known images to accept, at least"
    )
    made.add_argument("--method", choices=JUDGING, help="verified, where the model can")
    made.add_argument("--score", choices=SCORES, help="what judges a pass")
    made.add_argument("--candidates", type=int, help="verified: tasks to try; 4 by default")
    arguments = made.parse_args()
    if arguments.images < 1:
        raise InputError(f"--images must be at least 1, got {arguments.images}")
    if not 0 < arguments.coverage <= 1:  # before minutes of measuring
        raise InputError(f"--coverage must be in (0, 1], got {arguments.coverage}")
    model = load_model(arguments)
    bank = MaskBank.open(arguments.bank, verify=False)
    _check_same(arguments.model, model, bank)
    how = Inference(
        method=arguments.method or ("exhaustive" if model.info.mode == "known" else "verified"),
        score=arguments.score,
        candidates=arguments.candidates,
    )
    measured = measure(model, _samples(arguments, model), how=how, coverage=arguments.coverage)
    bank.set_calibration(measured.calibration)
    value = _to_dict(measured, how)
    print_result(value, as_json=arguments.json, text=_to_text(value, arguments.bank))


def _check_same(path: Path, model: Model, bank: MaskBank) -> None:
    """Refuse a model that is not of this bank, by network and names of the tasks."""
    if model.info.digest != bank.digest:
        raise InputError(
            f"{path}: must be a model of {bank.path}: its network's digest must be {bank.digest}, "
            f"got {model.info.digest}; export this bank"
        )
    pairs = zip((task.name for task in model.tasks), bank.task_names, strict=False)
    different = [f"{want!r}, got {got!r}" for got, want in pairs if got != want]
    if model.num_tasks != len(bank) or different:
        expected = different[0] if different else f"{len(bank)} tasks, got {model.num_tasks}"
        raise InputError(
            f"{path}: must have the tasks of {bank.path}: expected {expected}; export the bank "
            "again"
        )


def _samples(arguments: argparse.Namespace, model: Model) -> list[npt.NDArray[np.float32]]:
    """Shuffled test images of each task of the model, in its order.

    supsup-eval takes its sample from the beginning of the same shuffle, this is the end: while the
    test part suffices, an evaluation is not on the images of the calibration.
    """
    stream = stream_of(arguments, model)
    places = {name: place for place, name in enumerate(stream.task_names)}
    missing = [task.name for task in model.tasks if task.name not in places]
    if missing:
        raise InputError(
            f"{arguments.stream} stream: must have each task of {arguments.model}, has no "
            f"{missing[0]!r}; take the stream it was trained on"
        )
    samples = []
    for task in model.tasks:
        x = stream.task(places[task.name], train=False).test_x
        rows = np.random.RandomState(task.index).permutation(len(x))[-arguments.images :]
        samples.append(x[rows])
    return samples


def measure(
    model: Model,
    samples: Sequence[npt.NDArray[np.float32]],
    *,
    how: Inference,
    coverage: float,
) -> Measured:
    """Calibrate a model on single images of its tasks.

    The first half of each task's images, rounded up, makes the threshold, one for all tasks; the
    other half says what it accepts. Then each task is struck from the candidates in turn, for its
    own images and all others', and the best scores that remain are compared: a mask less among
    the candidates is what a model without the task would have.

    Args:
        model: Loaded.
        samples: ``float32 (images, *input_shape)``, images of each task, in index order; at least
            one of each.
        how: ``verified`` or ``exhaustive``.
        coverage: Fraction of the images to accept, at least, in ``(0, 1]``.

    Raises:
        InputError: If `how` makes no real forward passes or the model cannot do it, a sample is
            missing or empty, `coverage` is out of range, or scores are not finite.
    """
    score = resolved_score(model.info, how)
    if score is None:
        raise InputError(f"method must be one of {list(JUDGING)}, got {how.method!r}")
    if len(samples) != model.num_tasks or not all(len(x) for x in samples):
        raise InputError(
            f"samples must be at least one image of each of the {model.num_tasks} tasks, got "
            f"{[len(x) for x in samples]!s:.80}"
        )
    found = []
    for task, x in zip(model.tasks, samples, strict=True):
        found.append(_bests(model, x, how))
        sys.stderr.write(f"{task.name}: {task.index + 1} of {model.num_tasks}\n")
    halves = [np.split(bests.best, [(len(bests.best) + 1) // 2]) for bests in found]
    held_out = np.concatenate([half for half, _ in halves])
    others = np.concatenate([half for _, half in halves])
    threshold = calibrate(held_out, coverage)
    left_out = _leave_out(model, found, threshold)
    calibration = Calibration(
        score=score,
        threshold=threshold,
        coverage=float((held_out >= threshold).mean()),
        images=len(held_out),
        auroc=fmean(task.auroc for task in left_out) if left_out else None,
        accepted=float((others >= threshold).mean()) if len(others) else None,
    )
    return Measured(calibration=calibration, left_out=left_out)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bests:
    """Best scores of single images, and what they would be without a task.

    Attributes:
        best: ``float64 (images,)``.
        candidates: ``int64 (images, candidates)``, tasks that were tried, that of `best` first;
            it alone where all were tried.
        second: ``float64 (images,)``, best without that task, and with one candidate more.
        wider: ``float64 (images,)``, best of all, with one candidate more.
    """

    best: Scores
    candidates: npt.NDArray[np.int64]
    second: Scores
    wider: Scores

    def without(self, struck: int) -> Scores:
        """Best scores without a task: where it was a candidate, the next one is tried."""
        tried = (self.candidates == struck).any(axis=1)
        left = np.where(tried, self.wider, self.best)
        return np.where(self.candidates[:, 0] == struck, self.second, left)


def _bests(model: Model, x: npt.NDArray[np.float32], how: Inference) -> _Bests:
    """What is kept of the scores; those of all tasks would be too many with thousands."""
    chunks = [_chunk(model, x[at : at + _CHUNK], how) for at in range(0, len(x), _CHUNK)]
    return _Bests(
        **{name: np.concatenate([getattr(c, name) for c in chunks]) for name in _Bests.__slots__}
    )


def _chunk(model: Model, x: npt.NDArray[np.float32], how: Inference) -> _Bests:
    narrow, count = _infer(model, x, how), 1
    wide = narrow.copy()
    tried = how.candidates or DEFAULT_CANDIDATES
    if how.method == "verified" and tried < model.num_tasks:
        wide, count = _infer(model, x, replace(how, candidates=tried + 1)), tried
    candidates = np.argsort(-narrow, axis=1, kind="stable")[:, :count]
    wider = wide.max(axis=1)
    wide[np.arange(len(x)), candidates[:, 0]] = -np.inf
    return _Bests(
        best=narrow.max(axis=1), candidates=candidates, second=wide.max(axis=1), wider=wider
    )


def _infer(model: Model, x: npt.NDArray[np.float32], how: Inference) -> Scores:
    """Scores of single images, ``(images, tasks)``."""
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is refused below, in one line
        scores = np.stack([found.scores for found in model.infer_tasks(x, method=how)])
    if np.isnan(scores).any():
        raise InputError("scores must be numbers, got NaN: the model's logits are not finite")
    return scores


def _leave_out(model: Model, found: Sequence[_Bests], threshold: float) -> tuple[LeftOut, ...]:
    """Each task in turn as the unknown one; nothing where there is but one task."""
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


def _to_dict(measured: Measured, how: Inference) -> dict[str, Any]:
    left_out = measured.left_out
    worst = min(left_out, key=lambda task: task.auroc, default=None)
    return {
        **measured.calibration.to_dict(),
        "auroc_min": None if worst is None else worst.auroc,
        "auroc_min_task": None if worst is None else worst.task,
        "left_out": [
            {"auroc": task.auroc, "rejected": task.rejected, "task": task.task} for task in left_out
        ],
        "method": how.method,
        "rejected": fmean(task.rejected for task in left_out) if left_out else None,
    }


def _to_text(value: dict[str, Any], bank: Path) -> str:
    first = f"{bank}: known from a best score of {value['threshold']:.4g} on ({value['score']}, "
    first += f"{value['method']}), which keeps {value['coverage']:.2%} of {value['images']} images"
    lines = [first]
    if value["accepted"] is None:
        lines.append("  accepted of others: not measured, no images were left; raise --images")
    else:
        lines.append(f"  accepted of others: {value['accepted']:.2%}")
    if value["auroc"] is None:
        lines.append("  AUROC: not measured, as there is no other task to leave out")
    else:
        lines.append(
            f"  AUROC with a task left out: mean {value['auroc']:.4f}, least "
            f"{value['auroc_min']:.4f} ({value['auroc_min_task']}); rejected of the left-out "
            f"tasks' images: {value['rejected']:.2%}"
        )
    return "\n".join([*lines, "  export the bank again to have it in the model"])
