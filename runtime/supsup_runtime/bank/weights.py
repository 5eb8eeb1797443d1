"""Seeded weights, version 1: the fixed random network from one integer.

Weights are ``+c`` or ``-c`` with equal probability; ``c = sqrt(2 / fan_in)``, the standard
deviation of Kaiming's normal (Wortsman et al. 2020, "signed Kaiming constant"). Signs come from
Philox, whose raw stream numpy guarantees (docs/FORMAT.md, "Seeded weights").
"""

from __future__ import annotations

import math

import numpy as np

from supsup_runtime.arrays import Bytes, Floats
from supsup_runtime.bank.bits import packed_bytes, unpack_mask
from supsup_runtime.errors import InputError

MAX_SEED = 2**64 - 1


def sign_plane(weight_seed: int, parameter_index: int, num_elements: int) -> Bytes:
    """Return the signs of one parameter, packed like a mask: 1 is ``+c``, 0 is ``-c``.

    Args:
        weight_seed: In ``[0, 2**64)``.
        parameter_index: Position among the network's masked parameters.
        num_elements: Weights in the parameter.

    Returns:
        ``uint8 (ceil(num_elements / 8),)``; padding bits are zero.

    Raises:
        InputError: If the seed is out of range.
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
    """Return ``sqrt(2 / fan_in)`` of a weight ``(out, in, ...)``; fan_in multiplies ``in, ...``."""
    return math.sqrt(2 / math.prod(shape[1:]))


def seeded_weight(
    weight_seed: int, parameter_index: int, shape: tuple[int, ...], constant: float
) -> Floats:
    """Return one parameter of the fixed network: ``float32 shape`` of ``+-constant``."""
    plane = sign_plane(weight_seed, parameter_index, math.prod(shape))
    c = np.float32(constant)
    return np.where(unpack_mask(plane, shape), c, -c)
