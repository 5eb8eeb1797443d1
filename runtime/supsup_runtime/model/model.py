"""Load an exported model, predict with it, infer tasks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import MappingProxyType
from typing import Self, Unpack

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import (
    Array,
    Floats,
    Given,
    Images,
    about,
    check_flag,
    check_sequence,
    checked_outputs,
    checked_path,
    checked_reals,
    checked_whole,
    few,
    shown,
)
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.engine import MAX_CACHE_BYTES, Engine
from supsup_runtime.model.inference import Auto, Inference, Method, TaskInference
from supsup_runtime.model.loaded import Loaded
from supsup_runtime.model.loading import open_model
from supsup_runtime.model.lookup import TaskKey
from supsup_runtime.model.metadata import ModelInfo, TaskInfo
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import SessionOptions
from supsup_runtime.model.tracker import Tracker

_LOG = logging.getLogger("supsup.model")


def load(
    path: str | Path,
    *,
    cache_bytes: int | None = None,
    check_memory: bool = True,
    **session: Unpack[SessionOptions],
) -> Model:
    """Load a model made by `supsup-export`.

    Args:
        path: The ``.onnx`` file.
        cache_bytes: Cache for weights of recent tasks, in bytes, 0 for none. A task takes 4 bytes
            per masked weight and element of state. By default 64 MiB, or one task if that is more.
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
    if cache_bytes is not None:
        cache_bytes = checked_whole("cache_bytes", cache_bytes, 0, MAX_CACHE_BYTES)
    check_flag("check_memory", check_memory)
    opened = open_model(checked_path(path), recovers=False, check_memory=check_memory, **session)
    return Model(Engine(opened, cache_bytes=cache_bytes))


