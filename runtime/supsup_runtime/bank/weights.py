"""Seeded weights, version 1: the fixed random network from one integer.

Weights are ``+-sqrt(2 / fan_in)`` with equal probability, the "signed Kaiming constant" of Wortsman
et al. 2020; signs come from Philox (docs/FORMAT.md, "Seeded weights").
"""

from __future__ import annotations

import math

import numpy as np

from supsup_runtime.arrays import Bytes, Floats, checked_whole
from supsup_runtime.bank.bits import packed_bytes, unpack_mask

MAX_SEED = 2**64 - 1


def sign_plane(weight_seed: int, parameter_index: int, num_elements: int) -> Bytes:
    """Return a parameter's signs, packed like a mask: 1 is plus, 0 is minus.

    Raises:
        InputError: If `weight_seed` is not in ``[0, 2**64)``.
    """
    weight_seed = checked_whole("weight_seed", weight_seed, 0, MAX_SEED)
    key = np.array([weight_seed, parameter_index], np.uint64)
    words = np.random.Philox(key=key).random_raw(-(-num_elements // 64)).astype("<u8")
    plane = words.view(np.uint8)[: packed_bytes(num_elements)].copy()
    if num_elements % 8:
        plane[-1] &= (1 << num_elements % 8) - 1
    return plane


def kaiming_constant(shape: tuple[int, ...]) -> float:
    """Return ``sqrt(2 / fan_in)`` of ``(out, in, ...)``; fan_in multiplies all but ``out``."""
    return math.sqrt(2 / math.prod(shape[1:]))


def seeded_weight(
    weight_seed: int, parameter_index: int, shape: tuple[int, ...], constant: float
) -> Floats:
    """Return one parameter of the network: ``float32 shape`` of ``+-constant``."""
    plane = sign_plane(weight_seed, parameter_index, math.prod(shape))
    c = np.float32(constant)
    return np.where(unpack_mask(plane, shape), c, -c)
