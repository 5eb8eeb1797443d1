"""What an evaluation shows beside accuracy: chance, confusion, margins, confidence, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Floats
from supsup_runtime.data.streams import TaskData
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.objectives import Score

Row = Mapping[str, Any]
MOST_WRONG = 5
"""Wrong answers kept per task."""
_BINS = 10
_BARS = 20
_PAIRS = 100
_NAMED = 5


class Answer(NamedTuple):
    """An image's task and label, with the task inferred; `margin` is that of its batch."""

    task: str
    right: bool
    known: bool | None
    row: int
    label: str
    confidence: float
    margin: float


class Seen(NamedTuple):
    """A task's answers with the task inferred; confidences and correct labels with it given."""

    answers: list[Answer]
    confidence: Floats
    right: npt.NDArray[np.bool_]


def summary(rows: Sequence[Row], seen: Sequence[Seen]) -> dict[str, Any]:
    """Return ``calibration``, ``confusion`` and ``margins``; see `evaluate`."""
    margins: dict[bool, list[float]] = {True: [], False: []}
    sure, right = [], []
    for row, details in zip(rows, seen, strict=True):
        for answer in details.answers:
            own = answer.task == row.get("mask", row["task"])
            margins[own].append(answer.margin)
            sure.append(answer.confidence)
            right.append(answer.right and own)
    given = (np.concatenate([each[k] for each in seen]) for k in (1, 2))
    return {
        "calibration": {"known": reliability(*given), "unknown": reliability(sure, right)},
        "confusion": confused_pairs(rows),
        "margins": margin_histogram(margins[True], margins[False]),
    }


def wrong(
    data: TaskData, row: int, answer: str, confidence: float, inferred: str | None = None
) -> dict[str, Any]:
    """Return an entry of ``wrong``; see `evaluate_task`."""
    return {
        "answer": answer,
        "confidence": round(float(confidence), 4),
        "inferred": inferred,
        "label": data.labels[data.test_y[row]],
        "row": int(row),
    }


def chosen(
    data: TaskData, labels: list[dict[str, Any]], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Choose wrong labels and, where there are any, two wrong tasks, the surest first."""
    lost = [answer for answer in answers if answer.task != data.name]
    lost = sorted(lost, key=lambda answer: -answer.confidence)[:MOST_WRONG]
    tasks = [wrong(data, a.row, a.label, a.confidence, a.task) for a in lost]
    return (labels[: MOST_WRONG - min(2, len(tasks))] + tasks)[:MOST_WRONG]


def chance(truth: npt.NDArray[np.int64]) -> float:
    """Return the accuracy of always answering the most frequent class."""
    return float(np.bincount(truth).max() / len(truth))


def confidences(prediction: Prediction) -> Floats:
    """Return the probability of each row's label among the real outputs, ``float32 (batch,)``."""
    logits = prediction.logits[:, : prediction.real_outputs]
    largest = logits.max(axis=1, keepdims=True)
    return np.asarray(1 / np.exp(logits - largest).sum(axis=1), np.float32)


def class_confusion(
    truth: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], classes: int
) -> list[list[int]]:
    """Count images by class and answer; more answers than `classes` if others were given."""
    counts = np.zeros((classes, max(classes, int(answers.max()) + 1)), np.int64)
    np.add.at(counts, (truth, answers), 1)
    return [[int(count) for count in row] for row in counts]


def reliability(confidence: npt.ArrayLike, right: npt.ArrayLike) -> list[dict[str, float]]:
    """Return mean confidence, accuracy and images of ten equal spans; empty ones are left out."""
    sure, correct = np.asarray(confidence, np.float64), np.asarray(right, bool)
    spans = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    return [
        {
            "accuracy": float(correct[spans == span].mean()),
            "confidence": float(sure[spans == span].mean()),
            "images": int((spans == span).sum()),
        }
        for span in np.unique(spans)
    ]


def margin_histogram(right: Sequence[float], wrong: Sequence[float]) -> dict[str, list[Any]]:
    """Count finite margins of right and wrong inferences in 20 equal spans from 0.

    The last span ends at the 98th percentile and counts larger ones too.
    """
    kept = [np.array(each, np.float64) for each in (right, wrong)]
    kept = [each[np.isfinite(each)] for each in kept]
    if not sum(map(len, kept)):
        return {"edges": [], "right": [], "wrong": []}
    end = float(np.quantile(np.concatenate(kept), 0.98)) or 1.0
    edges = np.linspace(0, end, _BARS + 1)
    counts = [np.histogram(np.clip(each, 0, end), edges)[0].tolist() for each in kept]
    return {"edges": edges.tolist(), "right": counts[0], "wrong": counts[1]}


def confused_pairs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return at most 100 pairs of a task and another that its images went to, most images first."""
    pairs = [
        {"images": count, "inferred": other, "share": count / row["images"], "task": row["task"]}
        for row in rows
        for other, count in row.get("inferred_as", {}).items()
        if other != row["task"]
    ]
    return sorted(pairs, key=lambda pair: -pair["share"])[:_PAIRS]


def confused_classes(rows: Sequence[Row]) -> list[tuple[str, str, float]]:
    """Return each class with its task, another answered for it and the share, largest first."""
    found = []
    for row in rows:
        for label, counts in enumerate(row.get("classes", ())):
            for answer, count in enumerate(counts):
                if count and answer != label:
                    name = f"{row['task']}: {row['labels'][label]}"
                    found.append((name, answer_name(row, answer), count / sum(counts)))
    return sorted(found, key=lambda each: -each[2])


def answer_name(row: Row, answer: int) -> str:
    """Return the class of an answer, or its number if the task has no such class."""
    labels: list[str] = row["labels"]
    return labels[answer] if answer < len(labels) else str(answer)


def warnings(
    rows: Sequence[Row], tasks: int, batch_size: int, method: str, score: Score | None
) -> list[str]:
    """Say in one line each where guessing does as well as the model, and what to do instead."""
    found = []
    poor = [row for row in rows if row.get("known", 1) <= row["chance"] < 1]
    if poor:
        listed = _listed([f"{row['task']} ({row['known']:.1%})" for row in poor])
        found.append(
            f"labels no better than the most frequent class, task given: {listed}; train longer, "
            "or with another learning rate"
        )
    inferred = [row for row in rows if row.get("inferred_as")]
    if not inferred or tasks == 1:
        return found
    images = sum(row["images"] for row in inferred)
    right = sum(row["inferred_as"].get(row["task"], 0) for row in inferred)
    lucky = images / tasks + 2 * sqrt(images * batch_size * (tasks - 1)) / tasks  # two deviations
    lost = [row for row in inferred if row["inferred"] <= 1 / tasks]
    remedies = _remedies(batch_size, method, score)
    if right <= lucky:
        found.append(
            f"tasks inferred no better than by guessing: {right} of {images} images right, "
            f"guessing gives {images / tasks:.0f}; {remedies}"
        )
    elif lost:
        listed = _listed([f"{row['task']} ({row['inferred']:.1%})" for row in lost])
        found.append(
            f"tasks inferred no better than by guessing ({1 / tasks:.1%}): {listed}; {remedies}"
        )
    return found


def _remedies(batch_size: int, method: str, score: Score | None) -> str:
    tips = ["give the task"]
    if batch_size == 1:
        tips.append("infer it from batches of one task (--batch-size 16)")
    if (method, score) != ("exhaustive", "entropy"):
        tips.append("try --method exhaustive --score entropy")
    tips.append("train with more superfluous outputs (--outputs)")
    return ", ".join(tips) + ", or take fewer similar tasks"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
