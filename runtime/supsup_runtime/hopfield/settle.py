"""Dynamics of a Hopfield network."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from supsup_runtime.arrays import Floats

MAX_LOOKS = 1000


def settle(
    look: Callable[[Floats], tuple[float, Floats]], diagonal: Floats, pattern: Floats
) -> tuple[Floats, bool]:
    """Follow the dynamics of a Hopfield network to a fixed point.

    All units whose field opposes their sign flip together. If that does not lower the energy, the
    more strongly opposed half flips instead, and so on down to one, which always lowers it.
    Self-coupling is excluded; a field of 0 flips nothing.

    Args:
        look: Returns energy and field ``Psi z`` of a pattern.
        diagonal: Diagonal of Psi, ``float32 (d,)``.
        pattern: ``float32 (d,)`` of -1 and 1.

    Returns:
        The pattern, and whether it is a fixed point: false after 1000 looks.
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
            return z, True  # opposed by less than float32 resolution
        else:
            taken = len(most) // 2
    return z, False
