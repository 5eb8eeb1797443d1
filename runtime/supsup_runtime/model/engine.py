"""The graph behind a model: scores, selected masks, and the weights of recent tasks.

A host that stays on a task pays nothing for masks: its weights are fetched once from the model and
kept, and the forward program runs with them at the speed of a plain model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Array, Floats, Images, checked_outputs
from supsup_runtime.bank.layout import spans
from supsup_runtime.bank.network import MaskedParameter, StateTensor
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.session import BoundPart, BoundProgram, Session

_FEW_ROWS = 24
"""Rows below which a call for each is faster than one pass for all (docs/PERFORMANCE.md)."""
_PASS_BYTES = 256 << 20
"""Gradients of one pass, 4 bytes a row and masked weight or element of state; twice that is needed
for a moment."""


class Engine:
    """An exported graph and its forward program; arguments are checked by `Model`.

    Safe to call from any number of threads. A task whose weights are cached runs without a lock,
    and waits for no thread that fetches weights.

    Attributes:
        info: The metadata of the model.
        outputs: Names of the outputs that the graph has.
        num_tasks: Number of tasks.
        real_outputs: Leading outputs that are labels.
        task_bytes: Bytes that the weights of one task take in the cache.
        max_cached: Tasks that the cache holds.
        keeps_weights: The graph has the outputs that the cache needs.
    """

    def __init__(
        self, session: Session, forward: Session, info: ModelInfo, *, cache_bytes: int
    ) -> None:
        self._session = session
        self._forward = forward
        self._cache: OrderedDict[int, BoundProgram] = OrderedDict()
        self._cache_lock = Lock()
        self._fetch_lock = Lock()
        self._last_inferred: set[int] = set()
        network = info.network
        self.task_bytes = 4 * (network.num_masked + network.num_state)
        self.max_cached = cache_bytes // self.task_bytes
        self._no_rows = np.zeros((0, *network.input_shape), np.float32)
        self.place = session.place
        self.outputs = session.output_names
        self.info = info
        self.num_tasks = len(info.tasks)
        self.real_outputs = network.real_outputs
        self._own = [kind for kind in ("parameters", "state") if getattr(network, kind)]
        self.keeps_weights = self.info.mode != "infer" and set(self._own) <= set(self.outputs)

    @property
    def cached_bytes(self) -> int:
        """Bytes that cached weights take now."""
        return len(self._cache) * self.task_bytes

    def task_scores(self, x: Images) -> Floats:
        """One-shot scores of a batch: ``float32 (tasks,)``, ``-d objective / d alphas``.

        Raises:
            InputError: If the model was exported without them, or one is not finite.
        """
        return self._checked(self._scored(x, ["task_scores"])[0])

    def scored(self, x: Images) -> list[Floats]:
        """Logits ``float32 (batch, outputs)`` of the likeliest task, and `task_scores`."""
        logits, scores = self._scored(x, ["logits", "task_scores"])
        return [logits, self._checked(scores)]

    def scores_at(self, x: Images, tasks: npt.NDArray[np.int64], alphas: Floats) -> Floats:
        """As `task_scores`, at a superposition: ``alphas (n,)`` of the masks of `tasks` ``(n,)``.

        Raises:
            InputError: If the model cannot score there, or a score is not finite.
        """
        if self.info.mode != "full":
            raise InputError(
                f"{self.place}: exported with outputs {list(self.outputs)}, so it cannot score at "
                "a superposition, as binary and gradient do; export with all outputs"
            )
        feeds = _superposition(tasks, alphas, infer=True)
        return self._checked(self._session.run(["task_scores"], {"x": x, **feeds})[0])

    def _checked(self, scores: Floats) -> Floats:
        return checked_outputs(scores, "one-shot scores", self.place)

    def _scored(self, x: Images, outputs: list[str], **more: Array) -> list[Floats]:
        if "task_scores" not in self.outputs:
            raise InputError(
                f"{self.place}: exported without task_scores, so one-shot is not there; "
                "export with all outputs, or, with known tasks, use method='exhaustive'"
            )
        all_tasks = _superposition([], [], infer=True) if self.info.mode == "full" else {}
        return self._session.run(outputs, {"x": x, **all_tasks, **more})

    def row_scores(self, x: Images) -> Floats:
        """As `task_scores`, for each row on its own: ``float32 (batch, tasks)``.

        Many rows are scored in one pass, which unpacks the masks once for all of them; a few, or
        with a model that cannot, one by one.
        """
        step = _PASS_BYTES // self.task_bytes
        able = "per_image" in self._session.input_names and step >= _FEW_ROWS
        more: dict[str, Array] = {"per_image": np.array(True)}
        if len(x) < _FEW_ROWS or not able:
            step, more = 1, {}
        passes = [
            self._scored(x[i : i + step], ["task_scores"], **more)[0]
            for i in range(0, len(x), step)
        ]
        return self._checked(np.concatenate(passes, axis=None).reshape(len(x), self.num_tasks))

    def task_logits(self, x: Images, task_index: int) -> Floats:
        """Logits ``float32 (batch, outputs)`` through one task's mask; its weights are not kept."""
        program = self._cached(task_index)
        return program.run(x) if program else self.superposed(x, [task_index], [1.0])

    def inferred(self, x: Images) -> tuple[Floats, int]:
        """Logits and task of a model that always infers and answers with both.

        Raises:
            InputError: If a score is not finite, where the model has them as an output.
        """
        scores = [name for name in ("task_scores",) if name in self.outputs]
        logits, task, *found = self._session.run(["logits", "task", *scores], {"x": x})
        for each in found:
            self._checked(each)
        return logits, int(task[0])

    def warm(self, x: Images) -> None:
        """Infer once, if the model can; the outcome does not matter."""
        if "task_scores" in self.outputs:
            self.task_scores(x)
        elif self.info.mode == "infer":
            self._session.run(self.outputs, {"x": x})

    def known_logits(self, x: Images, task_index: int) -> Floats:
        """As `task_logits`, and keep the task's weights for the next call."""
        if not (self.max_cached and self.keeps_weights):
            return self.superposed(x, [task_index], [1.0])
        return (self._cached(task_index) or self._fetched(task_index)).run(x)

    def keep_recurring(self, tasks: set[int]) -> None:
        """Keep the weights of the tasks that two calls in a row inferred: a third is likely."""
        again, self._last_inferred = tasks & self._last_inferred, tasks
        if self.max_cached and self.keeps_weights:
            for task in sorted(again)[: self.max_cached]:
                self._cached(task) or self._fetched(task)

    def _cached(self, task_index: int) -> BoundProgram | None:
        """The forward program with a task's weights, if the cache has them."""
        with self._cache_lock:
            program = self._cache.get(task_index)
            if program is not None:
                self._cache.move_to_end(task_index)
        return program

    def _fetched(self, task_index: int) -> BoundProgram:
        """As `_cached`, fetched from the model by one thread at a time."""
        with self._fetch_lock:
            program = self._cached(task_index)  # another thread may have fetched it meanwhile
            if program is None:
                with self._cache_lock:
                    while len(self._cache) >= self.max_cached:  # first: its memory is used again
                        self._cache.popitem(last=False)
                program = self._bind(task_index)
                with self._cache_lock:
                    self._cache[task_index] = program
        return program

    def _bind(self, task_index: int) -> BoundProgram:
        network = self.info.network
        feeds = self._feeds([task_index], [1.0], self._own)
        values = self._session.fetch(self._own, {"x": self._no_rows, **feeds})
        flat = dict(zip(self._own, values, strict=True))
        parts = _cut(network.parameters, flat.get("parameters"))
        parts += _cut(network.state, flat.get("state"))
        return self._forward.bind(parts, "logits", network.outputs)

    def superposed(self, x: Images, indices: Sequence[int], alphas: npt.ArrayLike) -> Floats:
        """Logits ``float32 (batch, outputs)`` through a superposition of masks.

        Raises:
            InputError: If the model was exported without what that takes.
        """
        feeds = self._feeds(indices, alphas, ["logits"])
        return self._session.run(["logits"], {"x": x, **feeds})[0]

    def _feeds(
        self, indices: Sequence[int], alphas: npt.ArrayLike, outputs: Sequence[str]
    ) -> dict[str, Array]:
        """What selects a superposition, if the model can and has the outputs."""
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
        return feeds


def _cut(tensors: Sequence[MaskedParameter | StateTensor], flat: Any) -> list[BoundPart]:  # noqa: ANN401 - an OrtValue
    """Where each of the tensors lies in a flat value."""
    return [
        BoundPart(name=tensor.name, shape=tensor.shape, value=flat, start=span.start)
        for tensor, span in zip(tensors, spans(tensors), strict=True)
    ]


def _superposition(
    indices: npt.ArrayLike, alphas: npt.ArrayLike, *, infer: bool
) -> dict[str, Array]:
    return {
        "tasks": np.asarray(indices, np.int64),
        "alphas": np.asarray(alphas, np.float32),
        "infer": np.array(infer),
    }
