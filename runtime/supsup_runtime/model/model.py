"""An exported model, loaded: predict with the task known or unknown, infer the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Array, Floats, Images, checked_images, checked_outputs
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
    """Load a model that `supsup-export` made.

    Args:
        path: The ``.onnx`` file.
        cache_bytes: Weights of recent tasks to keep, in bytes; 0 keeps none. A task takes 4 bytes
            per masked weight; `Model.cached_bytes` says what is taken.
        check_memory: Refuse a model that takes more memory than is available while it loads.
        **session: ``device``, ``cpu`` (the default) or ``cuda``: one that is not there is an error.
            ``threads`` of one call, 1 by default. In place of `threads` an
            ``onnxruntime.SessionOptions``, ``sess_options``; in place of `device` the
            ``providers`` of ONNX Runtime.

    Raises:
        ModelError: If the file is missing, not a model of supsup, of another contract, one that
            recovers masks, or too large for the memory available; all before it is loaded.
        ProviderUnavailableError: If onnxruntime or the provider is not there.
        InputError: If an argument is out of range.
    """
    if not isinstance(cache_bytes, int) or not 0 <= cache_bytes <= MAX_CACHE_BYTES:
        raise InputError(
            f"cache_bytes must be an integer in [0, {MAX_CACHE_BYTES}], got {cache_bytes!r}"
        )
    opened = open_model(path, recovers=False, check_memory=check_memory, **session)
    return Model(Engine(opened.session, opened.forward, opened.info, cache_bytes=cache_bytes))


class Model:
    """A loaded model. Calls are independent, from any number of threads.

    Attributes:
        info: Its metadata.
        num_tasks: Number of tasks.
        place: What messages call it: its path.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._by_name = {task.name: task for task in engine.info.tasks}
        self.info = engine.info
        self.num_tasks = engine.num_tasks
        self.place = engine.place

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks, in index order."""
        return self.info.tasks

    @property
    def cached_bytes(self) -> int:
        """Bytes that the weights of recent tasks take now; `load` sets the limit."""
        return self._engine.cached_bytes

    def task(self, key: int | str) -> TaskInfo:
        """A task by name or index.

        Raises:
            InputError: If there is none; a negative index, which ONNX would count from the end,
                included.
        """
        if isinstance(key, str):
            if key in self._by_name:
                return self._by_name[key]
            names = ", ".join(task.name for task in self.tasks[:3])
            raise InputError(
                f"task {key!r}: not among the {self.num_tasks} of the model ({names}, ...)"
            )
        if not 0 <= key < self.num_tasks:
            raise InputError(f"task index must be in [0, {self.num_tasks}), got {key}")
        return self.tasks[key]

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
            task: Name or index, for all rows or one for each; None infers it.
            per_image: Infer the task of each row on its own. Rows are grouped by task, so that a
                mixed batch runs each task once.
            method: How to infer: a name, or an `Inference` with settings; see `infer_task`.

        Raises:
            InputError: If `x` breaks its shape, type or range, the task is not there, it is given
                together with `per_image` or `method`, the model was exported without what the
                call needs, or logits or scores are not finite.
        """
        x = checked_images(x, self.info.network.input_shape)
        if task is None:
            return self._predict_unknown(x, self._how(method), per_image=per_image)
        if per_image or method is not None:
            given = "method" if method is not None else "per_image"
            raise InputError(
                f"{given}: is for a task that is inferred, got task {task!r:.80}; leave out one "
                "of the two"
            )
        if isinstance(task, (int, str, np.integer)):
            chosen = self.task(task)
            return self._answer(self._engine.known_logits(x, chosen.index), (chosen,) * len(x))
        if len(task) != len(x):
            raise InputError(
                f"task: expected one name or index, or one for each of the {len(x)} rows, got "
                f"{len(task)}"
            )
        tasks = [self.task(key) for key in task]
        return self._answer(self._mixed_logits(x, tasks), tasks)

    def logits(self, x: Images, task: int | str) -> Floats:
        """Logits through one task's mask: what `predict` does, and nothing around it.

        Args:
            x: ``float32 (batch, *input_shape)``, finite, at least one row.
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
        """Do now what the first calls would wait for: memory, threads, the tasks' weights.

        Args:
            tasks: Names or indices of tasks whose weights to keep; more than the cache holds is
                an error.
            batch_size: Rows of the batches to come, at least 1.

        Raises:
            InputError: If a task is not there, the tasks do not fit the cache, the model cannot
                keep weights, or `batch_size` is out of range.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        indices = list(dict.fromkeys(self.task(task).index for task in tasks))
        if indices and not self._engine.keeps_weights:
            raise InputError(
                f"warmup: a model with outputs {list(self._engine.outputs)} cannot keep a task's "
                "weights; export with all outputs, or leave the tasks out"
            )
        if len(indices) > self._engine.max_cached:
            raise InputError(
                f"warmup: {len(indices)} tasks need {len(indices) * self._engine.task_bytes} bytes "
                f"of cache, there are {self._engine.max_cached * self._engine.task_bytes}; load "
                "with a larger cache_bytes"
            )
        blank = np.zeros((batch_size, *self.info.network.input_shape), np.float32)
        for index in indices:
            self._engine.known_logits(blank, index)
        self._engine.warm(blank)

    def infer_task(self, x: Images, *, method: Method | Inference | None = None) -> TaskInference:
        """Infer the task of a batch whose rows all have the same.

        Args:
            x: ``float32 (batch, *input_shape)``.
            method: A method's name, or an `Inference` with settings of its own; None takes
                ``verified``, or what the model was exported for.

        Raises:
            InputError: As `predict`.
        """
        x = checked_images(x, self.info.network.input_shape)
        return self._infer(x, self._how(method), per_image=False)[0][0]

    def infer_tasks(
        self, x: Images, *, method: Method | Inference | None = None
    ) -> tuple[TaskInference, ...]:
        """Infer the task of each row on its own; arguments as `infer_task`."""
        x = checked_images(x, self.info.network.input_shape)
        return self._infer(x, self._how(method), per_image=True)[0]

    def superpose(self, x: Images, tasks: Sequence[int | str], alphas: npt.ArrayLike) -> Floats:
        """Logits through a superposition of masks (paper, equation 2).

        Args:
            x: ``float32 (batch, *input_shape)``.
            tasks: Names or indices, at least one.
            alphas: ``float (len(tasks),)``, finite; they need not sum to 1.

        Returns:
            ``float32 (batch, outputs)``.

        Raises:
            InputError: If lengths differ, a task is not there, an alpha is no finite float32, or
                logits are not finite.
        """
        with np.errstate(over="ignore"):  # what float32 has not becomes infinite
            weights = _real(alphas).astype(np.float32)
        if weights.shape != (len(tasks),) or not len(tasks):
            raise InputError(
                f"alphas must have one value for each of at least one task: expected shape "
                f"({max(1, len(tasks))},), got {weights.shape}"
            )
        if not np.isfinite(weights).all():
            raise InputError("alphas must be finite float32, got NaN or infinity")
        indices = [self.task(task).index for task in tasks]
        x = checked_images(x, self.info.network.input_shape)
        logits = self._engine.superposed(x, indices, weights)
        return checked_outputs(logits, "logits", self.place)

    @property
    def default_method(self) -> Method:
        """How the task is inferred unless a call says otherwise."""
        by_mode: dict[str, Method] = {"full": "verified", "known": "exhaustive"}
        return by_mode.get(self.info.mode, "one-shot")

    def _how(self, wanted: Method | Inference | None) -> Inference:
        if not isinstance(wanted, Inference):
            return Inference(method=wanted or self.default_method)
        if wanted.score == "log-odds" and not self.info.network.superfluous_outputs:
            raise InputError(
                f"{self.place}: score log-odds needs superfluous outputs, the network has "
                "none; take entropy or max-probability"
            )
        return wanted

    def _infer(
        self, x: Images, how: Inference, *, per_image: bool
    ) -> tuple[tuple[TaskInference, ...], Floats | None]:
        """One inference for the batch, or one for each row; and logits, as `score_tasks` has."""
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
            self._engine.keep_recurring({task.index for task in tasks})
        return self._answer(logits, tasks, inferences)

    def _predict_one_shot(self, x: Images) -> Prediction:
        """One run of the graph: its logits are those of the task that it infers."""
        logits, scores = self._engine.scored(x)
        inference = TaskInference.from_scores(scores.astype(np.float64), self.tasks, "one-shot", 1)
        return self._answer(logits, (inference.task,) * len(x), (inference,))

    def _predict_inferring(self, x: Images, how: Inference, *, per_image: bool) -> Prediction:
        """Predict with a model that always infers: it answers through its own one-shot task."""
        outputs = self._engine.outputs
        if how.method != "one-shot" or not {"logits", "task"} <= set(outputs):
            raise InputError(
                f"{self.place}: exported to infer only, with outputs {list(outputs)}: predicting "
                "takes logits and task, and one-shot is the only method; export with all outputs"
            )
        groups = [x[row : row + 1] for row in range(len(x))] if per_image else [x]
        answers = [self._engine.inferred(group) for group in groups]
        tasks = [self.tasks[index] for _, index in answers]
        logits = np.concatenate([logits for logits, _ in answers])
        return self._answer(logits, tasks if per_image else tasks * len(x), ())

    def _mixed_logits(self, x: Images, tasks: list[TaskInfo]) -> Floats:
        """Run each row through its task's mask, rows of a task together."""
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


def _real(alphas: npt.ArrayLike) -> Array:
    try:
        given = np.asarray(alphas)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"alphas must be real numbers: {error}") from error
    if given.dtype.kind not in "biuf":
        raise InputError(f"alphas must be real numbers, got {given.dtype}")
    return given
