"""Seeded weights, version 1: the fixed random network from one integer.

Weights are ``+-sqrt(2 / fan_in)`` with equal probability, the "signed Kaiming constant" of Wortsman
et al. 2020; signs come from Philox (docs/FORMAT.md, "Seeded weights").
"""

from __future__ import annotations

import math

import numpy as np

from supsup_runtime.arrays import Bytes, Floats
from supsup_runtime.bank.bits import packed_bytes, unpack_mask
from supsup_runtime.errors import InputError

MAX_SEED = 2**64 - 1


def sign_plane(weight_seed: int, parameter_index: int, num_elements: int) -> Bytes:
    """Return a parameter's signs, packed like a mask: 1 is plus, 0 is minus.

    Raises:
        InputError: If `weight_seed` is not in ``[0, 2**64)``.
    """
    if not 0 <= weight_seed <= MAX_SEED:
        raise InputError(f"weight_seed must be in [0, {MAX_SEED}], got {weight_seed}")
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
