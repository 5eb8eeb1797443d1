"""The result of a recovery."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Bits, about, few
from supsup_runtime.model.metadata import TaskInfo

Verdict = Literal["stored", "spurious", "not-converged", "diverged"]

TOLERANCE = 0.02
"""Largest fraction of a parameter's bits between a mask and its fixed point."""
SURE_ROWS = 64
"""Fewest inputs whose mean entropy identifies a task."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Values per step; the mask of row `t` has taken `t` steps.

    Attributes:
        entropy: H of the batch through the mask, ``float64 (steps,)``, in nats.
        energy: ``-1/2 z^T Psi z``, summed over parameters, ``float64 (steps,)``.
        distance: ``float64 (steps + 1,)`` within ``[0, 1]``: fraction of bits between the mask and
            the fixed point of the last mask, the largest of all parameters; the last value is that
            before a look took effect.
    """

    entropy: npt.NDArray[np.float64]
    energy: npt.NDArray[np.float64]
    distance: npt.NDArray[np.float64]

    @property
    def converged_after(self) -> int | None:
        """Steps until the mask stays within `TOLERANCE`; None if never."""
        outside = np.flatnonzero(self.distance > TOLERANCE)
        after = int(outside[-1]) + 1 if len(outside) else 0
        return after if after < len(self.distance) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """Result of `HopfieldModel.recover`.

    Attributes:
        verdict: ``stored``: the mask of a task, found by a look or within 2 % of the bits at the
            end. ``spurious``: a fixed point that is not one task's in all parameters.
            ``not-converged``: no fixed point within 2 % of the bits, or the last inputs do not fit
            it or are too few. ``diverged``: stopped at a value that is not finite.
        reason: The verdict as a sentence.
        tasks: Tasks with this mask, several if masks are equal; empty unless ``stored``.
        mask: ``bool (num_masked,)``, in parameter order: the fixed point if found, else the last
            mask.
        trace: Entropy, energy and distance per step.
        looked: Whether a look found the mask, after the last step of `trace`.
        entropy: Mean H of the last inputs (up to 320) through `mask`, in nats.
        expected_entropy: Entropy recorded for the task, or the largest of all tasks if `mask` is no
            task's; None if not recorded.
    """

    verdict: Verdict
    reason: str
    tasks: tuple[TaskInfo, ...]
    mask: Bits
    trace: Trace
    looked: bool
    entropy: float
    expected_entropy: float | None

    def __repr__(self) -> str:
        tasks = f"tasks {few([task.name for task in self.tasks[:4]])}" if self.tasks else "no task"
        return about(self, self.verdict, tasks, f"{self.steps} steps, entropy {self.entropy:.4g}")

    @property
    def task(self) -> TaskInfo | None:
        """First of `tasks`, or None."""
        return self.tasks[0] if self.tasks else None

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return len(self.trace.entropy)

    @property
    def converged_after(self) -> int | None:
        """Steps until the fixed point was found or stayed within 2 %, or None."""
        if self.verdict not in {"stored", "spurious"}:
            return None
        return self.steps if self.looked else self.trace.converged_after

    def to_dict(self) -> dict[str, Any]:
        """Return all but the mask as JSON; values that are not finite become null."""
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
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class End:
    """Where a recovery ended, and what decides the verdict."""

    problem: str  # empty if all values are finite
    steps: int
    looked: bool
    settled: Bits  # fixed point of the last mask
    distance: float  # fraction of bits between them
    fixed: bool
    tasks: tuple[TaskInfo, ...]  # with this mask
    rows: int  # inputs of `entropy`
    entropy: float  # through `settled`, in nats
    expected: float | None  # None if not recorded
    max_ratio: float  # limit of entropy / expected

    @property
    def arrived(self) -> bool:
        """Whether the mask is at or near a fixed point."""
        near = self.fixed and self.distance <= TOLERANCE
        return not self.problem and (self.looked or near)

    @property
    def fits(self) -> bool:
        """Whether the entropy fits the task's own, or none was recorded."""
        return self.expected is None or self.entropy <= self.max_ratio * self.expected


def judge(end: End) -> tuple[Verdict, str]:
    """Return the verdict and its reason."""
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
            f"expected at most {end.max_ratio:g} times {end.expected:.3g}: an unknown task?"
        )
    if end.expected is not None and end.rows < SURE_ROWS:
        return "not-converged", (
            f"at {place}, but {end.rows} inputs are too few to rule out an unknown task, "
            f"at least {SURE_ROWS} are needed"
        )
    how = f"found by a look after step {end.steps}" if end.looked else "reached at the end"
    reason = f"at {place}, {how}, {end.distance:.1%} of the bits away"
    if end.expected is None:
        reason += "; its entropy was not recorded, so an unknown task cannot be ruled out"
    return ("stored" if end.tasks else "spurious"), reason
