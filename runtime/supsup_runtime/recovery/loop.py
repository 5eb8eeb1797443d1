"""One recovery: descent, looks and result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import replace
from itertools import islice

import numpy as np

from supsup_runtime.arrays import Bits, Floats, Images, as_number, checked_whole, shown
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.store import to_pattern
from supsup_runtime.objectives import entropy
from supsup_runtime.recovery.descent import Descent, Recovery, Schedule
from supsup_runtime.recovery.graph import HopfieldGraph
from supsup_runtime.recovery.result import SURE_ROWS, End, Recovered, Trace, judge

LAST_ROWS = 320
"""Newest inputs, kept to judge the result."""


def count_steps(batches: Iterable[object], steps: int | None) -> int:
    """Return `steps`, or the number of batches; raise `InputError` if invalid."""
    if steps is None:
        if not isinstance(batches, Sized):
            raise InputError(
                "steps: required because batches has no length and the schedule needs the end; "
                "give steps, or a list"
            )
        if not len(batches):
            raise InputError("batches: must have at least one, got none")
        return len(batches)
    steps = checked_whole("steps:", steps, 1)
    if isinstance(batches, Sized) and len(batches) < steps:
        raise _too_few(steps, len(batches))
    return steps


class Recovering:
    """One recovery from scores ``float32 (num_masked,)``."""

    def __init__(self, graph: HopfieldGraph, start: Floats, how: Recovery) -> None:
        self._graph = graph
        self._how = how
        self._start = start
        self._descent = Descent(start, how)
        self._last = np.zeros((0, *graph.info.network.input_shape), np.float32)
        self._masks: list[Bits] = []
        self._entropies: list[float] = []
        self._energies: list[float] = []
        self._restarted_parts = False
        self._problem = ""  # which value was not finite

    def run(self, batches: Iterator[Images], total: int, schedule: Schedule) -> Recovered:
        """Take a step on each of `total` batches, until a look ends the recovery.

        Raises:
            InputError: If batches run out, or the schedule is invalid.
        """
        restarted, how = 0, self._how
        for taken, batch in enumerate(islice(batches, total), start=1):
            self._step(batch, _shares(schedule, taken - 1 - restarted, total - restarted))
            looks = how.look_every and taken % how.look_every == 0 and not self._problem
            end = self.look() if looks else None
            if self._problem or end:
                return self._result(end)
            every = how.restart_every if how.look_every else 0
            if 0 < every <= taken - restarted and 2 * (total - taken) >= every:
                self._descent = Descent(self._start, how)
                self._restarted_parts, restarted = False, taken
        if len(self._masks) < total:
            raise _too_few(total, len(self._masks))
        return self._result(None)

    def _step(self, x: Images, shares: tuple[float, float]) -> None:
        number, mask, how = len(self._masks), self._descent.mask, self._how
        strengths = shares[0], how.energy_strength * shares[1]
        seen = self._graph.step(x, mask, *strengths, statistics=how.statistics)
        self._masks.append(mask.astype(np.bool_))
        self._entropies.append(seen.entropy)
        self._energies.append(seen.energy)
        self._last = np.concatenate([self._last, x])[-LAST_ROWS:]
        for name, value in (("entropy", seen.entropy), ("energy", seen.energy)):
            if not np.isfinite(value):
                self._problem = f"{name} is {value} in step {number}: the inputs are too large"
                return
        if not self._descent.step(seen.gradient):
            self._problem = (
                f"a score is not finite after step {number}: step_size, weight_decay or the "
                "strengths are too large"
            )

    def look(self) -> End | None:
        """Settle the mask, and return the end of the recovery if it is a stored task's.

        The entropy of enough inputs must fit too. If only some parameters match, they take their
        fixed point and the others restart, once.
        """
        mask, fixed = self._graph.settle(self._mask())
        owners = self._graph.owners(mask)
        if set.intersection(*owners):
            end = self._end(mask, owners, fixed=fixed)
            sure = end.expected is not None and end.fits and end.rows >= SURE_ROWS
            return replace(end, looked=True) if sure else None
        for part, tasks in zip(self._graph.parts, owners, strict=True):
            if tasks:
                size = np.abs(self._descent.scores[part]).mean()
                self._descent.put(part, to_pattern(mask[part]) * size)
            elif any(owners) and not self._restarted_parts:
                self._descent.put(part, self._start[part])
        self._restarted_parts = self._restarted_parts or any(owners)
        return None

    def _result(self, end: End | None) -> Recovered:
        graph, ended = self._graph, self._mask()
        if end is None:
            settled, fixed = graph.settle(ended)
            end = self._end(settled, graph.owners(settled), fixed=fixed)
        mask = end.settled if end.arrived else ended
        verdict, reason = judge(end)
        masks = (*self._masks, ended)
        return Recovered(
            verdict=verdict,
            reason=reason,
            tasks=end.tasks if verdict == "stored" else (),
            mask=mask,
            trace=Trace(
                entropy=np.array(self._entropies),
                energy=np.array(self._energies),
                distance=np.array([graph.distance(mask, end.settled) for mask in masks]),
            ),
            looked=end.looked,
            entropy=end.entropy if end.arrived else self._entropy(ended),
            expected_entropy=end.expected,
        )

    def _end(self, settled: Bits, owners: list[set[int]], *, fixed: bool) -> End:
        tasks = self._graph.tasks_of(owners)
        own = [self._graph.store.entropies[task.index] for task in tasks or self._graph.info.tasks]
        known = [h for h in own if h is not None]
        return End(
            problem=self._problem,
            steps=len(self._masks),
            looked=False,
            settled=settled,
            distance=self._graph.distance(self._mask(), settled),
            fixed=fixed,
            tasks=tasks,
            rows=len(self._last),
            entropy=self._entropy(settled),
            expected=max(known) if known and (not tasks or len(known) == len(own)) else None,
            max_ratio=self._how.max_entropy_ratio,
        )

    def _entropy(self, mask: Bits) -> float:
        """Return mean H of the last inputs, in nats."""
        logits = self._graph.logits(self._last, mask, statistics=self._how.statistics)
        return float(entropy(logits.astype(np.float64)).mean())

    def _mask(self) -> Bits:
        return self._descent.mask.astype(np.bool_)


def _shares(schedule: Schedule, number: int, total: int) -> tuple[float, float]:
    shares = schedule(number, total) if callable(schedule) else schedule
    pair = isinstance(shares, tuple) and len(shares) == 2
    if not (pair and all(math.isfinite(as_number(share)) for share in shares)):
        raise InputError(
            "schedule: must return two finite numbers, of entropy and energy, "
            f"got {shown(shares)} in step {number}; see recovery.descent.linear"
        )
    return shares


def _too_few(steps: int, count: int) -> InputError:
    return InputError(
        f"batches: must have at least {steps}, one per step, got {count}; give more, "
        "or take fewer steps"
    )
