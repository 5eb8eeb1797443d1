"""A model as it was loaded: how it answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supsup_runtime.arrays import Floats, Given, Images, check_sequence, checked_whole
from supsup_runtime.errors import InputError
from supsup_runtime.model.engine import DEFAULT_CACHE_BYTES, Engine
from supsup_runtime.model.inference import (
    Auto,
    Inference,
    Method,
    TaskInference,
    adjustment_of,
    score_tasks,
    threshold_of,
)
from supsup_runtime.model.inputs import blank
from supsup_runtime.model.lookup import TaskKey, TaskLookup
from supsup_runtime.model.metadata import ModelInfo, TaskInfo

MAX_TRIED = 32
"""Tasks that are all tried by default, if their weights fit in the default cache: such passes take
as long as one-shot, and miss no task."""


class Loaded:
    """What a call of `Model` runs on from beginning to end, whatever is loaded meanwhile.

    Attributes:
        engine: Graph and cache.
        info: Metadata.
        tasks: The tasks, by name and index.
        place: Path of the model, for messages.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.info = engine.info
        self.tasks = TaskLookup(engine.info.tasks)
        self.place = engine.place

    def prepared(self, x: Given) -> Images:
        """Check a batch, see `Model.predict`."""
        return self.engine.inputs.checked(x)

    @property
    def _calibrated(self) -> Inference | None:
        """What the calibration found best, if the model can run it."""
        found = self.info.calibration
        if found is None or found.method is None or self.info.mode not in {"full", "known"}:
            return None
        if found.method == "verified" and self.info.mode == "known":
            return None
        return Inference(method=found.method, score=found.score, candidates=found.candidates)

    @property
    def _uncalibrated(self) -> Method:
        if self.info.mode == "full":
            return "exhaustive" if self.tries_all else "verified"
        return "exhaustive" if self.info.mode == "known" else "one-shot"

    @property
    def tries_all(self) -> bool:
        """See `Model.tries_all`."""
        count = len(self.info.tasks)
        return count <= MAX_TRIED and count * self.engine.task_bytes <= DEFAULT_CACHE_BYTES

    def how(self, wanted: Auto | Inference | None) -> Inference:
        """Return the settings of a method; by default the calibrated ones, see `Model.how`."""
        if wanted is None or (isinstance(wanted, str) and wanted == "auto"):
            return self._calibrated or Inference(method=self._uncalibrated)
        if not isinstance(wanted, Inference):
            return Inference(method=wanted)
        if wanted.score == "log-odds" and not self.info.network.superfluous_outputs:
            raise InputError(
                f"{self.place}: score log-odds needs superfluous outputs, the network has "
                "none; use entropy or max-probability"
            )
        return wanted

    def infer(
        self, x: Images, how: Inference, *, per_image: bool
    ) -> tuple[tuple[TaskInference, ...], Floats | None]:
        """Infer the task of the batch or of each row; the logits, if the method found them."""
        threshold = threshold_of(self.info, how)
        scores, passes, logits = score_tasks(
            self.engine, x, how, per_image=per_image, adjustment=adjustment_of(self.info, how)
        )
        inferences = tuple(
            TaskInference.from_scores(row, self.info.tasks, how.method, count, threshold)
            for row, count in zip(scores, passes, strict=True)
        )
        return inferences, logits

    def warm(self, tasks: Sequence[TaskKey], batch_size: int) -> None:
        """See `Model.warmup`."""
        engine = self.engine
        check_sequence("tasks", tasks)
        x = _blank(self.info, checked_whole("batch_size", batch_size, 1))
        indices = list(dict.fromkeys(self.tasks.find(task).index for task in tasks))
        if indices and not engine.keeps_weights:
            raise InputError(
                f"warmup: a model with outputs {list(engine.outputs)} cannot keep a task's "
                "weights; export with all outputs, or omit `tasks`"
            )
        if len(indices) > engine.max_cached:
            raise InputError(
                f"warmup: {len(indices)} tasks need {len(indices) * engine.task_bytes} bytes "
                f"of cache, got {engine.max_cached * engine.task_bytes}; load with a "
                "larger cache_bytes"
            )
        for index in indices:
            engine.known_logits(x, index)
        engine.warm(x)
        if not indices:
            self._try_all(x)

    def _try_all(self, x: Images) -> None:
        """Try all tasks once, if the default method does and they are few."""
        exhaustive = self.how(None).method == "exhaustive" and "logits" in self.engine.outputs
        if exhaustive and self.tries_all:
            self.infer(x, self.how(None), per_image=False)

    def inferred(
        self, x: Images, how: Inference, *, per_image: bool
    ) -> tuple[Sequence[TaskInfo], tuple[TaskInference, ...], Floats | None]:
        """Infer the task of each row; with the logits, as `infer`."""
        if self.info.mode == "infer":
            return self._by_graph(x, how, per_image=per_image)
        if how.method == "one-shot" and not per_image:  # the graph runs the best task, too
            logits, scores = self.engine.scored(x)
            found = TaskInference.from_scores(
                scores.astype(np.float64), self.info.tasks, "one-shot", 1
            )
            return (found.task,) * len(x), (found,), logits
        inferences, found_logits = self.infer(x, how, per_image=per_image)
        tasks = [inference.task for inference in inferences]
        if found_logits is not None:
            self.engine.keep_recurring(x, {task.index for task in tasks})
        return tasks if per_image else tasks * len(x), inferences, found_logits

    def _by_graph(
        self, x: Images, how: Inference, *, per_image: bool
    ) -> tuple[Sequence[TaskInfo], tuple[TaskInference, ...], Floats]:
        outputs = self.engine.outputs
        if how.method != "one-shot" or not {"logits", "task"} <= set(outputs):
            raise InputError(
                f"{self.place}: exported to infer only, with outputs {list(outputs)}: predict "
                "needs logits and task, and one-shot is the only method; export with all outputs"
            )
        groups = [x[row : row + 1] for row in range(len(x))] if per_image else [x]
        answers = [self.engine.inferred(group) for group in groups]
        tasks = [self.info.tasks[index] for _, index in answers]
        logits = np.concatenate([logits for logits, _ in answers])
        return tasks if per_image else tasks * len(x), (), logits

    def logits(self, x: Images, tasks: Sequence[TaskInfo]) -> Floats:
        """Run the network with the task of each row given."""
        if tasks.count(tasks[0]) == len(tasks):
            return self.engine.known_logits(x, tasks[0].index)
        indices = np.array([task.index for task in tasks])
        logits = np.empty((len(x), self.info.network.outputs), np.float32)
        for index in np.unique(indices):
            rows = np.flatnonzero(indices == index)
            logits[rows] = self.engine.known_logits(x[rows], int(index))
        return logits


def _blank(info: ModelInfo, rows: int) -> Images:
    try:
        return blank(info, rows)
    except (MemoryError, ValueError) as error:
        raise InputError(f"batch_size: {rows} rows do not fit in memory; take fewer") from error
