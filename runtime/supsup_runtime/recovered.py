"""What came of a recovery: the mask, the way to it, and whether a stored task's was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from supsup_runtime.contract import TaskInfo

__all__ = ["TOLERANCE", "Recovered", "Trace", "Verdict", "judge"]

Bits = npt.NDArray[np.bool_]
Verdict = Literal["stored", "spurious", "not-converged", "diverged"]

TOLERANCE = 0.02
"""Bits of a parameter's mask, as a fraction, within which it has arrived at a fixed point."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What happened, a value a step; the mask of row `t` has taken `t` steps.

    Attributes:
        entropy: H of the step's batch through the mask, ``float64 (steps,)``, in nats.
        energy: ``-1/2 z^T Psi z`` summed over parameters, ``float64 (steps,)``.
        distance: ``float64 (steps + 1,)``, within ``[0, 1]``: the fraction of bits in which the
            mask differs from the fixed point that the last mask falls to, the largest of all
            parameters. The last is of the last mask.
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
    """What `HopfieldModel.recover` found.

    Attributes:
        verdict: ``stored``: a task's own mask. ``spurious``: a fixed point that is no task's, or
            not the same task's in all parameters. ``not-converged``: no fixed point within 2 % of
            the bits, or one through which the last inputs look like no stored task's.
            ``diverged``: a number was not finite, and the descent stopped there.
        reason: The same in a sentence, with the numbers.
        task: The task whose mask it is; None unless ``stored``.
        mask: ``bool (num_masked,)``, flat, in the order of the network's parameters: the fixed
            point where one was within reach, else where the descent ended.
        trace: What happened on the way.
        entropy: Mean H of the last inputs (up to 320) through `mask`, in nats.
        expected_entropy: The task's own, recorded when it was learned; the largest of all tasks'
            where `mask` is no task's; None where it was not recorded.
    """

    verdict: Verdict
    reason: str
    task: TaskInfo | None
    mask: Bits
    trace: Trace
    entropy: float
    expected_entropy: float | None

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.trace.entropy)


def judge(
    *,
    problem: str,
    arrived: bool,
    distance: float,
    task: TaskInfo | None,
    entropy: float,
    expected: float | None,
    max_ratio: float,
) -> tuple[Verdict, str]:
    """The verdict and its reason.

    Args:
        problem: What was not finite, if something was.
        arrived: A fixed point is within `TOLERANCE` of the last mask.
        distance: Fraction of bits to what the last mask falls to.
        task: Whose mask the fixed point is.
        entropy: Of the last inputs through it.
        expected: What it should be; None where that is not known, and then all is well.
        max_ratio: How many times that is still well.
    """
    if problem:
        return "diverged", problem
    if not arrived:
        return "not-converged", (
            f"{distance:.1%} of the bits from the nearest fixed point, allowed {TOLERANCE:.0%}"
        )
    place = "a fixed point of no stored task" if task is None else f"the mask of {task.name!r}"
    if expected is not None and not entropy <= max_ratio * expected:
        return "not-converged", (
            f"at {place}, but the last inputs have an entropy of {entropy:.3g} through it, "
            f"expected at most {max_ratio:g} times {expected:.3g}: of an unknown task?"
        )
    reason = f"at {place}, {distance:.1%} of the bits away when the steps ended"
    return ("stored" if task else "spurious"), reason
