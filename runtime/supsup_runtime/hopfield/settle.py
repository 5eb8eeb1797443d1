"""The dynamics of a Hopfield network: from a pattern to a fixed point below it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from supsup_runtime.arrays import Floats

MAX_LOOKS = 1000


def settle(
    look: Callable[[Floats], tuple[float, Floats]], diagonal: Floats, pattern: Floats
) -> tuple[Floats, bool]:
    """Follow the dynamics of a Hopfield network from a pattern to a fixed point.

    All units that want to turn do so at once; where that does not lower the energy, the half of
    them that wants it most, and so on down to one, which always does. So the energy falls with
    every turn. A unit does not see itself; at a field of 0 it keeps its sign.

    Args:
        look: Energy and field ``Psi z`` of a pattern.
        diagonal: Of Psi, ``float32 (d,)``.
        pattern: ``float32 (d,)`` of -1 and 1.

    Returns:
        The pattern, and whether it is a fixed point; it is not after 1000 looks.
    """
    z, taken = pattern, math.inf
    energy, seen = look(z)
    for _ in range(MAX_LOOKS):
        margins = z * (seen - diagonal * z)
        unhappy = np.flatnonzero(margins < 0)
        if not len(unhappy):
            return z, True
        most = unhappy[np.argsort(margins[unhappy], kind="stable")]
        most = most[: int(min(taken, len(most)))]
        turned = z.copy()
        turned[most] *= -1
        lower, other = look(turned)
        if lower < energy:
            z, energy, seen, taken = turned, lower, other, math.inf
        elif len(most) == 1:
            return z, True  # it wants to by less than float32 can tell
        else:
            taken = len(most) // 2
    return z, False
