"""Random patterns of signs, for Hopfield networks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def random_patterns(count: int, size: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((count, size)) < 0.5, 1, -1).astype(np.float32)


def flipped(pattern: Floats, fraction: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    turned = rng.choice(len(pattern), int(fraction * len(pattern)), replace=False)
    other = pattern.copy()
    other[turned] *= -1
    return other
