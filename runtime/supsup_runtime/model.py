"""An exported model, loaded: predict with the task known or unknown, infer the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from supsup_runtime.contract import ModelInfo, TaskInfo
from supsup_runtime.engine import Engine
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.inference import DEFAULT_CANDIDATES, Method, TaskInference, score_tasks
from supsup_runtime.session import Device, Session, open_session

__all__ = ["Model", "Prediction", "load"]

Images = npt.NDArray[np.float32]
DEFAULT_CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What a model says of a batch.

    Attributes:
        logits: ``float32 (batch, outputs)``, superfluous outputs included.
        label_indices: ``int64 (batch,)``, the largest real output.
        labels: Its name in each row's task; the index as text where the task has no names.
        tasks: The task of each row.
        inferences: One for the batch, or one a row; empty where the task was given, or the model
            was exported to infer only.
    """

    logits: npt.NDArray[np.float32]
    label_indices: npt.NDArray[np.int64]
    labels: tuple[str, ...]
    tasks: tuple[TaskInfo, ...]
    inferences: tuple[TaskInference, ...] = ()

    @property
    def task(self) -> TaskInfo:
        """The task of all rows.

        Raises:
            InputError: If rows have different tasks.
        """
        if len({task.index for task in self.tasks}) != 1:
            raise InputError("task: the rows have different tasks; read `tasks`, one a row")
        return self.tasks[0]


