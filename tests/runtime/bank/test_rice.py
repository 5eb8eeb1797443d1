from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from supsup_runtime.bank.bits import pack_mask
from supsup_runtime.bank.rice import _stream, decode_rice, encode_rice
from supsup_runtime.errors import BankError

Mask = npt.NDArray[np.bool_]


def of(*ones: int, size: int) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[list(ones)] = True
    return mask


def stream_of(mask: Mask) -> bytes:
    return encode_rice(pack_mask(mask), mask.size).tobytes()


def refused(stream: bytes, size: int = 1000) -> bool:
    try:
        back = decode_rice(np.frombuffer(stream, np.uint8), size, place="here")
    except BankError:
        return True
    assert encode_rice(back, size).tobytes() == stream
    return False


def check(mask: Mask) -> None:
    packed = pack_mask(mask)
    coded = encode_rice(packed, mask.size)
    if 4 * mask.sum() > mask.size:
        assert coded is packed
        coded = _stream(np.flatnonzero(mask))
        assert refused(coded.tobytes(), mask.size)
    else:
        back = decode_rice(coded, mask.size, place="here")
        np.testing.assert_array_equal(back, packed)


@given(mask=hnp.arrays(np.bool_, st.integers(0, 300)))
def test_decode_inverts_encode(mask: Mask) -> None:
    check(mask)


@given(
    size=st.sampled_from([0, 1, 7, 8, 9, 1000, 30_011]),
    ones=st.sampled_from([0, 1, 2, 0.001, 0.01, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0]),
    seed=st.integers(0, 9),
)
def test_decode_inverts_encode_at_any_density(size: int, ones: float, seed: int) -> None:
    count = min(size, ones) if isinstance(ones, int) else round(ones * size)
    check(np.random.default_rng(seed).permutation(size) < count)


def test_streams_are_frozen() -> None:
    """Format 2: gaps 5 and 694 with parameter 8; 1, 7, 0, 19 and 16 with 2; and no one."""
    assert stream_of(of(5, 700, size=1000)).hex(" ") == "08 02 00 00 00 09 39 8a"
    assert stream_of(of(1, 9, 10, 30, 47, size=1000)).hex(" ") == "02 05 00 00 00 0d 21 4b 01"
    assert stream_of(of(size=1000)).hex(" ") == "00 00 00 00 00"


def cost(gaps: npt.NDArray[np.int64], parameter: int) -> int:
    return int(np.sum(gaps >> parameter)) + len(gaps) * (1 + parameter)


@given(mask=hnp.arrays(np.bool_, st.integers(1, 400)), seed=st.integers(0, 9))
def test_the_parameter_is_the_smallest_of_those_with_the_fewest_bits(mask: Mask, seed: int) -> None:
    mask = np.repeat(mask, np.random.default_rng(seed).integers(1, 9, mask.size))
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    costs = [cost(gaps, parameter) for parameter in range(14)]
    assert _stream(np.flatnonzero(mask))[0] == costs.index(min(costs))


@pytest.mark.parametrize("density", [0.0087, 0.0172, 0.0339, 0.0667, 0.2])
def test_random_masks_are_near_the_entropy(density: float) -> None:
    size = 500_000
    ones = round(density * size)
    mask = np.random.default_rng(0).permutation(size) < ones
    bound = (math.lgamma(size + 1) - math.lgamma(ones + 1) - math.lgamma(size - ones + 1)) / (
        8 * math.log(2)
    )
    assert bound < len(stream_of(mask)) < 1.03 * bound


def test_whatever_is_not_the_one_stream_of_a_mask_is_refused() -> None:
    valid = stream_of(of(5, 700, size=1000))
    assert not refused(valid)
    message = "here: the 4 bytes must be the Rice code of a mask of 1000 weights, got others; the"
    with pytest.raises(BankError, match=message):
        decode_rice(np.zeros(4, np.uint8), 1000, place="here")
    for stream, why in (
        (valid[:-1], "cut short"),
        (valid + b"\0", "longer"),
        (valid[:5] + b"\x19" + valid[6:], "unary: padding"),
        (valid[:5] + b"\x01" + valid[6:], "unary: a one too few"),
        (bytes([34]) + valid[1:], "parameter beyond what a mask may have"),
        (b"\x07" + struct.pack("<I", 2) + b"\x41\x39\x0e", "the same gaps, longer"),
        (b"\x00" + struct.pack("<I", 2**32 - 1) + b"\x09", "more ones than bits"),
        (b"\x21" + struct.pack("<I", 2**32 - 1) + b"\x09", "more remainders than bits"),
        (b"\x21" + struct.pack("<I", 1) + b"\x80" + bytes(5), "a gap above 2^33"),
    ):
        assert refused(stream), why
    assert refused(valid, 700), "index beyond the mask"
    assert not refused(valid, 701)
    dense = stream_of(of(0, 1, size=8))
    assert refused(dense, 7), "more ones than a quarter"
    assert not refused(dense, 8)


def test_every_flipped_bit_is_refused_or_another_mask() -> None:
    valid = stream_of(np.random.default_rng(0).random(1000) < 0.05)
    for position in range(8 * len(valid)):
        flipped = bytearray(valid)
        flipped[position // 8] ^= 1 << position % 8
        refused(bytes(flipped))


@given(
    head=st.tuples(st.integers(0, 255), st.integers(0, 40)),
    body=st.binary(max_size=60),
)
def test_no_bytes_can_do_more_than_be_refused(head: tuple[int, int], body: bytes) -> None:
    refused(struct.pack("<BI", *head) + body)
