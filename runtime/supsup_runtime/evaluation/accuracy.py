"""Accuracy and speed of a model in the paper's scenarios."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Images, check_flag, check_kind, checked_whole, shown
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.data.streams import Stream, TaskData
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation import findings
from supsup_runtime.evaluation.findings import Answer
from supsup_runtime.model.inference import Auto, Inference, threshold_of
from supsup_runtime.model.model import Model
from supsup_runtime.model.prediction import Prediction

Progress = Callable[[str, int, int], object]
"""Called after each task with its name, tasks done and total."""
Rows = npt.NDArray[np.int64]
_CHUNK = 1000
_TIMED = 20
"""Number of single images timed for ``known_ms``."""
_KEYS = ("known", "unknown", "shared", "inferred", "known_ms", "unknown_ms", "chance")


def evaluate(
    model: Model,
    stream: Tasks,
    *,
    per_task: int = 100,
    batch_size: int = 1,
    method: Auto | Inference | None = None,
    unnamed: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a model on each task of a stream, as ``supsup-eval --json`` prints.

    Args:
        model: A loaded model.
        stream: The tasks, a `Stream` or `OwnTasks`; only test data are used.
        per_task: As in `evaluate_task`.
        batch_size: As in `evaluate_task`.
        method: As in `evaluate_task`.
        unnamed: Use `evaluate_unnamed`, for tasks found by a learner (NNs).
        progress: Called after each task.

    Returns:
        ``tasks``, a row per task; the mean of each measure over the tasks that have it, else None;
        ``batch``; ``method``; ``chance_inferred``, 1 / tasks of the model; ``confusion``, the 100
        most confused pairs of tasks with the share of the first's images; ``warnings``, where
        guessing does as well as the model, and what to do instead, or data are not of training.

    Raises:
        InputError: If the stream does not fit the model, or a number is out of range.
    """
    check_stream(model, stream)
    check_flag("unnamed", unnamed)
    check_progress(progress)
    how = model.how(method)
    of_task = evaluate_unnamed if unnamed else evaluate_task
    changed = [] if unnamed else findings.other_data(model, stream)
    rows = []
    for index in range(stream.num_tasks):
        data = stream.task(index, train=False)
        rows.append(of_task(model, data, per_task=per_task, batch_size=batch_size, method=how))
        if progress is not None:
            progress(data.name, index + 1, stream.num_tasks)
    judged = not unnamed and threshold_of(model.info, how) is not None
    keys = (*_KEYS, "rejected") if judged else _KEYS
    means: dict[str, float | None] = {}
    for key in keys:
        values = [row[key] for row in rows if row.get(key) is not None]
        means[key] = fmean(values) if values else None
    return {
        "batch": batch_size,
        "chance_inferred": 1 / model.num_tasks,
        "confusion": findings.confused_tasks(rows)[:100],
        "method": how.method,
        "tasks": rows,
        "warnings": changed + findings.warnings(rows, model.num_tasks, batch_size),
        **means,
    }


def check_stream(model: Model, stream: Tasks) -> None:
    """Raise InputError if inputs or classes are not the model's."""
    check_kind("model", model, Model, "a loaded model")
    kinds = "a Stream, from make_stream, or OwnTasks"
    check_kind("stream", stream, (Stream, OwnTasks), kinds)
    network = model.info.network
    if stream.input_shape != network.input_shape:
        raise InputError(
            f"{stream.place}: the model takes inputs {network.input_shape}, the data have "
            f"{stream.input_shape}"
        )
    if isinstance(stream, OwnTasks):
        _check_classes(model, stream)
    elif stream.real_outputs != network.real_outputs:
        raise InputError(
            f"{stream.kind}: the model has {network.real_outputs} real outputs, the stream's tasks "
            f"have {stream.real_outputs} classes; give --labels and --tasks as in training"
        )


def _check_classes(model: Model, tasks: OwnTasks) -> None:
    for name, labels in zip(tasks.task_names, tasks.task_labels, strict=True):
        own = model.task(name).labels
        if labels != own:
            raise InputError(
                f"{tasks.place}: classes of task {name!r} must be {shown(own)}, as the model has "
                f"them, got {shown(labels)}"
            )