def load(
    path: str | Path,
    *,
    device: Device = "cpu",
    threads: int = 1,
    sess_options: Any = None,  # noqa: ANN401 - onnxruntime.SessionOptions
    providers: Sequence[Any] | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
) -> Model:
    """Load a model that `supsup-export` made.

    Args:
        path: The ``.onnx`` file.
        device: ``cpu`` or ``cuda``; a device that is not there is an error.
        threads: Threads of one call.
        sess_options: An ``onnxruntime.SessionOptions`` in place of `threads`.
        providers: ONNX Runtime providers in place of `device`.
        cache_bytes: Weights of recent tasks to keep, in bytes; 0 keeps none.

    Raises:
        ModelError: If the file is missing, not a model of supsup, or of another contract.
        ProviderUnavailableError: If onnxruntime or the provider is not there.
        InputError: If an argument is out of range.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file}: no such file; make it with supsup-export")
    if cache_bytes < 0:
        raise InputError(f"cache_bytes must be at least 0, got {cache_bytes}")

    def opened(model: Path | bytes, place: str) -> Session:
        return open_session(
            model,
            place=place,
            device=device,
            threads=threads,
            sess_options=sess_options,
            providers=providers,
        )

    session = opened(file, str(file))
    info = ModelInfo.from_metadata(session.metadata, place=str(file))
    forward = opened(info.forward, f"{file}: its forward program")
    return Model(Engine(session, forward, info, cache_bytes=cache_bytes))


class Model:
    """A loaded model. Calls are independent; one thread at a time.

    Attributes:
        info: What the model says of itself.
        num_tasks: Number of tasks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info = engine.info
        self.num_tasks = engine.num_tasks

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
            for task in self.tasks:
                if task.name == key:
                    return task
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
        task: int | str | None = None,
        *,
        per_image: bool = False,
        method: Method | None = None,
    ) -> Prediction:
        """Run the network on a batch.

        Args:
            x: ``float32 (batch, *input_shape)``, finite, at least one row.
            task: Name or index; None infers it.
            per_image: Infer the task of each row on its own; rows are then grouped by task.
            method: How to infer; see `infer_task`.

        Raises:
            InputError: If `x` breaks its shape, type or range, the task is not there, or the
                model was exported without what the call needs.
        """
        x = self._checked(x)
        if task is not None:
            return self._prediction(x, [self.task(task)] * len(x), ())
        if self.info.mode == "infer":
            return self._predict_inferring(x, per_image=per_image, method=method)
        inferences = self._infer(x, per_image=per_image, method=method)
        tasks = [inference.task for inference in inferences]
        return self._prediction(x, tasks if per_image else tasks * len(x), tuple(inferences))

    def infer_task(
        self,
        x: Images,
        *,
        method: Method | None = None,
        candidates: int = DEFAULT_CANDIDATES,
    ) -> TaskInference:
        """Infer the task of a batch whose rows all have the same.

        Args:
            x: ``float32 (batch, *input_shape)``.
            method: ``one-shot``, ``verified`` or ``exhaustive``; None takes ``verified``, or what
                the model was exported for.
            candidates: Tasks that ``verified`` tries, at least 1.

        Raises:
            InputError: As `predict`.
        """
        x = self._checked(x)
        (inference,) = self._infer(x, per_image=False, method=method, candidates=candidates)
        return inference

    def infer_tasks(
        self,
        x: Images,
        *,
        method: Method | None = None,
        candidates: int = DEFAULT_CANDIDATES,
    ) -> tuple[TaskInference, ...]:
        """Infer the task of each row on its own; arguments as `infer_task`."""
        x = self._checked(x)
        return tuple(self._infer(x, per_image=True, method=method, candidates=candidates))

    def superpose(
        self, x: Images, tasks: Sequence[int | str], alphas: npt.ArrayLike
    ) -> npt.NDArray[np.float32]:
        """Logits through a superposition of masks (paper, equation 2).

        Args:
            x: ``float32 (batch, *input_shape)``.
            tasks: Names or indices, at least one.
            alphas: ``float (len(tasks),)``, finite; they need not sum to 1.

        Returns:
            ``float32 (batch, outputs)``.

        Raises:
            InputError: If lengths differ, a task is not there, or a value is not finite.
        """
        weights = np.asarray(alphas, np.float32)
        if weights.shape != (len(tasks),) or not len(tasks):
            raise InputError(
                f"alphas must have one value for each of at least one task: expected shape "
                f"({max(1, len(tasks))},), got {weights.shape}"
            )
        if not np.isfinite(weights).all():
            raise InputError("alphas must be finite, got NaN or infinity")
        indices = [self.task(task).index for task in tasks]
        return self._engine.select(self._checked(x), indices, weights, ["logits"])[0]

    def _infer(
        self,
        x: Images,
        *,
        per_image: bool,
        method: Method | None,
        candidates: int = DEFAULT_CANDIDATES,
    ) -> list[TaskInference]:
        if candidates < 1:
            raise InputError(f"candidates must be at least 1, got {candidates}")
        chosen = self._method(method)
        rows = score_tasks(
            self._engine, x, method=chosen, per_image=per_image, candidates=candidates
        )
        return [TaskInference.from_scores(row, self.tasks, chosen) for row in rows]

    @property
    def default_method(self) -> Method:
        """How the task is inferred unless a call says otherwise."""
        by_mode: dict[str, Method] = {"full": "verified", "known": "exhaustive"}
        return by_mode.get(self.info.mode, "one-shot")

    def _method(self, wanted: Method | None) -> Method:
        if wanted is not None and wanted not in get_args(Method):
            raise InputError(f"method must be one of {list(get_args(Method))}, got {wanted!r}")
        return wanted or self.default_method

    def _predict_inferring(
        self, x: Images, *, per_image: bool, method: Method | None
    ) -> Prediction:
        """Predict with a model that always infers: it answers through its own one-shot task."""
        if method not in {None, "one-shot"} or not {"logits", "task"} <= set(self._engine.outputs):
            raise InputError(
                f"{self._engine.place}: exported to infer only, with outputs "
                f"{list(self._engine.outputs)}: predicting takes logits and task, and one-shot is "
                "the only method; export with all outputs"
            )
        groups = [x[row : row + 1] for row in range(len(x))] if per_image else [x]
        answers = [self._engine.inferred(group) for group in groups]
        tasks = [self.tasks[index] for _, index in answers]
        logits = np.concatenate([logits for logits, _ in answers])
        return self._answer(logits, tasks if per_image else tasks * len(x), ())

    def _prediction(
        self, x: Images, tasks: list[TaskInfo], inferences: tuple[TaskInference, ...]
    ) -> Prediction:
        """Run each row through its task's mask, rows of a task together."""
        indices = np.array([task.index for task in tasks])
        logits = np.empty((len(x), self.info.network.outputs), np.float32)
        for index in np.unique(indices):
            rows = np.flatnonzero(indices == index)
            logits[rows] = self._engine.known_logits(
                x if len(rows) == len(x) else x[rows], int(index)
            )
        return self._answer(logits, tasks, inferences)

    def _answer(
        self,
        logits: npt.NDArray[np.float32],
        tasks: list[TaskInfo],
        inferences: tuple[TaskInference, ...],
    ) -> Prediction:
        label_indices = logits[:, : self.info.network.real_outputs].argmax(axis=1)
        labels = [_label(task, int(i)) for task, i in zip(tasks, label_indices, strict=True)]
        return Prediction(
            logits=logits,
            label_indices=label_indices,
            labels=tuple(labels),
            tasks=tuple(tasks),
            inferences=inferences,
        )

    def _checked(self, x: Images) -> Images:
        expected = self.info.network.input_shape
        got = getattr(x, "shape", None)
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            kind = getattr(x, "dtype", type(x).__name__)
            raise InputError(f"x must be a float32 array, got {kind}; use x.astype(numpy.float32)")
        if x.ndim != len(expected) + 1 or x.shape[1:] != expected or len(x) == 0:
            raise InputError(
                f"x must have shape (batch, {', '.join(map(str, expected))}) with batch >= 1, "
                f"got {got}"
            )
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
            raise InputError(f"x must be finite, got NaN or infinity in row {row}")
        return np.ascontiguousarray(x)


def _label(task: TaskInfo, index: int) -> str:
    return task.labels[index] if index < len(task.labels) else str(index)
