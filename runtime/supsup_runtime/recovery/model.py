"""A loaded model with a Hopfield store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Unpack, cast

import numpy as np

from supsup_runtime.arrays import (
    Array,
    Bits,
    Floats,
    Given,
    Images,
    about,
    check_flag,
    check_kind,
    check_number,
    checked_outputs,
    checked_path,
    few,
    shown,
)
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.model.inputs import Inputs
from supsup_runtime.model.loading import open_model
from supsup_runtime.model.metadata import ModelInfo, TaskInfo
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import SessionOptions
from supsup_runtime.recovery.descent import (
    LARGEST,
    Recovery,
    Schedule,
    Statistics,
    check_statistics,
    linear,
)
from supsup_runtime.recovery.graph import HopfieldGraph, Step
from supsup_runtime.recovery.loop import Recovering, count_steps
from supsup_runtime.recovery.result import Recovered


def load_hopfield(
    path: str | Path, *, check_memory: bool = True, **session: Unpack[SessionOptions]
) -> HopfieldModel:
    """Load a model that `supsup-export --hopfield` made.

    Args:
        path: The ``.onnx`` file.
        check_memory: Refuse a model that needs more memory than is available.
        **session: As in `supsup_runtime.load`.

    Raises:
        ModelError: As `supsup_runtime.load`, or if the model has explicit masks.
        FileError: If the system cannot open or read the file.
        ProviderUnavailableError: If onnxruntime or the provider is unavailable.
        InputError: If an argument is out of range.
    """
    check_flag("check_memory", check_memory)
    opened = open_model(checked_path(path), recovers=True, check_memory=check_memory, **session)
    if opened.info.hopfield is None:
        raise ModelError(f"{path}: metadata of the Hopfield store are missing; export it again")
    return HopfieldModel(HopfieldGraph(opened, opened.info.hopfield))


class HopfieldModel:
    """A loaded model that recovers masks; calls are independent and thread-safe.

    It is pickled and copied as a `Model` is.

    Attributes:
        info: Metadata of the model.
        store: Metadata of its Hopfield store.
    """

    def __init__(self, graph: HopfieldGraph) -> None:
        self._graph = graph
        self.info: ModelInfo = graph.info
        self.store: HopfieldInfo = graph.store
        self._inputs = Inputs(graph.info, graph.place)

    def __reduce__(self) -> tuple[object, ...]:
        return self._graph.origin.reduced(load_hopfield)

    def __repr__(self) -> str:
        names = few([task.name for task in self.tasks[:4]])
        return about(self, shown(self._graph.place), f"{len(self.tasks)} tasks: {names}")

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """Stored tasks, in the order of encoding."""
        return self.info.tasks

    def recover(
        self,
        batches: Iterable[Given],
        *,
        steps: int | None = None,
        schedule: Schedule = linear,
        settings: Recovery | None = None,
    ) -> Recovered:
        """Recover the mask of the task that a stream of inputs belongs to.

        Args:
            batches: Each ``float32 (batch, *input_shape)`` or pictures, as in `Model.predict`; all
                of one task, at least `steps`; read only as needed.
            steps: Maximum steps, one per batch. None uses all batches, which must have a length.
            schedule: Shares of entropy and energy per step since the last restart.
            settings: Defaults to ``Recovery()``.

        Raises:
            InputError: If a batch or argument is invalid, or there are too few batches.
        """
        how = Recovery() if settings is None else settings
        check_kind("settings", how, Recovery, "a Recovery")
        try:
            iter(batches)
        except TypeError as error:
            raise InputError(f"batches: must be several, got {shown(batches)}") from error
        total = count_steps(batches, steps)
        checked = (self._checked(batch, number) for number, batch in enumerate(batches))
        return Recovering(self._graph, self._start(how), how).run(checked, total, schedule)

    def step(
        self,
        x: Given,
        mask: Floats,
        entropy_strength: float,
        energy_strength: float,
        *,
        statistics: Statistics = "batch",
    ) -> Step:
        """Run the graph once: entropy, energy, and their gradient by a relaxed mask.

        Args:
            x: As in `Model.predict`; an empty batch of ``float32`` has entropy 0.
            mask: Finite ``float32 (num_masked,)``, usually within ``[0, 1]``.
            entropy_strength: Factor of the entropy's gradient.
            energy_strength: Factor of the energy's gradient.
            statistics: See `Recovery`.

        Raises:
            InputError: If an argument is invalid.
        """
        check_statistics(statistics)
        for name, value in (("entropy", entropy_strength), ("energy", energy_strength)):
            check_number(f"{name}_strength", value, lambda s: abs(s) <= LARGEST, "a float32")
        mask = self._mask(mask, np.float32)
        empty = _is_empty(x, self.info.network.input_shape)
        x = cast(Images, x) if empty else self._inputs.checked(x)
        return self._graph.step(x, mask, entropy_strength, energy_strength, statistics=statistics)

    def logits(self, x: Given, mask: Bits, *, statistics: Statistics = "running") -> Floats:
        """Return the logits through a mask, ``float32 (batch, outputs)``.

        Args:
            x: As in `Model.predict`.
            mask: ``bool (num_masked,)``.
            statistics: See `Recovery`.

        Raises:
            InputError: If an argument is invalid, or logits are not finite.
        """
        check_statistics(statistics)
        ready = self._inputs.checked(x)
        logits = self._graph.logits(ready, self._mask(mask, np.bool_), statistics=statistics)
        return checked_outputs(logits, "logits", self._graph.place)

    def prepare(self, pictures: Array | Sequence[Array]) -> Images:
        """Apply the model's preprocessing; see `Model.prepare`."""
        return self._inputs.prepared(pictures)

    def predict(
        self, x: Given, recovered: Recovered, *, statistics: Statistics = "running"
    ) -> Prediction:
        """Run the network with a recovered mask.

        Args:
            x: As in `Model.predict`.
            recovered: Result of `recover`. Labels are those that its tasks share; without a task,
                those that all stored tasks share, and the task has no name.
            statistics: See `Recovery`; ``running`` makes rows independent.

        Raises:
            InputError: As `logits`.
        """
        check_kind("recovered", recovered, Recovered, "a Recovered, from recover")
        task = _answering(recovered.tasks, self.tasks, self.info.network)
        logits = self.logits(x, recovered.mask, statistics=statistics)
        return Prediction(logits=logits, tasks=(task,) * len(logits))

    def settle(self, mask: Bits) -> tuple[Bits, bool]:
        """Return the fixed point of a mask ``bool (num_masked,)``, and whether it is one.

        Raises:
            InputError: If `mask` is invalid.
        """
        return self._graph.settle(self._mask(mask, np.bool_))

    def find(self, mask: Bits) -> tuple[TaskInfo, ...]:
        """Return the tasks with exactly this mask ``bool (num_masked,)``, by 64-bit fingerprints.

        Raises:
            InputError: If `mask` is invalid.
        """
        return self._graph.tasks_of(self._graph.owners(self._mask(mask, np.bool_)))

    def _mask(self, mask: Array, dtype: type[np.generic]) -> Array:
        expected, kind = (self.info.network.num_masked,), np.dtype(dtype)
        if not isinstance(mask, np.ndarray) or mask.dtype != kind or mask.shape != expected:
            got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else shown(mask)
            raise InputError(f"mask: must be {kind} {expected}, got {got}")
        if not np.isfinite(mask).all():
            raise InputError("mask: must be finite, got NaN or infinity")
        return mask

    def _start(self, how: Recovery) -> Floats:
        size = self.info.network.num_masked
        if isinstance(how.start, str):
            return self.store.mean if how.start == "mean" else np.zeros(size, np.float32)
        start = how.start
        if start.shape != (size,) or start.dtype != np.float32 or not np.isfinite(start).all():
            raise InputError(
                f"start: must be finite float32 ({size},), got {start.dtype} {start.shape}"
            )
        return start

    def _checked(self, x: Given, number: int) -> Images:
        try:
            return self._inputs.checked(x)
        except InputError as error:
            raise InputError(f"batch {number}: {error}") from error


def _is_empty(x: object, input_shape: tuple[int, ...]) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float32 and x.shape == (0, *input_shape)


def _answering(
    found: tuple[TaskInfo, ...], stored: tuple[TaskInfo, ...], network: Network
) -> TaskInfo:
    """Return the first task found, or one without a name, with the shared labels."""
    labels = {task.labels for task in found or stored}
    shared = labels.pop() if len(labels) == 1 else ()
    index, name = (found[0].index, found[0].name) if found else (-1, "")
    own = network.real_outputs_of(shared)
    return TaskInfo(index=index, name=name, real_outputs=own, labels=shared)
