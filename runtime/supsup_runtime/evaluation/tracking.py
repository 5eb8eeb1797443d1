"""The tracker on a stream that stays in a task for some frames, then goes to another."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from supsup_runtime.arrays import Images, Labels, checked_whole, shown
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation.accuracy import check_stream
from supsup_runtime.model.inference import Auto, Inference
from supsup_runtime.model.model import Model

Run = tuple[int, Images, Labels]
"""Index of the task in the model, frames one after the other, and their labels."""


def evaluate_tracker(
    model: Model,
    stream: Tasks,
    *,
    stay: int = 30,
    switch: float = 0.02,
    per_task: int = 100,
    method: Auto | Inference | None = None,
) -> dict[str, Any]:
    """Compare a tracker with single frames, on test images in runs of one task.

    Each round has one run of each task, in random order; a run is of another task than the one
    before, if there is another.

    Args:
        model: A loaded model.
        stream: The tasks, as in `evaluate`.
        stay: Frames of a run, at least 1.
        switch: As in `Model.tracker`.
        per_task: Test images of each task to sample, at least `stay`; what does not fill a run is
            left out.
        method: As in `Model.tracker`.

    Returns:
        ``frames``, ``stay``, ``switch``; fractions of frames: ``inferred`` and ``single``, the
        right task by the tracker and from each frame alone; ``unknown``, the right task and label;
        ``refused``, no known task, None if not calibrated; ``ms``, the median time per frame.

    Raises:
        InputError: As `evaluate` and `Model.tracker`, or if a task has fewer images than a run.
    """
    check_stream(model, stream)
    tracker = model.tracker(switch, method=method)
    counts = dict.fromkeys(("inferred", "single", "unknown", "refused"), 0)
    times: list[float] = []
    known: bool | None = None
    for task, x, y in _runs(model, stream, checked_whole("stay", stay, 1), per_task):
        alone = model.infer_tasks(x, method=method)
        for row, inference in enumerate(alone):
            start = perf_counter()
            found = tracker.update(x[row : row + 1])
            times.append(1e3 * (perf_counter() - start))
            known, answer = found.known, found.prediction
            right = found.task is not None and found.task.index == task
            counts["inferred"] += right
            counts["single"] += inference.task.index == task
            counts["unknown"] += right and answer is not None and answer.label_indices[0] == y[row]
            counts["refused"] += found.task is None
    shares: dict[str, Any] = {key: count / len(times) for key, count in counts.items()}
    if known is None:
        shares["refused"] = None
    settings = {"frames": len(times), "stay": stay, "switch": switch}
    return {**settings, **shares, "ms": round(median(times), 3)}


def _runs(model: Model, stream: Tasks, stay: int, per_task: int) -> Iterator[Run]:
    per_task = checked_whole("per_task", per_task, stay)  # to fill a run
    sampled = []
    for place in range(stream.num_tasks):
        data = stream.task(place, train=False)
        if len(data.test_x) < stay:
            raise InputError(
                f"stay: task {shown(data.name)} must have at least {stay} test images, got "
                f"{len(data.test_x)}; take a shorter one"
            )
        index = model.task(data.name).index
        rows = np.random.RandomState(index).permutation(len(data.test_x))[:per_task]
        sampled.append((index, data.test_x[rows], data.test_y[rows]))
    random, last = np.random.RandomState(0), -1
    for start in range(0, min(len(x) for _, x, _ in sampled) - stay + 1, stay):
        order = random.permutation(len(sampled))
        if order[0] == last:
            order = np.roll(order, 1)
        last = int(order[-1])
        for place in order:
            index, x, y = sampled[place]
            yield index, x[start : start + stay], y[start : start + stay]