def evaluate_task(
    model: Model,
    data: TaskData,
    *,
    per_task: int = 100,
    batch_size: int = 1,
    method: Auto | Inference | None = None,
) -> dict[str, Any]:
    """Evaluate one task with the task known and inferred.

    Args:
        model: A loaded model with a task of this name.
        data: The task; only test data are used.
        per_task: Test images to infer the task of, at least 0; a fixed sample per task.
        batch_size: Images per inferred batch, at least 1; the last may be smaller.
        method: As in `Model.infer_task`.

    Returns:
        Fractions in ``[0, 1]``, counts and times; None if not measured.

        - ``known``: correct labels of all test images, task given (GG).
        - ``unknown``: correct labels and tasks of the sample (GNu).
        - ``shared``: correct labels of the sample (GNs).
        - ``inferred``: correct tasks of the sample.
        - ``rejected``: rejected images of these, if calibrated for the method.
        - ``inferred_as``: images by inferred task.
        - ``chance``: accuracy of always answering the most frequent class.
        - ``classes``: test images by class and label answered, task given; ``labels``: the classes.
        - ``margins``: of the sample's scores, where the task is ``right`` and ``wrong``.
        - ``calibration``: images, right answers and sum of the label's probability in ten spans of
          this probability, task ``known`` (all test images) and ``unknown`` (the sample).
        - ``wrong``: at most 5 wrong answers: ``row`` of the test data, ``label``, ``answer``, its
          ``confidence``, and the task ``inferred``, None if it is right.
        - ``known_ms``, ``unknown_ms``: median time per image, per batch.
        - ``task``, ``images``, ``test_images``: name, sample size, test size.

    Raises:
        InputError: If `per_task` or `batch_size` is out of range.
    """
    _check_task(model, data)
    task, x = model.task(data.name), data.test_x
    batches = _batches(len(x), per_task, batch_size, seed=task.index)
    given: list[Answer] = []
    for rows in np.split(np.arange(len(x)), range(_CHUNK, len(x), _CHUNK)):
        given += findings.answers(data, rows, model.predict(x[rows], task.index))
    times = [_timed(model, x[i : i + 1], task.index)[1] for i in range(min(_TIMED, len(x)))]
    row, answers = _infer(model, data, batches, method)
    own = [answer for answer in answers if answer.task == task.name]
    row["inferred"] = _share(len(own), len(answers))
    row["inferred_as"] = dict(Counter(answer.task for answer in answers))
    row["known"] = sum(answer.right for answer in given) / len(given)
    row["known_ms"] = _median_ms(times)
    row["unknown"] = _share(sum(answer.right for answer in own), len(answers))
    if answers and answers[-1].known is not None:
        row["rejected"] = _share(sum(not answer.known for answer in own), len(own))
    return row | findings.of_task(data, given, answers)


def evaluate_unnamed(
    model: Model,
    data: TaskData,
    *,
    per_task: int = 100,
    batch_size: int = 1,
    method: Auto | Inference | None = None,
) -> dict[str, Any]:
    """Evaluate a task that has no named mask in the model (scenario NNs).

    Arguments are those of `evaluate_task`.

    Returns:
        ``shared`` (the paper's NNs), ``unknown_ms``, ``images``, ``test_images``, ``task``, as
        `evaluate_task`; ``mask``, the task inferred most often, and ``inferred``, its fraction.

    Raises:
        InputError: As `evaluate_task`.
    """
    _check_task(model, data)
    seed = int.from_bytes(data.name.encode()[-4:], "little")
    batches = _batches(len(data.test_x), per_task, batch_size, seed=seed)
    row, answers = _infer(model, data, batches, method)
    masks = Counter(answer.task for answer in answers)
    row["mask"], most = masks.most_common(1)[0] if masks else (None, 0)
    row["inferred"] = _share(most, len(answers))
    return row


def check_progress(progress: object) -> None:
    """Raise InputError unless `progress` is None or can be called."""
    if progress is not None and not callable(progress):
        raise InputError(f"progress must be a function, or None, got {shown(progress)}")


def _check_task(model: Model, data: TaskData) -> None:
    check_kind("model", model, Model, "a loaded model")
    check_kind("data", data, TaskData, "a TaskData, from Stream.task")
    if not len(data.test_x):
        raise InputError(f"task {data.name!r:.80}: must have a test image, got none")


def _infer(
    model: Model, data: TaskData, batches: list[Rows], method: Auto | Inference | None
) -> tuple[dict[str, Any], list[Answer]]:
    """Return the measures that both scenarios share."""
    answers: list[Answer] = []
    times: list[float] = []
    for rows in batches:
        prediction, milliseconds = _timed(model, data.test_x[rows], method=method)
        times.append(milliseconds)
        answers += findings.answers(data, rows, prediction)
    row = {
        "chance": findings.chance(data.test_y),
        "images": len(answers),
        "labels": list(data.labels),
        "shared": _share(sum(answer.right for answer in answers), len(answers)),
        "task": data.name,
        "test_images": len(data.test_x),
        "unknown_ms": _median_ms(times),
    }
    return row, answers


def _batches(count: int, per_task: int, batch_size: int, *, seed: int) -> list[Rows]:
    """Sample rows in batches; the stream of RandomState is stable across numpy versions."""
    per_task = checked_whole("per_task", per_task, 0)
    batch_size = checked_whole("batch_size", batch_size, 1)
    rows = np.sort(np.random.RandomState(seed).permutation(count)[:per_task])
    return np.split(rows, range(batch_size, len(rows), batch_size)) if len(rows) else []


def _timed(
    model: Model,
    x: Images,
    task: int | None = None,
    *,
    method: Auto | Inference | None = None,
) -> tuple[Prediction, float]:
    start = time.perf_counter()
    prediction = model.predict(x, task, method=method)
    return prediction, (time.perf_counter() - start) * 1e3


def _median_ms(times: list[float]) -> float | None:
    return round(median(times), 3) if times else None


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
