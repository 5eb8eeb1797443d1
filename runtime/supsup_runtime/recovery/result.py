"""The result of a recovery: the mask, its trace, and whether it is a stored task's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Bits
from supsup_runtime.model.metadata import TaskInfo

Verdict = Literal["stored", "spurious", "not-converged", "diverged"]

TOLERANCE = 0.02
"""Bits of a parameter's mask, as a fraction, within which it has arrived at a fixed point."""
SURE_ROWS = 64
"""Inputs below which their mean entropy says too little of the task."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """A value per step; the mask of row `t` has taken `t` steps.

    Attributes:
        entropy: H of the step's batch through the mask, ``float64 (steps,)``, in nats.
        energy: ``-1/2 z^T Psi z`` summed over parameters, ``float64 (steps,)``.
        distance: ``float64 (steps + 1,)``, within ``[0, 1]``: the fraction of bits in which the
            mask differs from the fixed point that the last mask falls to, the largest of all
            parameters. The last is of the last mask, before a look puts it there.
    """

    entropy: npt.NDArray[np.float64]
    energy: npt.NDArray[np.float64]
    distance: npt.NDArray[np.float64]

    @property
    def converged_after(self) -> int | None:
        """Steps after which the mask stays within `TOLERANCE`; None where it never does."""
        outside = np.flatnonzero(self.distance > TOLERANCE)
        after = int(outside[-1]) + 1 if len(outside) else 0
        return after if after < len(self.distance) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """Result of `HopfieldModel.recover`.

    Attributes:
        verdict: ``stored``: a task's own mask, which a look found, or within 2 % of which the
            descent ended. ``spurious``: a fixed point that is no task's, or not the same task's in
            all parameters. ``not-converged``: no fixed point within 2 % of the bits, or one through
            which the last inputs look like no stored task's, or are too few to tell. ``diverged``:
            a number was not finite, and the descent stopped there.
        reason: The same in a sentence, with the numbers.
        tasks: The tasks whose mask it is, more than one where masks are equal; empty unless
            ``stored``.
        mask: ``bool (num_masked,)``, flat, in the order of the network's parameters: the fixed
            point where one was found, else where the descent ended.
        trace: Entropy, energy and distance in each step.
        looked: Whether a look found it; it did so after the last step of the trace.
        entropy: Mean H of the last inputs (up to 320) through `mask`, in nats.
        expected_entropy: The task's own, recorded when it was learned; the largest of all tasks'
            where `mask` is no task's; None where it was not recorded.
    """

    verdict: Verdict
    reason: str
    tasks: tuple[TaskInfo, ...]
    mask: Bits
    trace: Trace
    looked: bool
    entropy: float
    expected_entropy: float | None

    @property
    def task(self) -> TaskInfo | None:
        """The first of `tasks`; None where there is none."""
        return self.tasks[0] if self.tasks else None

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.trace.entropy)

    @property
    def converged_after(self) -> int | None:
        """Steps after which the fixed point was found, or stayed within 2 %; None if neither."""
        if self.verdict not in {"stored", "spurious"}:
            return None
        return self.steps if self.looked else self.trace.converged_after

    def to_dict(self) -> dict[str, Any]:
        """All but the mask as JSON has it; null for what is not finite."""
        values = {name: getattr(self.trace, name) for name in ("distance", "energy", "entropy")}
        return {
            "converged_after": self.converged_after,
            "entropy": _finite(self.entropy),
            "expected_entropy": self.expected_entropy,
            "looked": self.looked,
            "reason": self.reason,
            "steps": self.steps,
            "task": None if self.task is None else self.task.name,
            "tasks": [task.name for task in self.tasks],
            "trace": {name: [_finite(v) for v in row.tolist()] for name, row in values.items()},
            "verdict": self.verdict,
        }


def _finite(value: float) -> float | None:
    """What JSON has a word for: a descent that diverged has none."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class End:
    """Where a recovery ended, and the numbers that decide the verdict."""

    problem: str  # what was not finite, if something was
    steps: int
    looked: bool  # whether a look found the fixed point
    settled: Bits  # what the last mask settles to
    distance: float  # fraction of bits between the two
    fixed: bool  # whether that is a fixed point
    tasks: tuple[TaskInfo, ...]  # whose mask that is
    rows: int  # inputs that the entropy is of
    entropy: float  # of these inputs through it, in nats
    expected: float | None  # what it should be; None where it was not recorded
    max_ratio: float  # times `expected` up to which an entropy fits

    @property
    def arrived(self) -> bool:
        """Whether the mask is at a fixed point, or near enough."""
        near = self.fixed and self.distance <= TOLERANCE
        return not self.problem and (self.looked or near)

    @property
    def fits(self) -> bool:
        """Whether the entropy is as the task's own; true where that was not recorded."""
        return self.expected is None or self.entropy <= self.max_ratio * self.expected


def judge(end: End) -> tuple[Verdict, str]:
    """The verdict and its reason."""
    if end.problem:
        return "diverged", end.problem
    if not end.arrived:
        return "not-converged", (
            f"{end.distance:.1%} of the bits from the nearest fixed point, allowed {TOLERANCE:.0%}"
        )
    place = " and ".join(repr(task.name) for task in end.tasks)
    place = f"the mask of {place}" if place else "a fixed point of no stored task"
    if not end.fits:
        return "not-converged", (
            f"at {place}, but the last inputs have an entropy of {end.entropy:.3g} through it, "
            f"expected at most {end.max_ratio:g} times {end.expected:.3g}: of an unknown task?"
        )
    if end.expected is not None and end.rows < SURE_ROWS:
        return "not-converged", (
            f"at {place}, but {end.rows} inputs are too few to tell whether they are of an unknown "
            f"task, at least {SURE_ROWS} are needed"
        )
    how = f"found by a look after step {end.steps}, from" if end.looked else "at the end within"
    reason = f"at {place}, {how} {end.distance:.1%} of the bits"
    if end.expected is None:
        reason += "; its own entropy was not recorded, so an unknown task would not be told"
    return ("stored" if end.tasks else "spurious"), reason
