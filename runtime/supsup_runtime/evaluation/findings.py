"""What an evaluation shows beside accuracy: chance, confusion, margins, confidence, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from supsup_runtime.data.own import Tasks
from supsup_runtime.data.streams import Stream, TaskData
from supsup_runtime.model.model import Model
from supsup_runtime.model.prediction import Prediction

Row = Mapping[str, Any]
Pair = tuple[str, str, float]
"""What was taken, for what, and the share of its images."""
SPANS = 10
"""Equal spans of confidence."""
_WRONG = 5
_NAMED = 5


class Answer(NamedTuple):
    """The answer to one image; `margin` is that of its batch."""

    row: int
    right: bool
    label: int
    name: str
    confidence: float
    task: str
    known: bool | None
    margin: float


def answers(data: TaskData, rows: npt.NDArray[np.int64], prediction: Prediction) -> list[Answer]:
    """Return the answers to rows of the test data, predicted with one task."""
    labels, confidence = prediction.label_indices, prediction.confidence
    columns = [rows, labels == data.test_y[rows], labels, prediction.labels, confidence]
    names = [task.name for task in prediction.tasks]
    margin = prediction.inferences[0].margin if prediction.inferences else np.inf
    lists = [each.tolist() if isinstance(each, np.ndarray) else each for each in columns]
    margins = [margin] * len(rows)
    return list(map(Answer, *lists, names, prediction.known, margins))


def of_task(data: TaskData, given: Sequence[Answer], inferred: Sequence[Answer]) -> dict[str, Any]:
    """Return the fields of `evaluate_task` from the answers with the task given and inferred."""
    surest = sorted([*given, *inferred], key=lambda answer: -answer.confidence)
    lost = [answer for answer in surest if answer.task != data.name][:2]
    mistaken = {a.row: a for a in surest if a.task == data.name and not a.right}
    wrong = [*mistaken.values()][: _WRONG - len(lost)] + lost
    labels = np.array([answer.label for answer in given])
    classes = np.zeros((len(data.labels), max(len(data.labels), labels.max() + 1)), np.int64)
    np.add.at(classes, (data.test_y, labels), 1)
    margins: dict[str, list[float]] = {"right": [], "wrong": []}
    for answer in inferred:
        if isfinite(answer.margin):
            kind = "right" if answer.task == data.name else "wrong"
            margins[kind].append(float(f"{answer.margin:.5g}"))
    return {
        "calibration": {"known": _spans(data, given), "unknown": _spans(data, inferred)},
        "classes": classes.tolist(),
        "margins": margins,
        "wrong": [
            {
                "answer": answer.name,
                "confidence": round(answer.confidence, 4),
                "inferred": answer.task if answer.task != data.name else None,
                "label": data.labels[data.test_y[answer.row]],
                "row": answer.row,
            }
            for answer in wrong
        ],
    }


def _spans(data: TaskData, found: Sequence[Answer]) -> list[list[float]]:
    sums = [[0, 0, 0.0] for _ in range(SPANS)]
    for answer in found:
        span = sums[min(int(answer.confidence * SPANS), SPANS - 1)]
        right = answer.right and answer.task == data.name
        for k, value in enumerate((1, right, answer.confidence)):
            span[k] += value
    return sums


def chance(truth: npt.NDArray[np.int64]) -> float:
    """Return the accuracy of always answering the most frequent class."""
    return float(np.bincount(truth).max() / len(truth))


def confused_tasks(rows: Sequence[Row]) -> list[Pair]:
    """Return each task and another that its images went to, the largest share first."""
    pairs = [
        (row["task"], other, count / row["images"])
        for row in rows
        for other, count in row.get("inferred_as", {}).items()
        if other != row["task"]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def confused_classes(rows: Sequence[Row]) -> list[Pair]:
    """Return each class, named with its task, and another answered for it, as above."""
    pairs = [
        (f"{row['task']}: {label}", answer_name(row, answer), count / sum(counts))
        for row in rows
        for label, counts in zip(row["labels"], row.get("classes", ()), strict=False)
        for answer, count in enumerate(counts)
        if count and answer_name(row, answer) != label
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def answer_name(row: Row, answer: int) -> str:
    """Return the class of an answer, or its number if the task has no such class."""
    return row["labels"][answer] if answer < len(row["labels"]) else str(answer)


def other_data(model: Model, stream: Tasks) -> list[str]:
    """Say in one line each which tasks were learned from other data, or with another seed."""
    found: dict[str, list[str]] = {}
    for index, name in enumerate(stream.task_names):
        origin = model.task(name).origin
        has: dict[str, str | int] = {**stream.origin(index)}
        if isinstance(stream, Stream):
            has["seed"] = stream.seed
        for key in ("stream", "seed", "data"):
            if key in origin and origin[key] != has.get(key):
                what = "from other data" if key == "data" else f"with {key} {origin[key]}"
                found.setdefault(f"learned {what}, got {has.get(key)}", []).append(name)
                break
    return [
        f"{len(names)} tasks, such as {names[0]}, were {what:.200}; give the data and options of "
        "training, or train again"
        for what, names in found.items()
    ]


def warnings(rows: Sequence[Row], tasks: int, batch_size: int) -> list[str]:
    """Say in one line each where guessing does as well as the model, and what to do instead."""
    found = []
    poor = [row for row in rows if row.get("known", 1) <= row["chance"] < 1]
    if poor:
        found.append(
            f"labels no better than the most frequent class, task given: {_listed(poor, 'known')}; "
            "train longer, or with another learning rate"
        )
    rows = [row for row in rows if row.get("inferred_as")] if tasks > 1 else []
    images = sum(row["images"] for row in rows)
    right = sum(row["inferred_as"].get(row["task"], 0) for row in rows)

    def lucky(images: int, deviations: int) -> float:
        return (images + deviations * sqrt(images * batch_size * (tasks - 1))) / tasks

    lost = [row for row in rows if row["inferred"] * row["images"] <= lucky(row["images"], 1)]
    if rows and right <= lucky(images, 2):
        where = f"{right} of {images} images right, guessing gives {images / tasks:.0f}"
    elif lost:
        where = f"{_listed(lost, 'inferred')}; guessing gives {1 / tasks:.1%}"
    else:
        return found
    tips = ["instead give the task"]
    if batch_size == 1:
        tips.append("infer it from batches of one task (--batch-size 16)")
    tips.append("calibrate (supsup-calibrate)")
    tips.append("or train with --negatives memory or others, or with more --outputs")
    return [*found, f"tasks inferred no better than by guessing: {where}; {', '.join(tips)}"]


def _listed(rows: Sequence[Row], key: str) -> str:
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(f"{row['task']} ({row[key]:.1%})" for row in rows[:_NAMED]) + more