class Model:
    """A loaded model, safe to call from several threads.

    ``with load(...) as model`` closes it at the end of the block. Pickling or copying it loads the
    same file again, if its content is still the same; a model loaded with `sess_options` refuses.

    Attributes:
        info: Metadata of the model.
        num_tasks: Number of tasks.
        place: Path of the model, for messages.
    """

    info: ModelInfo
    num_tasks: int
    place: str

    def __init__(self, engine: Engine) -> None:
        self._changing = Lock()
        self._take(Loaded(engine))

    def _take(self, loaded: Loaded) -> None:
        self._loaded: Loaded | None = loaded
        self.info, self.place = loaded.info, loaded.place
        self.num_tasks = len(loaded.info.tasks)

    def _now(self) -> Loaded:
        """Return what a call runs on from beginning to end."""
        loaded = self._loaded
        if loaded is None:
            raise ModelError(f"{self.place}: the model is closed; load it again")
        return loaded

    @property
    def _engine(self) -> Engine:
        return self._now().engine

    def __reduce__(self) -> tuple[object, ...]:
        return self._engine.origin.reduced(load)

    def __repr__(self) -> str:
        if self._loaded is None:
            return about(self, shown(self.place), "closed")
        names = few([task.name for task in self.tasks[:4]])
        return about(self, shown(self.place), f"{self.num_tasks} tasks: {names}", self.info.mode)

    def __enter__(self) -> Self:
        self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free sessions and cache; do nothing if that is done.

        Calls that run in other threads end as usual; later ones raise `ModelError`.
        """
        with self._changing:
            if self._loaded is not None:
                self._loaded = None
                _LOG.info("%s: closed", self.place)

    def reload(self) -> bool:
        """Load the file again if it has changed; calls that run meanwhile end with the old one.

        Unchanged are the same time and size or, from the second `reload` on, the same SHA-256. Both
        models are in memory for a while; the cache starts empty.

        Returns:
            Whether it was loaded again.

        Raises:
            ModelError: As `load`; the old one then stays.
        """
        with self._changing:
            origin = self._engine.origin
            now = origin.looked_at()
            if now is not None:
                self._engine.origin = now
                return False
            _LOG.info("%s: has changed", self.place)
            self._take(load(origin.file, **origin.options)._now())  # noqa: SLF001 - of this class
            return True

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks, in index order."""
        return self.info.tasks

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Label names of each task, by its name; empty for a task without them."""
        return MappingProxyType({task.name: task.labels for task in self.tasks})

    @property
    def revision(self) -> str | None:
        """`MaskBank.revision` of the bank as it was exported; None for models of contract 1."""
        return self.info.revision

    @property
    def cached_bytes(self) -> int:
        """Bytes of cached weights; `load` sets the limit."""
        return self._engine.cached_bytes

    def task(self, key: TaskKey) -> TaskInfo:
        """Return a task by name or index.

        Args:
            key: Name, index in ``[0, num_tasks)``, or the `TaskInfo` itself.

        Raises:
            InputError: If the task does not exist; negative indices and booleans are refused, and a
                `TaskInfo` whose name has another index here.
        """
        return self._now().tasks.find(key)

    def predict(
        self,
        x: Given,
        task: TaskKey | Sequence[TaskKey] | None = None,
        *,
        per_image: bool = False,
        method: Auto | Inference | None = None,
        timings: bool = False,
    ) -> Prediction:
        """Run the network on a batch.

        Args:
            x: ``float32 (batch, *input_shape)``, finite, at least one row. If the model has
                preprocessing, also pictures, ``uint8`` of one or three channels and any size:
                ``(height, width)``, ``(height, width, channels)``, ``(batch, height, width,
                channels)``, or a list of them. If it is baked in, pictures alone, of one size.
            task: Name, index or `TaskInfo`, one for all rows or one per row; None infers the task.
            per_image: Infer the task of each row separately; rows of a task run together.
            method: As in `infer_task`.
            timings: Take `Prediction.timings`.

        Returns:
            Logits and tasks of the rows.

        Raises:
            InputError: If `x` or the task is invalid, `task` is combined with `per_image` or
                `method`, the model lacks a required output, or logits or scores are not finite.
        """
        check_flag("timings", timings)
        loaded, start = self._now(), perf_counter()
        x = loaded.prepared(x)
        prepared = inferred = perf_counter()
        check_flag("per_image", per_image)
        tasks: Sequence[TaskInfo]
        inferences: tuple[TaskInference, ...] = ()
        logits: Floats | None = None
        if task is None:
            how = loaded.how(method)
            tasks, inferences, logits = loaded.inferred(x, how, per_image=per_image)
            inferred = perf_counter()
        elif per_image or method is not None:
            given = "method" if method is not None else "per_image"
            raise InputError(
                f"{given}: applies only if the task is inferred, got task {shown(task)}; omit one "
                "of the two"
            )
        else:
            tasks = loaded.tasks.of_rows(task, len(x))
        logits = loaded.logits(x, tasks) if logits is None else logits
        logits = checked_outputs(logits, "logits", loaded.place)
        times = (prepared - start, inferred - prepared, perf_counter() - inferred)
        stages = ("prepare", "infer", "run")
        return Prediction(
            logits=logits,
            tasks=tuple(tasks),
            inferences=inferences,
            timings={k: 1e3 * t for k, t in zip(stages, times, strict=True)} if timings else None,
        )

    def prepare(self, pictures: Array | Sequence[Array]) -> Images:
        """Apply the model's preprocessing, such as to float pictures.

        Args:
            pictures: As in `predict`, or of floats.

        Returns:
            ``float32 (batch, *input_shape)``, which `predict` takes unless preprocessing is baked
            in.

        Raises:
            InputError: If the model has no preprocessing, dtype or shape differ, or a value is not
                finite.
        """
        return self._now().engine.inputs.prepared(pictures)

    def logits(self, x: Given, task: TaskKey) -> Floats:
        """Return the logits of a known task.

        Args:
            x: As in `predict`.
            task: Name, index or `TaskInfo`.

        Returns:
            ``float32 (batch, outputs)``, superfluous outputs included.

        Raises:
            InputError: As `predict`.
        """
        loaded = self._now()
        x = loaded.prepared(x)
        logits = loaded.engine.known_logits(x, loaded.tasks.find(task).index)
        return checked_outputs(logits, "logits", loaded.place)

    def warmup(self, tasks: Sequence[TaskKey] = (), *, batch_size: int = 1) -> None:
        """Prepare memory, threads and weights for the first calls.

        Args:
            tasks: Names, indices or `TaskInfo` of tasks to cache. None asked for: all, if
                there are at most 32, they fit, and `how` tries all.
            batch_size: Rows of later batches, at least 1.

        Raises:
            InputError: If a task does not exist, they exceed the cache, the model cannot cache
                weights, or `batch_size` is out of range.
        """
        self._now().warm(tasks, batch_size)

    def infer_task(self, x: Given, *, method: Auto | Inference | None = None) -> TaskInference:
        """Infer the task of a batch in which all rows have the same task.

        Args:
            x: As in `predict`.
            method: Name, or an `Inference` with settings; see `how` for the default.

        Returns:
            The task and the scores of all tasks.

        Raises:
            InputError: As `predict`.
        """
        loaded = self._now()
        return loaded.infer(loaded.prepared(x), loaded.how(method), per_image=False)[0][0]

    def infer_tasks(
        self, x: Given, *, method: Auto | Inference | None = None
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
        loaded = self._now()
        return loaded.infer(loaded.prepared(x), loaded.how(method), per_image=True)[0]

    def tracker(self, switch: float = 0.02, *, method: Auto | Inference | None = None) -> Tracker:
        """Start to follow the task of a stream of frames, such as a camera's.

        Args:
            switch: Probability in ``[0, 1]`` that the next frame is of another task.
            method: As in `infer_task`, but ``verified`` or ``exhaustive`` alone.

        Raises:
            InputError: If `switch` is out of range, or the method is another.
        """
        return Tracker(self._now, switch, method)

    def superpose(self, x: Given, tasks: Sequence[TaskKey], alphas: npt.ArrayLike) -> Floats:
        """Return the logits of a superposition of masks (paper, equation 2).

        Args:
            x: As in `predict`.
            tasks: Names, indices or `TaskInfo`, at least one.
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
        loaded = self._now()
        indices = [loaded.tasks.find(task).index for task in tasks]
        logits = loaded.engine.superposed(loaded.prepared(x), indices, weights)
        return checked_outputs(logits, "logits", loaded.place)

    def how(self, method: Auto | Inference | None = None) -> Inference:
        """Return the settings that a call with this method has.

        ``auto``, or None, are those that the calibration found best. Without one: ``exhaustive`` up
        to 32 tasks and 64 MiB of weights, then ``verified``; models that only infer have
        ``one-shot``, those without inference ``exhaustive``.
        """
        return self._now().how(method)

    @property
    def tries_all(self) -> bool:
        """Whether tasks and weights are so few that all tasks are tried unless calibrated."""
        return self._now().tries_all

    @property
    def default_method(self) -> Method:
        """Method of `how` by default."""
        return self.how().method
