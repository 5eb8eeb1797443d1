"""The graph of a recovery model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from supsup_runtime.arrays import Array, Bits, Floats, Images
from supsup_runtime.bank.bits import pack_mask
from supsup_runtime.bank.layout import cut, join, spans
from supsup_runtime.hopfield.metadata import HopfieldInfo, with_batch_statistics
from supsup_runtime.hopfield.settle import settle
from supsup_runtime.hopfield.store import fingerprint, to_pattern
from supsup_runtime.model.loading import OpenedModel
from supsup_runtime.model.metadata import TaskInfo
from supsup_runtime.recovery.descent import Statistics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """Outputs of the graph for a batch and a mask.

    Attributes:
        entropy: Mean H of the batch, in nats.
        energy: ``-1/2 z^T Psi z``, summed over parameters.
        gradient: ``float32 (num_masked,)`` by the mask, of both times their strengths.
    """

    entropy: float
    energy: float
    gradient: Floats


class HopfieldGraph:
    """An opened recovery model; `HopfieldModel` checks the arguments.

    Attributes:
        origin: Where it was loaded from, and how.
        place: Path, for messages.
        parts: Slices of the parameters in a flat mask.
    """

    def __init__(self, opened: OpenedModel, store: HopfieldInfo) -> None:
        self._session = opened.session
        self._forward = opened.forward
        self.origin = opened.origin
        self.place = opened.session.place
        self.info = opened.info
        self.store = store
        network = self.info.network
        self.parts = spans(network.parameters)
        self._no_rows = np.zeros((0, *network.input_shape), np.float32)
        self._batch = with_batch_statistics(network.state, store.state)
        self._weights = join(network.weights())

    def step(
        self,
        x: Images,
        mask: Floats,
        entropy_strength: float,
        energy_strength: float,
        *,
        statistics: Statistics,
    ) -> Step:
        """See `HopfieldModel.step`."""
        feeds: dict[str, Array] = {
            "x": x,
            "mask": mask,
            "entropy_strength": np.array(entropy_strength, np.float32),
            "energy_strength": np.array(energy_strength, np.float32),
        }
        if self.info.network.state:
            feeds["state"] = self._state(x, statistics)
        shapes = {"entropy": (), "energy": (), "gradient": (self.info.network.num_masked,)}
        h, e, gradient = self._session.answer(shapes, feeds)
        return Step(entropy=float(h), energy=float(e), gradient=gradient)

    def logits(self, x: Images, mask: Bits, *, statistics: Statistics) -> Floats:
        """See `HopfieldModel.logits`."""
        network = self.info.network
        feeds = {"x": x, **cut(network.parameters, self._weights * mask)}
        feeds |= cut(network.state, self._state(x, statistics))
        shapes = {"logits": (len(x), network.outputs)}
        logits: Floats = self._forward.answer(shapes, feeds)[0]
        return logits

    def settle(self, mask: Bits) -> tuple[Bits, bool]:
        """See `HopfieldModel.settle`."""
        z, fixed = settle(self._look, self.store.diagonal, to_pattern(mask))
        return z > 0, fixed

    def owners(self, mask: Bits) -> list[set[int]]:
        """Return, per parameter, the indices of the tasks with this mask."""
        marks = [fingerprint(pack_mask(mask[part])) for part in self.parts]
        tasks = list(enumerate(self.store.fingerprints))
        return [{t for t, own in tasks if own[i] == mark} for i, mark in enumerate(marks)]

    def tasks_of(self, owners: list[set[int]]) -> tuple[TaskInfo, ...]:
        """Return the tasks that own a mask in all parameters."""
        return tuple(self.info.tasks[index] for index in sorted(set.intersection(*owners)))

    def distance(self, one: Bits, other: Bits) -> float:
        """Return the largest fraction of differing bits of all parameters."""
        return max(float(np.mean(one[part] != other[part])) for part in self.parts)

    def _look(self, z: Floats) -> tuple[float, Floats]:
        mask = (z > 0).astype(np.float32)
        seen = self.step(self._no_rows, mask, 0.0, 1.0, statistics="running")
        return seen.energy, seen.gradient / np.float32(-2)

    def _state(self, x: Images, statistics: Statistics) -> Floats:
        return self._batch if statistics == "batch" and len(x) > 1 else self.store.state
