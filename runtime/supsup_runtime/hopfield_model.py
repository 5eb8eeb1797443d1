"""A model with a Hopfield store, loaded: recover a mask from inputs, then predict with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.bits import pack_mask
from supsup_runtime.contract import ModelInfo, TaskInfo
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield import fingerprint, to_pattern
from supsup_runtime.hopfield_info import HopfieldInfo, with_batch_statistics
from supsup_runtime.images import Images, checked_images
from supsup_runtime.network import MaskedParameter, StateTensor
from supsup_runtime.objectives import entropy
from supsup_runtime.opening import OpenedModel, open_model
from supsup_runtime.prediction import Prediction
from supsup_runtime.recovered import TOLERANCE, Recovered, Trace, judge
from supsup_runtime.recovery import Descent, Recovery, Schedule, Statistics, linear, settle
from supsup_runtime.session import Device

__all__ = ["HopfieldModel", "Step", "load_hopfield"]

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]
_LAST_ROWS = 320


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
    return HopfieldModel(opened)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """What the graph says of a batch and a mask.

    Attributes:
        entropy: Mean H of the batch, in nats.
        energy: ``-1/2 z^T Psi z``, summed over parameters.
        gradient: Of the two, each times its strength, by the mask: ``float32 (num_masked,)``.
    """

    entropy: float
    energy: float
    gradient: Floats


class HopfieldModel:
    """A loaded model. Calls are independent; one thread at a time.

    Attributes:
        info: What the model says of itself.
        store: What it says of its Hopfield store.
    """

    def __init__(self, opened: OpenedModel) -> None:
        self._session = opened.session
        self._forward = opened.forward
        self.info: ModelInfo = opened.info
        if opened.info.hopfield is None:
            raise ValueError("a model of mode recover has a store")  # ModelInfo sees to it
        self.store: HopfieldInfo = opened.info.hopfield
        network = self.info.network
        self._no_rows = np.zeros((0, *network.input_shape), np.float32)
        self._running = self.store.state
        self._batch = with_batch_statistics(network.state, self.store.state)
        self._weights = np.concatenate([w.reshape(-1) for w in network.weights()])

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
            batches: Each ``float32 (batch, *input_shape)``, of one task; at least `steps` of them.
            steps: At least 1; None takes all batches, which then must have a length.
            schedule: Shares of entropy and energy in each step.
            settings: Step size and the like; None takes the paper's.

        Raises:
            InputError: If a batch breaks its shape, type or range, there are too few, or an
                argument is out of range.
        """
        how = settings or Recovery()
        total = _count(batches, steps)
        descent = Descent(self._start(how), how)
        last = _LastRows()
        way: list[tuple[Bits, float, float]] = []  # mask, entropy, energy
        problem = ""
        for number, batch in zip(range(total), batches, strict=False):
            x = self._checked(batch, number)
            strengths = _strengths(schedule, number, total, how)
            step = self.step(x, descent.mask, *strengths, statistics=how.statistics)
            way.append((descent.mask.astype(np.bool_), step.entropy, step.energy))
            last.add(x)
            problem = self._advance(descent, step, number)
            if problem:
                break
        if len(way) < total and not problem:
            raise InputError(
                f"batches: {total} steps take as many batches, the stream ended after {len(way)}; "
                "give more, or take fewer steps"
            )
        return self._judged(way, descent.mask, last.rows(), how, problem)

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
        feeds: dict[str, npt.NDArray[Any]] = {
            "x": x,
            "mask": mask,
            "entropy_strength": np.array(entropy_strength, np.float32),
            "energy_strength": np.array(energy_strength, np.float32),
        }
        if self.info.network.state:
            feeds["state"] = self._state(x, statistics)
        h, e, gradient = self._session.run(["entropy", "energy", "gradient"], feeds)
        return Step(entropy=float(h), energy=float(e), gradient=gradient)

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
        network = self.info.network
        feeds = {"x": x, **_cut(network.parameters, self._weights * mask)}
        feeds |= _cut(network.state, self._state(x, statistics))
        logits: Floats = self._forward.run(["logits"], feeds)[0]
        return logits

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
        """The fixed point of the store that a mask falls to, and whether it is one; see there."""
        z, fixed = settle(self._look, self.store.diagonal, to_pattern(mask))
        return z > 0, fixed

    def find(self, mask: Bits) -> TaskInfo | None:
        """The task whose mask this is, in all parameters; told by fingerprints of 64 bits each."""
        parts = _cut(self.info.network.parameters, mask).values()
        marks = tuple(fingerprint(pack_mask(part)) for part in parts)
        if marks not in self.store.fingerprints:
            return None
        return self.tasks[self.store.fingerprints.index(marks)]

    def _look(self, z: Floats) -> tuple[float, Floats]:
        """Energy and field of a pattern of signs."""
        seen = self.step(self._no_rows, (z > 0).astype(np.float32), 0.0, 1.0)
        return seen.energy, seen.gradient / np.float32(-2)

    def _state(self, x: Images, statistics: Statistics) -> Floats:
        return self._batch if statistics == "batch" and len(x) > 1 else self._running

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

    def _advance(self, descent: Descent, step: Step, number: int) -> str:
        """Take a step; what went wrong with it, if something did."""
        for name, value in (("entropy", step.entropy), ("energy", step.energy)):
            if not np.isfinite(value):
                return f"{name} is {value} in step {number}: the inputs are too large"
        if not descent.step(step.gradient):
            return f"a score is not finite after step {number}: take a smaller step_size"
        return ""

    def _judged(
        self,
        way: list[tuple[Bits, float, float]],
        end: Floats,
        rows: Images,
        how: Recovery,
        problem: str,
    ) -> Recovered:
        ended = end.astype(np.bool_)
        fixed_point, fixed = self.settle(ended)
        masks = [*(mask for mask, _, _ in way), ended]
        trace = Trace(
            entropy=np.array([h for _, h, _ in way]),
            energy=np.array([e for _, _, e in way]),
            distance=np.array([self._distance(mask, fixed_point) for mask in masks]),
        )
        away = float(trace.distance[-1])
        arrived = fixed and away <= TOLERANCE and not problem
        mask = fixed_point if arrived else ended
        task = self.find(mask) if arrived else None
        logits = self.logits(rows, mask, statistics=how.statistics)
        found, expected = float(entropy(logits.astype(np.float64)).mean()), self._expected(task)
        verdict, reason = judge(
            problem=problem,
            arrived=arrived,
            distance=away,
            task=task,
            entropy=found,
            expected=expected,
            max_ratio=how.max_entropy_ratio,
        )
        return Recovered(
            verdict=verdict,
            reason=reason,
            task=task if verdict == "stored" else None,
            mask=mask,
            trace=trace,
            entropy=found,
            expected_entropy=expected,
        )

    def _expected(self, task: TaskInfo | None) -> float | None:
        if task is not None:
            return self.store.entropies[task.index]
        return max((h for h in self.store.entropies if h is not None), default=None)

    def _distance(self, one: Bits, other: Bits) -> float:
        """Fraction of bits that differ, the largest of all parameters."""
        parts = _cut(self.info.network.parameters, one != other).values()
        return max(float(part.mean()) for part in parts)


