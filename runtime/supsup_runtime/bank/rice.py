"""Masks with few ones, as Golomb-Rice codes of their gaps (docs/FORMAT.md, "Rice masks")."""

from __future__ import annotations

import struct

import numpy as np

from supsup_runtime.arrays import Array, Bytes
from supsup_runtime.bank.bits import (
    Places,
    count_ones,
    find_ones,
    pack_mask,
    pack_ones,
    packed_bytes,
    unpack_mask,
)
from supsup_runtime.errors import BankError

_HEAD = struct.Struct("<BI")  # the parameter, and how many ones
_MAX_PARAMETER = 33  # of a gap in 2^33 weights
_MIN_PER_ONE = 4
"""Weights per one: of denser masks, a code takes long to read and saves little."""


def encode_rice(packed: Bytes, num_elements: int) -> Bytes:
    """Encode packed bits, within 3 % of the entropy if random.

    Those of which more than a quarter are ones come back as they are.
    """
    if count_ones(packed) * _MIN_PER_ONE > num_elements:
        return packed
    return _stream(find_ones(packed, num_elements))


def decode_rice(blob: Bytes, num_elements: int, *, place: str) -> Bytes:
    """Invert `encode_rice`; memory is bounded by `blob` and `num_elements`.

    Raises:
        BankError: If `blob` is not what `encode_rice` makes of a mask of `num_elements`.
    """
    ones = _ones(blob, num_elements)
    if ones is None or not np.array_equal(_stream(ones), blob):
        raise BankError(
            f"{place}: the {len(blob)} bytes must be the Rice code of a mask of {num_elements} "
            "weights, got others; the file is damaged or was not made by supsup"
        )
    return pack_ones(ones, num_elements)


def _stream(ones: Places) -> Bytes:
    gaps = np.diff(ones, prepend=-1) - 1
    count, parameter, quotients = len(gaps), 0, gaps
    # one more bit for each remainder takes half of each quotient's zeros, rounded up
    while count < int(np.sum((quotients + 1) >> 1)):
        parameter += 1
        quotients = gaps >> parameter
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(ends[-1] + 1 if count else 0, np.bool_)
    unary[ends] = True
    bits = gaps >> np.arange(parameter)[:, None] & 1  # (parameter, count)
    parts: list[Array] = [pack_mask(unary), pack_mask(bits.astype(np.bool_))]
    head = np.frombuffer(_HEAD.pack(parameter, count), np.uint8)
    return np.concatenate([head, *parts])


def _ones(blob: Bytes, num_elements: int) -> Places | None:
    """Return the ones within `num_elements` that a stream has, or None."""
    if len(blob) < _HEAD.size:
        return None
    parameter, count = _HEAD.unpack(blob[: _HEAD.size].tobytes())
    end = len(blob) - packed_bytes(parameter * count)
    if parameter > _MAX_PARAMETER or count * _MIN_PER_ONE > num_elements or end < _HEAD.size:
        return None
    ones = find_ones(blob[_HEAD.size : end], 8 * (end - _HEAD.size))
    if len(ones) != count:
        return None
    if parameter and count:
        numbers = np.arange(count)
        ones -= numbers  # the sum of quotients so far
        if int(ones[-1]) << parameter >= num_elements:
            return None
        remainders = np.zeros(count, np.int64)
        for place, bits in enumerate(unpack_mask(blob[end:], (parameter, count))):
            remainders += bits.astype(np.int64) << place
        ones = (ones << parameter) + np.cumsum(remainders) + numbers
    return ones if not count or ones[-1] < num_elements else None
