from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from supsup_runtime.bank import bits
from supsup_runtime.bank.bits import (
    check_padding,
    compress,
    count_ones,
    decompress,
    find_ones,
    pack_mask,
    pack_ones,
    packed_bytes,
    unpack_mask,
)
from supsup_runtime.errors import BankError

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=9)


@given(mask=hnp.arrays(np.bool_, SHAPES))
def test_unpack_inverts_pack(mask: npt.NDArray[np.bool_]) -> None:
    packed = pack_mask(mask)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_bytes(mask.size),)
    np.testing.assert_array_equal(unpack_mask(packed, mask.shape), mask)


@given(mask=hnp.arrays(np.bool_, SHAPES))
def test_ones_are_counted_and_padding_is_zero(mask: npt.NDArray[np.bool_]) -> None:
    packed = pack_mask(mask)
    assert count_ones(packed) == mask.sum()  # a padding bit of one would be counted, too
    check_padding(packed, mask.size, place="here")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_ones_are_found_and_packed_whatever_the_chunk(
    size: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bits, "_CHUNK", 16)
    mask = np.random.default_rng(size).random(size) < density
    packed = pack_mask(mask)
    found = find_ones(packed, size)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.flatnonzero(mask))
    np.testing.assert_array_equal(pack_ones(found, size), packed)


@given(mask=hnp.arrays(np.bool_, st.integers(0, 5000)))
def test_decompress_inverts_compress(mask: npt.NDArray[np.bool_]) -> None:
    packed = pack_mask(mask)
    back = decompress(compress(packed, mask.size), mask.size, place="here")
    np.testing.assert_array_equal(back, packed)


def test_pack_layout_is_frozen() -> None:
    """Format 1: changing these bytes breaks every bank already on a device."""
    mask = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 1]], np.bool_)
    assert pack_mask(mask).tobytes() == b"\x81\x01"


def test_sparse_layout_is_frozen() -> None:
    """Format 1: a header of 2 length bytes (1000), two blocks of 32 bytes by 1-byte indices."""
    mask = np.zeros(1000, np.bool_)
    mask[[5, 700]] = True
    blob = compress(pack_mask(mask), 1000).tobytes()
    assert blob == b"\x02\xe8\x03\xa1\x05\xa0\xa1\xbc\x00"


def test_low_density_is_shorter_and_half_is_not() -> None:
    rng = np.random.default_rng(0)
    for density, shorter in ((0.01, True), (0.5, False)):
        packed = pack_mask(rng.random(10_000) < density)
        assert (len(compress(packed, 10_000)) < len(packed)) == shorter


def test_a_mask_must_be_boolean() -> None:
    with pytest.raises(BankError, match="must be bool, got float32"):
        pack_mask(np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("packed", "num_elements", "message"),
    [
        (np.array([0x80], np.uint8), 7, r"here: padding bits must be zero, got 0x1 above the 7"),
        (np.array([0, 2], np.uint8), 9, r"padding bits must be zero, got 0x1 above the 1 used"),
        (np.array([0], np.uint8), 9, r"uint8 \(2,\), got uint8 \(1,\)"),
        (np.array([0, 0], np.uint8), 8, r"uint8 \(1,\), got uint8 \(2,\)"),
        (np.array([0], np.int64), 8, r"got int64"),
    ],
)
def test_padding_and_length_are_refused(
    packed: npt.NDArray[np.uint8], num_elements: int, message: str
) -> None:
    with pytest.raises(BankError, match=message):
        check_padding(packed, num_elements, place="here")


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "no readable header"),
        (b"\x02\xe8", "no readable header"),
        (b"\x12\xe8\x03\x00", "no readable header"),  # big-endian bits
        (b"\x08" + b"\xff" * 8, r"must hold 1000 bits, got 18446744073709551615 bits"),
        (b"\x02\xe9\x03\x00", "must hold 1000 bits, got 1001"),
        (b"\x02\xe8\x03\xa1", "cannot be decoded"),
        (b"\x02\xe8\x03\xa1\x05", "cannot be decoded"),
        (b"\x02\xe8\x03\x00\x00", "bytes after its end"),
        (b"\x02\xe8\x03\xc5\x01\x00", "cannot be decoded"),
    ],
)
def test_a_malformed_sparse_mask_is_refused(blob: bytes, message: str) -> None:
    with pytest.raises(BankError, match=message):
        decompress(np.frombuffer(blob, np.uint8), 1000, place="here")


@given(blob=st.binary(max_size=60))
def test_no_bytes_can_do_more_than_be_refused(blob: bytes) -> None:
    try:
        back = decompress(np.frombuffer(b"\x02\xe8\x03" + blob, np.uint8), 1000, place="here")
    except BankError:
        return
    check_padding(back, 1000, place="here")
