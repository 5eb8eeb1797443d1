"""The graph behind a model: scores, selected masks, and the weights of recent tasks.

A host that stays on a task pays nothing for masks: its weights are fetched once from the model and
kept, and the forward program runs with them at the speed of a plain model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from supsup_runtime.contract import ModelInfo
from supsup_runtime.errors import InputError
from supsup_runtime.network import MaskedParameter, StateTensor
from supsup_runtime.session import Session

__all__ = ["Engine"]

_T = TypeVar("_T", MaskedParameter, StateTensor)
Images = npt.NDArray[np.float32]


class Engine:
    """An exported graph and its forward program; arguments are checked by `Model`.

    Attributes:
        info: What the model says of itself.
        outputs: Names of the outputs that the graph has.
        num_tasks: Number of tasks.
        real_outputs: Leading outputs that are labels.
    """

    def __init__(
        self, session: Session, forward: Session, info: ModelInfo, *, cache_bytes: int
    ) -> None:
        self._session = session
        self._forward = forward
        self._cache: OrderedDict[int, dict[str, Any]] = OrderedDict()
        network = info.network
        self._task_bytes = 4 * (network.num_masked + network.num_state)
        self._max_cached = cache_bytes // self._task_bytes
        self.place = session.place
        self.outputs = session.output_names
        self.info = info
        self.num_tasks = len(info.tasks)
        self.real_outputs = network.real_outputs

    @property
    def cached_bytes(self) -> int:
        """Bytes that cached weights take now."""
        return len(self._cache) * self._task_bytes

    def task_scores(self, x: Images) -> npt.NDArray[np.float32]:
        """One-shot scores of a batch: ``float32 (tasks,)``, ``-d objective / d alphas``.

        Raises:
            InputError: If the model was exported without them.
        """
        if "task_scores" not in self.outputs:
            raise InputError(
                f"{self.place}: exported without task_scores, so one-shot is not there; "
                "export with all outputs, or, with known tasks, use method='exhaustive'"
            )
        feeds: dict[str, npt.NDArray[Any]] = {"x": x}
        if self.info.mode == "full":
            feeds |= _superposition([], np.zeros(0, np.float32), infer=True)
        scores: npt.NDArray[np.float32] = self._session.run(["task_scores"], feeds)[0]
        return scores

    def task_logits(self, x: Images, task_index: int) -> npt.NDArray[np.float32]:
        """Logits ``float32 (batch, outputs)`` through one task's mask; its weights are not kept."""
        if task_index in self._cache:
            return self._run_forward(x, self._held(task_index))
        return self.select(x, [task_index], np.ones(1, np.float32), ["logits"])[0]

    def inferred(self, x: Images) -> tuple[npt.NDArray[np.float32], int]:
        """Logits and task of a model that always infers and answers with both."""
        logits, task = self._session.run(["logits", "task"], {"x": x})
        return logits, int(task[0])

    def known_logits(self, x: Images, task_index: int) -> npt.NDArray[np.float32]:
        """As `task_logits`, and keep the task's weights for the next call."""
        if self._max_cached and "parameters" in self.outputs:
            return self._run_forward(x, self._held(task_index))
        return self.task_logits(x, task_index)

    def _run_forward(self, x: Images, weights: dict[str, Any]) -> npt.NDArray[np.float32]:
        feeds = {"x": self._forward.hold(x), **weights}
        logits: npt.NDArray[np.float32] = self._forward.run_held(["logits"], feeds)[0]
        return logits

    def _held(self, task_index: int) -> dict[str, Any]:
        """A task's weights on the device, fetched from the model when they are not cached."""
        if task_index in self._cache:
            self._cache.move_to_end(task_index)
            return self._cache[task_index]
        network = self.info.network
        outputs = ["parameters", "state"] if network.state else ["parameters"]
        blank = np.zeros((1, *network.input_shape), np.float32)
        flats = self.select(blank, [task_index], np.ones(1, np.float32), outputs)
        held = {p.name: self._forward.hold(a) for p, a in _cut(flats[0], network.parameters)}
        if network.state:
            held |= {t.name: self._forward.hold(a) for t, a in _cut(flats[1], network.state)}
        self._cache[task_index] = held
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return held

    def select(
        self,
        x: Images,
        indices: Sequence[int],
        alphas: npt.NDArray[np.float32],
        outputs: Sequence[str],
    ) -> list[npt.NDArray[Any]]:
        """Run the graph with the superposition given; return the outputs asked for.

        Raises:
            InputError: If the model was exported without what that takes.
        """
        if self.info.mode == "infer":
            raise InputError(
                f"{self.place}: exported to infer only, so it cannot run a given task; "
                "export with all outputs"
            )
        missing = [name for name in outputs if name not in self.outputs]
        if missing:
            raise InputError(
                f"{self.place}: exported without the output {missing[0]!r}; export with all outputs"
            )
        feeds = _superposition(indices, alphas, infer=False)
        if self.info.mode == "known":
            del feeds["infer"]
        return self._session.run(outputs, {"x": x, **feeds})


def _cut(flat: npt.NDArray[Any], tensors: Sequence[_T]) -> list[tuple[_T, npt.NDArray[Any]]]:
    """Cut a flat array into tensors, each in its shape."""
    parts = np.split(flat, np.cumsum([tensor.size for tensor in tensors])[:-1])
    return [(t, part.reshape(t.shape)) for t, part in zip(tensors, parts, strict=True)]


def _superposition(
    indices: Sequence[int], alphas: npt.NDArray[np.float32], *, infer: bool
) -> dict[str, npt.NDArray[Any]]:
    return {
        "tasks": np.array(indices, np.int64),
        "alphas": alphas,
        "infer": np.array(infer),
    }
