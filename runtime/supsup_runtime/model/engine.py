"""Run a model's graph; run cached tasks at the speed of a plain model."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Array, Floats, Images, checked_outputs
from supsup_runtime.bank.layout import spans
from supsup_runtime.bank.network import MaskedParameter, StateTensor
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.inputs import Inputs, blank
from supsup_runtime.model.loading import OpenedModel
from supsup_runtime.model.session import BoundPart, BoundProgram, Shapes
from supsup_runtime.objectives import default_score

_LOG = logging.getLogger("supsup.model.engine")
MAX_CACHE_BYTES = 1 << 40
DEFAULT_CACHE_BYTES = 64 << 20
"""Or one task, if that is more."""
_FEW_ROWS = 24
"""With fewer rows, a call per row is faster than one pass (docs/PERFORMANCE.md)."""
_PASS_BYTES = 256 << 20
"""Limit for the gradients of a pass, `task_bytes` per row; the peak is twice that."""

_TOLERANCE = 1e-2
"""Of the largest logit: far above rounding, even on a GPU, and below what a normaliser changes."""


class Engine:
    """An exported graph and its forward program; `Model` checks the arguments.

    Thread-safe. A cached task runs without a lock and never waits for a fetch of weights.

    Attributes:
        task_bytes: Bytes of a task's weights in the cache.
        max_cached: Number of tasks that fit the cache.
        keeps_weights: Whether the graph has the outputs that the cache needs.
        origin: Where it was loaded from, and how.
        inputs: Checks what the graph takes, as `x` is in all methods.
    """

    def __init__(self, opened: OpenedModel, *, cache_bytes: int | None) -> None:
        session, info = opened.session, opened.info
        self._session = session
        self._forward = opened.forward
        self._cache: OrderedDict[int, BoundProgram] = OrderedDict()
        self._cache_lock = Lock()
        self._fetch_lock = Lock()
        self._last_inferred: set[int] = set()
        self._agreed = False
        network = info.network
        self.task_bytes = 4 * (network.num_masked + network.num_state)
        if cache_bytes is None:
            cache_bytes = max(DEFAULT_CACHE_BYTES, self.task_bytes)
        self.max_cached = cache_bytes // self.task_bytes
        self._no_rows = blank(info, 0)
        self.place = session.place
        self.inputs = Inputs(info, session.place)
        options = opened.origin.options | {"cache_bytes": cache_bytes}
        self.origin = replace(opened.origin, options=options)
        self.outputs = session.output_names
        self.info = info
        self.num_tasks = len(info.tasks)
        self.default_score = default_score(network.outputs, network.real_outputs)
        self.real_outputs: Sequence[int] = [task.real_outputs for task in info.tasks]
        self._sizes = {"parameters": (network.num_masked,), "state": (network.num_state,)}
        self._own = [kind for kind in ("parameters", "state") if getattr(network, kind)]
        self.keeps_weights = self.info.mode != "infer" and set(self._own) <= set(self.outputs)
        if not (self.max_cached and self.keeps_weights):
            _LOG.info("%s: keeps no task's weights, so calls run the whole graph", self.place)

    @property
    def cached_bytes(self) -> int:
        """Bytes of cached weights."""
        return len(self._cache) * self.task_bytes

    def task_scores(self, x: Images) -> Floats:
        """Return the one-shot scores of a batch, ``float32 (tasks,)``."""
        return self._checked(self._scored(x, {"task_scores": (self.num_tasks,)})[0])

    def scored(self, x: Images) -> list[Floats]:
        """Return logits ``(batch, outputs)`` of the best task, and `task_scores`."""
        shapes = {"logits": self._logits_of(x), "task_scores": (self.num_tasks,)}
        logits, scores = self._scored(x, shapes)
        return [logits, self._checked(scores)]

    def scores_at(self, x: Images, tasks: npt.NDArray[np.int64], alphas: Floats) -> Floats:
        """Return `task_scores` at the superposition of `tasks` ``(n,)`` by `alphas` ``(n,)``."""
        if self.info.mode != "full":
            raise InputError(
                f"{self.place}: exported with outputs {list(self.outputs)}, so it cannot score at "
                "a superposition, which binary and gradient need; export with all outputs"
            )
        feeds = _superposition(tasks, alphas, infer=True)
        shapes = {"task_scores": (self.num_tasks,)}
        return self._checked(self._session.answer(shapes, {"x": x, **feeds})[0])

    def _checked(self, scores: Floats) -> Floats:
        return checked_outputs(scores, "one-shot scores", self.place)

    def _logits_of(self, x: Images) -> tuple[int, ...]:
        return len(x), self.info.network.outputs

    def _scored(self, x: Images, shapes: Shapes, **more: Array) -> list[Floats]:
        if "task_scores" not in self.outputs:
            raise InputError(
                f"{self.place}: exported without task_scores, so one-shot is not available; "
                "export with all outputs, or, in mode known, use method='exhaustive'"
            )
        all_tasks = _superposition([], [], infer=True) if self.info.mode == "full" else {}
        return self._session.answer(shapes, {"x": x, **all_tasks, **more})

    def row_scores(self, x: Images) -> Floats:
        """Return `task_scores` of each row, ``(batch, tasks)``, in few passes if possible."""
        step = _PASS_BYTES // self.task_bytes
        able = "per_image" in self._session.input_names and step >= _FEW_ROWS
        more: dict[str, Array] = {"per_image": np.array(True)}
        if len(x) < _FEW_ROWS or not able:
            step, more = 1, {}
            _LOG.debug("%s: scores %d rows one by one", self.place, len(x))
        groups = [x[i : i + step] for i in range(0, len(x), step)]
        passes = [
            self._scored(group, {"task_scores": (len(group) * self.num_tasks,)}, **more)[0]
            for group in groups
        ]
        return self._checked(np.concatenate(passes, axis=None).reshape(len(x), self.num_tasks))

    def task_logits(self, x: Images, task_index: int) -> Floats:
        """Return logits ``(batch, outputs)`` of a task; cache its weights if those of all fit."""
        if self.num_tasks <= self.max_cached:
            return self.known_logits(x, task_index)
        program = self._cached(task_index)
        return self._run(program, x) if program else self.superposed(x, [task_index], [1.0])

    def inferred(self, x: Images) -> tuple[Floats, int]:
        """Return logits and inferred task in mode `infer`."""
        shapes = {"logits": self._logits_of(x), "task": (1,), "task_scores": (self.num_tasks,)}
        if "task_scores" not in self.outputs:
            del shapes["task_scores"]
        logits, task, *found = self._session.answer(shapes, {"x": x})
        for each in found:
            self._checked(each)
        if not 0 <= task[0] < self.num_tasks:
            raise ModelError(
                f"{self.place}: the inferred task must be in [0, {self.num_tasks}), got {task[0]}; "
                "export the bank again"
            )
        return logits, int(task[0])

    def warm(self, x: Images) -> None:
        """Run inference once, if supported."""
        if "task_scores" in self.outputs:
            self.task_scores(x)
        elif self.info.mode == "infer":
            self._session.run(self.outputs, {"x": x})

    def known_logits(self, x: Images, task_index: int) -> Floats:
        """Return `task_logits` and cache the task's weights."""
        if not (self.max_cached and self.keeps_weights):
            return self.superposed(x, [task_index], [1.0])
        return self._run(self._cached(task_index) or self._fetched(x, task_index), x)

    def _run(self, program: BoundProgram, x: Images) -> Floats:
        return program.run(self.inputs.prepared(x) if self.info.baked else x)

    def keep_recurring(self, x: Images, tasks: set[int]) -> None:
        """Cache tasks that two calls in a row inferred."""
        again, self._last_inferred = tasks & self._last_inferred, tasks
        if self.max_cached and self.keeps_weights:
            for task in sorted(again)[: self.max_cached]:
                self._cached(task) or self._fetched(x, task)

    def _cached(self, task_index: int) -> BoundProgram | None:
        with self._cache_lock:
            program = self._cache.get(task_index)
            if program is not None:
                self._cache.move_to_end(task_index)
        return program

    def _fetched(self, x: Images, task_index: int) -> BoundProgram:
        with self._fetch_lock:
            program = self._cached(task_index)  # another thread may have fetched it
            if program is None:
                with self._cache_lock:
                    while len(self._cache) >= self.max_cached:  # before the fetch, to reuse memory
                        old, _ = self._cache.popitem(last=False)
                        _LOG.debug("%s: evicted the weights of task %d", self.place, old)
                program = self._bind(task_index)
                if not self._agreed:
                    self._compare(x[:1], task_index, program)
                with self._cache_lock:
                    self._cache[task_index] = program
                _LOG.debug(
                    "%s: fetched %d bytes of task %d", self.place, self.task_bytes, task_index
                )
        return program

    def _compare(self, x: Images, task_index: int, program: BoundProgram) -> None:
        """Refuse a graph, such as one merged with another, that is not its forward program."""
        logits, own = self.superposed(x, [task_index], [1.0]), self._run(program, x)
        if not np.isfinite(logits).all():  # the caller refuses x
            return
        if not np.abs(logits - own).max() <= _TOLERANCE * np.abs(logits).max():
            raise ModelError(
                f"{self.place}: the graph and its forward program must compute the same logits, "
                "got others, as after a merge with another model; load with cache_bytes=0, which "
                "runs the graph alone"
            )
        self._agreed = True

    def _bind(self, task_index: int) -> BoundProgram:
        network = self.info.network
        feeds = self._feeds([task_index], [1.0], self._own)
        shapes = {name: self._sizes[name] for name in self._own}
        values = self._session.fetch(shapes, {"x": self._no_rows, **feeds})
        flat = dict(zip(self._own, values, strict=True))
        parts = _cut(network.parameters, flat.get("parameters"))
        parts += _cut(network.state, flat.get("state"))
        return self._forward.bind(parts, "logits", network.outputs)

    def superposed(self, x: Images, indices: Sequence[int], alphas: npt.ArrayLike) -> Floats:
        """Return logits ``(batch, outputs)`` of a superposition of masks."""
        feeds = self._feeds(indices, alphas, ["logits"])
        return self._session.answer({"logits": self._logits_of(x)}, {"x": x, **feeds})[0]

    def _feeds(
        self, indices: Sequence[int], alphas: npt.ArrayLike, outputs: Sequence[str]
    ) -> dict[str, Array]:
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
