"""A model with a Hopfield store, loaded: recover a mask from inputs, then predict with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.contract import ModelInfo, TaskInfo
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.hopfield_graph import HopfieldGraph, Step
from supsup_runtime.hopfield_info import HopfieldInfo
from supsup_runtime.images import Images, checked_images
from supsup_runtime.opening import open_model
from supsup_runtime.prediction import Prediction
from supsup_runtime.recovered import Recovered
from supsup_runtime.recovering import Recovering
from supsup_runtime.recovery import Recovery, Schedule, Statistics, linear
from supsup_runtime.session import Device

__all__ = ["HopfieldModel", "load_hopfield"]

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]


def load_hopfield(
    path: str | Path,
    *,
    device: Device = "cpu",
    threads: int = 1,
    sess_options: Any = None,  # noqa: ANN401 - onnxruntime.SessionOptions
    providers: Sequence[Any] | None = None,
    check_memory: bool = True,
) -> HopfieldModel:
    """Load a model that `supsup-export --hopfield` made.

    Args:
        path: The ``.onnx`` file.
        device: ``cpu`` or ``cuda``; a device that is not there is an error.
        threads: Threads of one call.
        sess_options: An ``onnxruntime.SessionOptions`` in place of `threads`.
        providers: ONNX Runtime providers in place of `device`.
        check_memory: Refuse a model that the memory at hand cannot hold while it loads.

    Raises:
        ModelError: If the file is missing, not a model of supsup, of another contract, one with
            explicit masks, or too large for the memory at hand; all before it is loaded.
        ProviderUnavailableError: If onnxruntime or the provider is not there.
        InputError: If an argument is out of range.
    """
    opened = open_model(
        path,
        recovers=True,
        device=device,
        threads=threads,
        sess_options=sess_options,
        providers=providers,
        check_memory=check_memory,
    )
    if opened.info.hopfield is None:
        raise ModelError(f"{path}: the model must say what its store holds; export it again")
    return HopfieldModel(HopfieldGraph(opened, opened.info.hopfield))


class HopfieldModel:
    """A loaded model. Calls are independent; one thread at a time.

    Attributes:
        info: What the model says of itself.
        store: What it says of its Hopfield store.
    """

    def __init__(self, graph: HopfieldGraph) -> None:
        self._graph = graph
        self.info: ModelInfo = graph.info
        self.store: HopfieldInfo = graph.store

    @property
    def tasks(self) -> tuple[TaskInfo, ...]:
        """The tasks of the store, in the order of encoding."""
        return self.info.tasks

    def recover(
        self,
        batches: Iterable[Images],
        *,
        steps: int | None = None,
        schedule: Schedule = linear,
        settings: Recovery | None = None,
    ) -> Recovered:
        """Recover the mask of the task that a stream of inputs is of, a batch a step.

        Args:
            batches: Each ``float32 (batch, *input_shape)``, of one task; at least `steps` of them,
                of which no more are taken than the recovery needs.
            steps: At most, and at least 1; None takes all batches, which then must have a length.
            schedule: Shares of entropy and energy in each step.
            settings: Step size and the like; None takes the defaults.

        Raises:
            InputError: If a batch breaks its shape, type or range, there are too few, or an
                argument is out of range.
        """
        how = settings or Recovery()
        total, taken = _count(batches, steps), 0
        way = Recovering(self._graph, self._start(how), how)
        for number, batch in zip(range(total), batches, strict=False):
            of_entropy, of_energy = schedule(number, total)
            way.step(self._checked(batch, number), (of_entropy, how.energy_strength * of_energy))
            taken = number + 1
            looks = how.look_every and taken % how.look_every == 0
            if way.problem or (looks and way.look()):
                return way.result()
        if taken < total:
            raise _too_few(total, taken)
        return way.result()

    def step(
        self,
        x: Images,
        mask: Floats,
        entropy_strength: float,
        energy_strength: float,
        *,
        statistics: Statistics = "batch",
    ) -> Step:
        """Run the graph once: entropy, energy, and the gradient by a relaxed mask.

        Args:
            x: ``float32 (batch, *input_shape)``; a batch of no rows has entropy 0.
            mask: ``float32 (num_masked,)``, as a rule within ``[0, 1]``.
            entropy_strength: Factor of the entropy's gradient.
            energy_strength: Factor of the energy's.
            statistics: As `Recovery` has it.
        """
        return self._graph.step(x, mask, entropy_strength, energy_strength, statistics=statistics)

    def logits(self, x: Images, mask: Bits, *, statistics: Statistics = "running") -> Floats:
        """Logits ``float32 (batch, outputs)`` through a mask ``bool (num_masked,)``.

        `statistics` is as `Recovery` has it.

        Raises:
            InputError: If `x` breaks its shape, type or range, or `mask` its own.
        """
        x = checked_images(x, self.info.network.input_shape)
        expected = (self.info.network.num_masked,)
        if mask.dtype != np.bool_ or mask.shape != expected:
            raise InputError(f"mask: must be bool {expected}, got {mask.dtype} {mask.shape}")
        return self._graph.logits(x, mask, statistics=statistics)

    def predict(
        self, x: Images, recovered: Recovered, *, statistics: Statistics = "running"
    ) -> Prediction:
        """Run the network with a recovered mask.

        Args:
            x: ``float32 (batch, *input_shape)``.
            recovered: What `recover` gave. Where it is no task's mask, the prediction's tasks have
                no name, and the labels are those that all stored tasks share, if they do.
            statistics: As `Recovery` has it; with ``running``, rows do not hang on each other.

        Raises:
            InputError: As `logits`.
        """
        task = recovered.task or _no_task(self.tasks)
        return Prediction(
            logits=self.logits(x, recovered.mask, statistics=statistics),
            real_outputs=self.info.network.real_outputs,
            tasks=(task,) * len(x),
        )

    def settle(self, mask: Bits) -> tuple[Bits, bool]:
        """The fixed point of the store that a mask falls to, and whether it is one."""
        return self._graph.settle(mask)

    def find(self, mask: Bits) -> TaskInfo | None:
        """The task whose mask this is, in all parameters; told by fingerprints of 64 bits each."""
        return self._graph.find(mask)

    def _start(self, how: Recovery) -> Floats:
        size = self.info.network.num_masked
        if isinstance(how.start, str):
            return self.store.mean if how.start == "mean" else np.zeros(size, np.float32)
        start = np.asarray(how.start)
        if start.shape != (size,) or start.dtype != np.float32 or not np.isfinite(start).all():
            raise InputError(
                f"start: must be finite float32 ({size},), got {start.dtype} {start.shape}"
            )
        return start

    def _checked(self, x: Images, number: int) -> Images:
        try:
            return checked_images(x, self.info.network.input_shape)
        except InputError as error:
            raise InputError(f"batch {number}: {error}") from error


def _count(batches: Iterable[Images], steps: int | None) -> int:
    if steps is None:
        if not isinstance(batches, Sized):
            raise InputError(
                "steps: must be given where batches has no length, as the schedule needs the end; "
                "give steps, or a list"
            )
        steps = len(batches)
    if steps < 1:
        raise InputError(f"steps: must be at least 1, got {steps}")
    if isinstance(batches, Sized) and len(batches) < steps:
        raise _too_few(steps, len(batches))
    return steps


def _too_few(steps: int, count: int) -> InputError:
    return InputError(
        f"batches: {steps} steps take as many batches, the stream ended after {count}; give more, "
        "or take fewer steps"
    )


def _no_task(tasks: tuple[TaskInfo, ...]) -> TaskInfo:
    shared = tasks[0].labels if len({task.labels for task in tasks}) == 1 else ()
    return TaskInfo(index=-1, name="", labels=shared)
