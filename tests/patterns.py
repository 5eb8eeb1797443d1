"""Random patterns of signs, for Hopfield networks."""

from __future__ import annotations

import numpy as np

from supsup_runtime.arrays import Floats
from supsup_runtime.hopfield.matrix import HopfieldMatrix


def random_patterns(count: int, size: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((count, size)) < 0.5, 1, -1).astype(np.float32)


def flipped(pattern: Floats, fraction: float, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    turned = rng.choice(len(pattern), int(fraction * len(pattern)), replace=False)
    other = pattern.copy()
    other[turned] *= -1
    return other


def filled(patterns: Floats, rule: str, dtype: str = "float32") -> HopfieldMatrix:
    matrix = HopfieldMatrix(patterns.shape[1], rule=rule, dtype=dtype)
    for pattern in patterns:
        matrix.add(pattern)
    return matrix
