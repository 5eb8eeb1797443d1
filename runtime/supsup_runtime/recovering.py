"""One recovery on its way: the descent, looks at where it would settle, and its end."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from supsup_runtime.contract import TaskInfo
from supsup_runtime.hopfield import to_pattern
from supsup_runtime.hopfield_graph import HopfieldGraph
from supsup_runtime.images import Images
from supsup_runtime.objectives import entropy
from supsup_runtime.recovered import TOLERANCE, Recovered, Trace, judge
from supsup_runtime.recovery import Descent, Recovery

__all__ = ["Recovering"]

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]
LAST_ROWS = 320
SURE_ROWS = 32
"""Inputs below which their mean entropy says too little to end a descent by it."""


class Recovering:
    """A recovery, a batch at a time.

    Attributes:
        problem: What was not finite; empty while all is well.
    """

    def __init__(self, graph: HopfieldGraph, start: Floats, how: Recovery) -> None:
        """Begin from scores ``float32 (num_masked,)``."""
        self._graph = graph
        self._how = how
        self._start = start
        self._descent = Descent(start, how)
        self._last = _LastRows()
        self._masks: list[Bits] = []
        self._entropies: list[float] = []
        self._energies: list[float] = []
        self._anew = False
        self.problem = ""

    def step(self, x: Images, strengths: tuple[float, float]) -> None:
        """Take a step on a batch, with the strengths of entropy and energy."""
        number, mask = len(self._masks), self._descent.mask
        seen = self._graph.step(x, mask, *strengths, statistics=self._how.statistics)
        self._masks.append(mask.astype(np.bool_))
        self._entropies.append(seen.entropy)
        self._energies.append(seen.energy)
        self._last.add(x)
        for name, value in (("entropy", seen.entropy), ("energy", seen.energy)):
            if not np.isfinite(value):
                self.problem = f"{name} is {value} in step {number}: the inputs are too large"
                return
        if not self._descent.step(seen.gradient):
            self.problem = f"a score is not finite after step {number}: take a smaller step_size"

    def look(self) -> bool:
        """Settle the mask, and see whose it is.

        A stored task's in all parameters, with an entropy of the last inputs that fits: the
        recovery is at its end, and the mask is the task's. In some parameters alone: those take
        their fixed point, and the others begin anew, which they do once.
        """
        mask, _ = self._graph.settle(self._mask())
        owners = self._graph.owners(mask)
        if set.intersection(*owners):
            if not self._fits(mask):
                return False
            for part in self._graph.parts:
                self._descent.put(part, to_pattern(mask[part]))
            return True
        for part, tasks in zip(self._graph.parts, owners, strict=True):
            if tasks:
                size = np.abs(self._descent.scores[part]).mean()
                self._descent.put(part, to_pattern(mask[part]) * size)
            elif any(owners) and not self._anew:
                self._descent.put(part, self._start[part])
        self._anew = self._anew or any(owners)
        return False

    def result(self) -> Recovered:
        """Where it ended, and what that is."""
        graph, ended = self._graph, self._mask()
        fixed_point, fixed = graph.settle(ended)
        trace = Trace(
            entropy=np.array(self._entropies),
            energy=np.array(self._energies),
            distance=np.array(
                [graph.distance(mask, fixed_point) for mask in (*self._masks, ended)]
            ),
        )
        away = float(trace.distance[-1])
        arrived = fixed and away <= TOLERANCE and not self.problem
        mask = fixed_point if arrived else ended
        task = graph.find(mask) if arrived else None
        found, expected = self._entropy(mask), self._expected(task)
        verdict, reason = judge(
            problem=self.problem,
            arrived=arrived,
            distance=away,
            task=task,
            entropy=found,
            expected=expected,
            max_ratio=self._how.max_entropy_ratio,
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

    def _mask(self) -> Bits:
        return self._descent.mask.astype(np.bool_)

    def _fits(self, mask: Bits) -> bool:
        """Whether enough inputs were seen, and are through a stored task's mask as its own."""
        expected = self._expected(self._graph.find(mask))
        if expected is None or len(self._last) < SURE_ROWS:
            return False
        return self._entropy(mask) <= self._how.max_entropy_ratio * expected

    def _entropy(self, mask: Bits) -> float:
        """Mean H of the last inputs, in nats."""
        logits = self._graph.logits(self._last.rows(), mask, statistics=self._how.statistics)
        return float(entropy(logits.astype(np.float64)).mean())

    def _expected(self, task: TaskInfo | None) -> float | None:
        """A task's own entropy; of none, the largest of all tasks'."""
        entropies = self._graph.store.entropies
        if task is not None:
            return entropies[task.index]
        return max((h for h in entropies if h is not None), default=None)


class _LastRows:
    """The newest inputs of a stream, at most `LAST_ROWS` of them."""

    def __init__(self) -> None:
        self._batches: deque[Images] = deque()
        self._count = 0

    def __len__(self) -> int:
        return min(self._count, LAST_ROWS)

    def add(self, x: Images) -> None:
        self._batches.append(x)
        self._count += len(x)
        while self._count - len(self._batches[0]) >= LAST_ROWS:
            self._count -= len(self._batches.popleft())

    def rows(self) -> Images:
        return np.concatenate(self._batches)[-LAST_ROWS:]
