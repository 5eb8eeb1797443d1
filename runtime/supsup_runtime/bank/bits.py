"""Masks as bits: element `i` of the flat mask (C order) is bit `i % 8` of byte `i // 8`.

The least significant bit is first; padding is zero (docs/FORMAT.md, "Packed masks").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from bitarray import bitarray
from bitarray.util import sc_decode, sc_encode

from supsup_runtime.arrays import Bits, Bytes, check_kind
from supsup_runtime.errors import BankError

Places = npt.NDArray[np.int64]
"""Indices of the ones of a mask, ascending."""
_CHUNK = 1 << 23
"""Elements that are unpacked at once, a multiple of 8."""


def packed_bytes(num_elements: int) -> int:
    """Return how many bytes `num_elements` packed bits take."""
    return -(-num_elements // 8)


def pack_mask(mask: Bits) -> Bytes:
    """Pack a ``bool`` mask of any shape into ``uint8 (ceil(mask.size / 8),)``.

    Raises:
        BankError: If `mask` is not boolean.
    """
    if mask.dtype != np.bool_:
        raise BankError(f"mask: must be bool, got {mask.dtype}; compare with a threshold first")
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack_mask(packed: Bytes, shape: tuple[int, ...]) -> Bits:
    """Invert `pack_mask`: ``uint8 (bytes,)`` to ``bool shape``."""
    count = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed, count=count, bitorder="little")
    return bits.view(np.bool_).reshape(shape)


def count_ones(packed: Bytes) -> int:
    """Count the ones in packed bits."""
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def find_ones(packed: Bytes, num_elements: int) -> Places:
    """Return the indices of the ones, ascending; a chunk at a time, which bounds memory."""
    found = [np.zeros(0, np.int64)]
    for start in range(0, num_elements, _CHUNK):
        count = min(_CHUNK, num_elements - start)
        bits = unpack_mask(packed[start // 8 : (start + count + 7) // 8], (count,))
        found.append(np.flatnonzero(bits) + start)
    return np.concatenate(found)


def pack_ones(ones: Places, num_elements: int) -> Bytes:
    """Invert `find_ones`."""
    packed = np.zeros(packed_bytes(num_elements), np.uint8)
    for start in range(0, num_elements, _CHUNK):
        count = min(_CHUNK, num_elements - start)
        begin, end = np.searchsorted(ones, (start, start + count))
        bits = np.zeros(count, np.bool_)
        bits[ones[begin:end] - start] = True
        packed[start // 8 : (start + count + 7) // 8] = pack_mask(bits)
    return packed


def check_padding(packed: Bytes, num_elements: int, *, place: str) -> None:
    """Raise `BankError` unless packed bits have the right dtype, length and padding."""
    expected = packed_bytes(num_elements)
    check_kind(place, packed, np.ndarray, "a uint8 array", error=BankError)
    if packed.dtype != np.uint8 or packed.shape != (expected,):
        raise BankError(
            f"{place}: a packed mask of {num_elements} weights must be uint8 ({expected},), "
            f"got {packed.dtype} {packed.shape}"
        )
    used = num_elements % 8
    if used and packed[-1] >> used:
        raise BankError(
            f"{place}: padding bits must be zero, got {packed[-1] >> used:#x} "
            f"above the {used} used bits of the last byte"
        )


def compress(packed: Bytes, num_elements: int) -> Bytes:
    """Encode packed bits with `bitarray.util.sc_encode`, which is short if ones are rare.

    At density one half, it is slightly longer than `packed`.
    """
    bits = bitarray(endian="little")
    bits.frombytes(packed.tobytes())
    return np.frombuffer(sc_encode(bits[:num_elements]), np.uint8)


def decompress(blob: Bytes, num_elements: int, *, place: str) -> Bytes:
    """Invert `compress`, or raise `BankError` unless `blob` holds exactly `num_elements` bits.

    The claimed length is checked before decoding; padding bits are kept, for `check_padding`.
    """
    claimed = _claimed_bits(blob)
    if claimed != num_elements:
        got = "no readable header" if claimed is None else f"{claimed} bits"
        raise BankError(f"{place}: the sparse mask must hold {num_elements} bits, got {got}")
    room = (8 * packed_bytes(num_elements)).to_bytes(8, "little")
    stream = iter(b"\x08" + room + blob[1 + blob[0] :].tobytes())
    try:
        bits = sc_decode(stream)
    except (ValueError, StopIteration, IndexError) as error:
        raise BankError(f"{place}: the sparse mask cannot be decoded: {error}") from error
    if next(stream, None) is not None:
        raise BankError(f"{place}: the sparse mask has extra bytes after its end")
    return np.frombuffer(memoryview(bits).toreadonly(), np.uint8)


def _claimed_bits(blob: Bytes) -> int | None:
    """Return the length in a sparse header; byte 0 counts its little-endian bytes."""
    head = blob[:9].tobytes()
    if not head or head[0] > 8 or len(head) <= head[0]:  # 16: big-endian
        return None
    return int.from_bytes(head[1 : 1 + head[0]], "little")