class _LastRows:
    """The newest inputs of a stream, some 320."""

    def __init__(self) -> None:
        self._batches: deque[Images] = deque()
        self._count = 0

    def add(self, x: Images) -> None:
        self._batches.append(x)
        self._count += len(x)
        while self._count - len(self._batches[0]) >= _LAST_ROWS:
            self._count -= len(self._batches.popleft())

    def rows(self) -> Images:
        return np.concatenate(self._batches)[-_LAST_ROWS:]


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
    return steps


def _strengths(schedule: Schedule, number: int, total: int, how: Recovery) -> tuple[float, float]:
    of_entropy, of_energy = schedule(number, total)
    return of_entropy, how.energy_strength * of_energy


def _cut(
    tensors: Sequence[MaskedParameter | StateTensor], flat: npt.NDArray[Any]
) -> dict[str, npt.NDArray[Any]]:
    """A flat array as the tensors it is made of."""
    ends = np.cumsum([tensor.size for tensor in tensors])
    return {
        tensor.name: flat[end - tensor.size : end].reshape(tensor.shape)
        for tensor, end in zip(tensors, ends, strict=True)
    }


def _no_task(tasks: tuple[TaskInfo, ...]) -> TaskInfo:
    shared = tasks[0].labels if len({task.labels for task in tasks}) == 1 else ()
    return TaskInfo(index=-1, name="", labels=shared)
