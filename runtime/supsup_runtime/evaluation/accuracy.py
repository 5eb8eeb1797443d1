"""Accuracy and speed of a model on a stream of tasks, in the paper's scenarios."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Images
from supsup_runtime.data.streams import Stream, TaskData
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import Inference, Method, threshold_of
from supsup_runtime.model.model import Model
from supsup_runtime.model.prediction import Prediction

Progress = Callable[[str, int, int], object]
"""Called after each task with its name, how many tasks are done, and how many there are."""
Rows = npt.NDArray[np.int64]
_CHUNK = 1000
_TIMED = 20
"""Single images whose median time is ``known_ms``."""
_KEYS = ("known", "unknown", "shared", "inferred", "known_ms", "unknown_ms")


def evaluate(
    model: Model,
    stream: Stream,
    *,
    per_task: int = 100,
    batch_size: int = 1,
    method: Method | Inference | None = None,
    unnamed: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate a model on each task of a stream: what ``supsup-eval --json`` prints.

    Args:
        model: A loaded model.
        stream: Its test parts are used.
        per_task: As `evaluate_task`; so are `batch_size` and `method`.
        batch_size: As there.
        method: As there.
        unnamed: The model's tasks were found by a learner and have names of their own (NNs).
        progress: Called after each task.

    Returns:
        ``tasks``, a row for each, of `evaluate_task` or, if `unnamed`, `evaluate_unnamed`; the mean
        of each of their numbers over the tasks that have it, None where none has; ``batch``, which
        is `batch_size`, and ``method``, by name.

    Raises:
        InputError: If the stream does not fit the model, or a number is out of range.
    """
    check_stream(model, stream)
    how = method or model.default_method
    if not isinstance(how, Inference):
        how = Inference(method=how)
    of_task = evaluate_unnamed if unnamed else evaluate_task
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
    return {"batch": batch_size, "method": how.method, "tasks": rows, **means}


def check_stream(model: Model, stream: Stream) -> None:
    """Refuse a stream whose inputs or number of classes are not the model's.

    Raises:
        InputError: If so.
    """
    network = model.info.network
    if stream.input_shape != network.input_shape:
        raise InputError(
            f"{stream.dataset.name}: the model takes inputs {network.input_shape}, the data have "
            f"{stream.input_shape}"
        )
    if stream.real_outputs != network.real_outputs:
        raise InputError(
            f"{stream.kind}: the model has {network.real_outputs} real outputs, the stream's tasks "
            f"have {stream.real_outputs} classes; give --labels and --tasks as in training"
        )


def evaluate_task(
    model: Model,
    data: TaskData,
    *,
    per_task: int = 100,
    batch_size: int = 1,
    method: Method | Inference | None = None,
) -> dict[str, Any]:
    """Evaluate one task, as the paper's scenarios do.

    Args:
        model: A loaded model that has a task of the data's name.
        data: Its test part is used.
        per_task: Test images whose task is inferred, at least 0: a sample of each task's own, the
            same in every run.
        batch_size: Images whose task is inferred together, at least 1; a last batch may be
            smaller.
        method: How to infer.

    Returns:
        Fractions in ``[0, 1]``: ``known``, of all test images, right with the task given (GG);
        of the sample, ``unknown``, right with the task inferred, where a wrong task counts as wrong
        even if the label agrees (GNu), ``shared``, where the label alone counts (GNs), and
        ``inferred``, of images whose task was inferred right; of these, ``rejected``, found to be
        of no known task, if the model is calibrated for the method. ``inferred_as`` counts images
        by the name of the task that they were inferred to. ``known_ms`` is the median of a single
        image, ``unknown_ms`` of a batch. What was not measured is None.

    Raises:
        InputError: If `per_task` or `batch_size` is out of range.
    """
    task, x = model.task(data.name), data.test_x
    batches = _batches(len(x), per_task, batch_size, seed=task.index)
    chunks = [model.predict(x[i : i + _CHUNK], task.index) for i in range(0, len(x), _CHUNK)]
    labels = np.concatenate([prediction.label_indices for prediction in chunks])
    times = [_timed(model, x[i : i + 1], task.index)[1] for i in range(min(_TIMED, len(x)))]
    row, answers = _infer(model, data, batches, method)
    own = [answer for answer in answers if answer.task == task.name]
    row["inferred"] = _share(len(own), len(answers))
    row["inferred_as"] = dict(Counter(answer.task for answer in answers))
    row["known"] = float((labels == data.test_y).mean())
    row["known_ms"] = _median_ms(times)
    row["unknown"] = _share(sum(answer.right for answer in own), len(answers))
    if answers and answers[-1].known is not None:
        row["rejected"] = _share(sum(not answer.known for answer in own), len(own))
    return row


def evaluate_unnamed(
    model: Model,
    data: TaskData,
    *,
    per_task: int = 100,
    batch_size: int = 1,
    method: Method | Inference | None = None,
) -> dict[str, Any]:
    """Evaluate a task that the model's masks are not named after (scenario NNs).

    Arguments and errors are those of `evaluate_task`.

    Returns:
        ``shared``, the fraction of the sample whose label is right through the inferred mask, as
        the paper counts NNs; ``mask``, the name of the mask that most images were inferred to, and
        ``inferred``, their fraction; ``unknown_ms``. What was not measured is None.
    """
    seed = int.from_bytes(data.name.encode()[-4:], "little")
    batches = _batches(len(data.test_x), per_task, batch_size, seed=seed)
    row, answers = _infer(model, data, batches, method)
    masks = Counter(answer.task for answer in answers)
    row["mask"], most = masks.most_common(1)[0] if masks else (None, 0)
    row["inferred"] = _share(most, len(answers))
    return row


class _Answer(NamedTuple):
    """An image whose task was inferred: which one, is the label right, is the task known."""

    task: str
    right: bool
    known: bool | None


def _infer(
    model: Model, data: TaskData, batches: list[Rows], method: Method | Inference | None
) -> tuple[dict[str, Any], list[_Answer]]:
    """What both scenarios report of a sample, and an answer for each of its images."""
    answers: list[_Answer] = []
    times: list[float] = []
    for rows in batches:
        prediction, milliseconds = _timed(model, data.test_x[rows], method=method)
        times.append(milliseconds)
        right = (prediction.label_indices == data.test_y[rows]).tolist()
        names = [task.name for task in prediction.tasks]
        answers += map(_Answer, names, right, prediction.known)
    row = {
        "images": len(answers),
        "shared": _share(sum(answer.right for answer in answers), len(answers)),
        "task": data.name,
        "test_images": len(data.test_x),
        "unknown_ms": _median_ms(times),
    }
    return row, answers


def _batches(count: int, per_task: int, batch_size: int, *, seed: int) -> list[Rows]:
    """A sample of `count` rows, in order, in batches; RandomState's stream is frozen by numpy."""
    for name, value, least in (("per_task", per_task, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    rows = np.sort(np.random.RandomState(seed).permutation(count)[:per_task])
    return np.split(rows, range(batch_size, len(rows), batch_size)) if len(rows) else []


def _timed(
    model: Model,
    x: Images,
    task: int | None = None,
    *,
    method: Method | Inference | None = None,
) -> tuple[Prediction, float]:
    start = time.perf_counter()
    prediction = model.predict(x, task, method=method)
    return prediction, (time.perf_counter() - start) * 1e3


def _median_ms(times: list[float]) -> float | None:
    return round(median(times), 3) if times else None


def _share(count: int, total: int) -> float | None:
    return count / total if total else None
