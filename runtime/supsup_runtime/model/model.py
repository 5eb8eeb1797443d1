"""Load an exported model, predict with it, infer tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import (
    Floats,
    Images,
    check_flag,
    check_sequence,
    checked_images,
    checked_index,
    checked_outputs,
    checked_path,
    checked_reals,
    checked_whole,
    shown,
)
from supsup_runtime.errors import InputError
from supsup_runtime.model.engine import Engine
from supsup_runtime.model.inference import (
    Inference,
    Method,
    TaskInference,
    score_tasks,
    threshold_of,
)
from supsup_runtime.model.loading import open_model
from supsup_runtime.model.metadata import TaskInfo
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import SessionOptions

DEFAULT_CACHE_BYTES = 64 << 20
MAX_CACHE_BYTES = 1 << 40


def load(
    path: str | Path,
    *,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    check_memory: bool = True,
    **session: Unpack[SessionOptions],
) -> Model:
    """Load a model made by `supsup-export`.

    Args:
        path: The ``.onnx`` file.
        cache_bytes: Cache for weights of recent tasks, in bytes, 0 for none. A task takes 4 bytes
            per masked weight and element of state.
        check_memory: Refuse a model whose loading takes more memory than is available.
        **session: ``device``, ``cpu`` (default) or ``cuda``, or ONNX Runtime ``providers``;
            ``threads`` per call (default 1), or ``sess_options``, an
            ``onnxruntime.SessionOptions``.

    Returns:
        The loaded model.

    Raises:
        ModelError: If the file is missing, not a supsup model, of another contract, recovers masks
            or needs too much memory; all checked before loading.
        FileError: If the system cannot open or read the file.
        ProviderUnavailableError: If onnxruntime or the provider is not available.
        InputError: If an argument is out of range.
    """
    cache_bytes = checked_whole("cache_bytes", cache_bytes, 0, MAX_CACHE_BYTES)
    check_flag("check_memory", check_memory)
    opened = open_model(checked_path(path), recovers=False, check_memory=check_memory, **session)
    return Model(Engine(opened, cache_bytes=cache_bytes))


class Model:
    """A loaded model, safe to call from several threads.

    Pickling or copying it loads the same file again, if its content is still the same; a model
    loaded with `sess_options` refuses.

    Attributes:
        info: Metadata of the model.
        num_tasks: Number of tasks.
        place: Path of the model, for messages.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_name = {task.name: task for task in engine.info.tasks}
        self.info = engine.info
        self.num_tasks = engine.num_tasks
        self.place = engine.place

    def __reduce__(self) -> tuple[object, ...]:
        return self._engine.origin.reduced(load)

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks, in index order."""
        return self.info.tasks

    @property
    def cached_bytes(self) -> int:
        """Bytes of cached weights; `load` sets the limit."""
        return self._engine.cached_bytes

    def task(self, key: int | str) -> TaskInfo:
        """Return a task by name or index.

        Args:
            key: Name, or index in ``[0, num_tasks)``.

        Raises:
            InputError: If the task does not exist; negative indices and booleans are refused.
        """
        if isinstance(key, str):
            if key in self._by_name:
                return self._by_name[key]
            names = [task.name for task in self.tasks[:3]] + ["..."] * (self.num_tasks > 3)
            raise InputError(
                f"task {shown(key)}: not among the {self.num_tasks} tasks of the model "
                f"({', '.join(names)})"
            )
        return self.tasks[checked_index("task index", key, self.num_tasks)]

    def predict(
        self,
        x: Images,
        task: int | str | Sequence[int | str] | None = None,
        *,
        per_image: bool = False,
        method: Method | Inference | None = None,
    ) -> Prediction:
        """Run the network on a batch.

        Args:
            x: ``float32 (batch, *input_shape)``, finite, at least one row.
            task: Name or index, one for all rows or one per row; None infers the task.
            per_image: Infer the task of each row separately; rows of a task run together.
            method: As in `infer_task`.

        Returns:
            Logits and tasks of the rows.

        Raises:
            InputError: If `x` or the task is invalid, `task` is combined with `per_image` or
                `method`, the model lacks a required output, or logits or scores are not finite.
        """
        x = checked_images(x, self.info.network.input_shape)
        check_flag("per_image", per_image)
        if task is None:
            return self._predict_unknown(x, self._how(method), per_image=per_image)
        if per_image or method is not None:
            given = "method" if method is not None else "per_image"
            raise InputError(
                f"{given}: applies only if the task is inferred, got task {shown(task)}; omit one "
                "of the two"
            )
        if isinstance(task, (str, int, np.generic)):
            chosen = self.task(task)
            return self._answer(self._engine.known_logits(x, chosen.index), (chosen,) * len(x))
        check_sequence("task", task, "a name, an index or a list of them")
        if len(task) != len(x):
            raise InputError(
                f"task: expected one name or index, or one for each of the {len(x)} rows, got "
                f"{len(task)}"
            )
        tasks = [self.task(key) for key in task]
        return self._answer(self._mixed_logits(x, tasks), tasks)

    def logits(self, x: Images, task: int | str) -> Floats:
        """Return the logits of a known task.

        Args:
            x: As in `predict`.
            task: Name or index.

        Returns:
            ``float32 (batch, outputs)``, superfluous outputs included.

        Raises:
            InputError: As `predict`.
        """
        x = checked_images(x, self.info.network.input_shape)
        logits = self._engine.known_logits(x, self.task(task).index)
        return checked_outputs(logits, "logits", self.place)

    def warmup(self, tasks: Sequence[int | str] = (), *, batch_size: int = 1) -> None:
        """Prepare memory, threads and weights for the first calls.

        Args:
            tasks: Names or indices of tasks to cache.
            batch_size: Rows of later batches, at least 1.

        Raises:
            InputError: If a task does not exist, they exceed the cache, the model cannot cache
                weights, or `batch_size` is out of range.
        """
        check_sequence("tasks", tasks)
        blank = self._blank(checked_whole("batch_size", batch_size, 1))
        indices = list(dict.fromkeys(self.task(task).index for task in tasks))
        if indices and not self._engine.keeps_weights:
            raise InputError(
                f"warmup: a model with outputs {list(self._engine.outputs)} cannot keep a task's "
                "weights; export with all outputs, or omit `tasks`"
            )
        if len(indices) > self._engine.max_cached:
            raise InputError(
                f"warmup: {len(indices)} tasks need {len(indices) * self._engine.task_bytes} bytes "
                f"of cache, got {self._engine.max_cached * self._engine.task_bytes}; load with a "
                "larger cache_bytes"
            )
        for index in indices:
            self._engine.known_logits(blank, index)
        self._engine.warm(blank)

    def infer_task(self, x: Images, *, method: Method | Inference | None = None) -> TaskInference:
        """Infer the task of a batch in which all rows have the same task.

        Args:
            x: As in `predict`.
            method: Name, or an `Inference` with settings; None takes `default_method`.

        Returns:
            The task and the scores of all tasks.

        Raises:
            InputError: As `predict`.
        """
        x = checked_images(x, self.info.network.input_shape)
        return self._infer(x, self._how(method), per_image=False)[0][0]

    def infer_tasks(
        self, x: Images, *, method: Method | Inference | None = None
    ) -> tuple[TaskInference, ...]:
        """Infer the task of each row separately.

        Args:
            x: As in `predict`.
            method: As in `infer_task`.

        Returns:
            One inference per row.

        Raises:
            InputError: As `predict`.
        """
        x = checked_images(x, self.info.network.input_shape)
        return self._infer(x, self._how(method), per_image=True)[0]

    def superpose(self, x: Images, tasks: Sequence[int | str], alphas: npt.ArrayLike) -> Floats:
        """Return the logits of a superposition of masks (paper, equation 2).

        Args:
            x: As in `predict`.
            tasks: Names or indices, at least one.
            alphas: ``float (len(tasks),)``, finite; they need not sum to 1.

        Returns:
            ``float32 (batch, outputs)``.

        Raises:
            InputError: As `predict`, or if lengths differ or an alpha is not a finite float32.
        """
        check_sequence("tasks", tasks)
        given = checked_reals("alphas", alphas)
        if given.shape != (len(tasks),) or not len(tasks):
            raise InputError(
                f"alphas must have one value per task, for at least one task: expected shape "
                f"({max(1, len(tasks))},), got {given.shape}"
            )
        with np.errstate(over="ignore"):  # too large becomes infinite
            weights = given.astype(np.float32)
        if not np.isfinite(weights).all():
            raise InputError("alphas must be finite float32, got NaN or infinity")
        indices = [self.task(task).index for task in tasks]
        x = checked_images(x, self.info.network.input_shape)
        logits = self._engine.superposed(x, indices, weights)
        return checked_outputs(logits, "logits", self.place)

    def _blank(self, rows: int) -> Images:
        try:
            return np.zeros((rows, *self.info.network.input_shape), np.float32)
        except (MemoryError, ValueError) as error:
            raise InputError(f"batch_size: {rows} rows do not fit in memory; take fewer") from error

    @property
    def default_method(self) -> Method:
        """Default method: ``verified`` if the model supports it."""
        by_mode: dict[str, Method] = {"full": "verified", "known": "exhaustive"}
        return by_mode.get(self.info.mode, "one-shot")

    def _how(self, wanted: Method | Inference | None) -> Inference:
        if not isinstance(wanted, Inference):
            return Inference(method=self.default_method if wanted is None else wanted)
        if wanted.score == "log-odds" and not self.info.network.superfluous_outputs:
            raise InputError(
                f"{self.place}: score log-odds needs superfluous outputs, the network has "
                "none; use entropy or max-probability"
            )
        return wanted

    def _infer(
        self, x: Images, how: Inference, *, per_image: bool
    ) -> tuple[tuple[TaskInference, ...], Floats | None]:
        threshold = threshold_of(self.info, how)
        scores, passes, logits = score_tasks(self._engine, x, how, per_image=per_image)
        inferences = tuple(
            TaskInference.from_scores(row, self.tasks, how.method, count, threshold)
            for row, count in zip(scores, passes, strict=True)
        )
        return inferences, logits

    def _predict_unknown(self, x: Images, how: Inference, *, per_image: bool) -> Prediction:
        if self.info.mode == "infer":
            return self._predict_inferring(x, how, per_image=per_image)
        if how.method == "one-shot" and not per_image:
            return self._predict_one_shot(x)
        inferences, logits = self._infer(x, how, per_image=per_image)
        tasks = [inference.task for inference in inferences]
        if not per_image:
            tasks *= len(x)
        if logits is None:
            logits = self._mixed_logits(x, tasks)
        else:
            self._engine.keep_recurring(x, {task.index for task in tasks})
        return self._answer(logits, tasks, inferences)

    def _predict_one_shot(self, x: Images) -> Prediction:
        logits, scores = self._engine.scored(x)
        inference = TaskInference.from_scores(scores.astype(np.float64), self.tasks, "one-shot", 1)
        return self._answer(logits, (inference.task,) * len(x), (inference,))

    def _predict_inferring(self, x: Images, how: Inference, *, per_image: bool) -> Prediction:
        outputs = self._engine.outputs
        if how.method != "one-shot" or not {"logits", "task"} <= set(outputs):
            raise InputError(
                f"{self.place}: exported to infer only, with outputs {list(outputs)}: predict "
                "needs logits and task, and one-shot is the only method; export with all outputs"
            )
        groups = [x[row : row + 1] for row in range(len(x))] if per_image else [x]
        answers = [self._engine.inferred(group) for group in groups]
        tasks = [self.tasks[index] for _, index in answers]
        logits = np.concatenate([logits for logits, _ in answers])
        return self._answer(logits, tasks if per_image else tasks * len(x), ())

    def _mixed_logits(self, x: Images, tasks: list[TaskInfo]) -> Floats:
        indices = np.array([task.index for task in tasks])
        if (indices == indices[0]).all():
            return self._engine.known_logits(x, tasks[0].index)
        logits = np.empty((len(x), self.info.network.outputs), np.float32)
        for index in np.unique(indices):
            rows = np.flatnonzero(indices == index)
            logits[rows] = self._engine.known_logits(x[rows], int(index))
        return logits

    def _answer(
        self,
        logits: Floats,
        tasks: Sequence[TaskInfo],
        inferences: tuple[TaskInference, ...] = (),
    ) -> Prediction:
        return Prediction(
            logits=checked_outputs(logits, "logits", self.place),
            real_outputs=self.info.network.real_outputs,
            tasks=tuple(tasks),
            inferences=inferences,
        )
