"""``.npy`` files: one array of numbers, read with bounded memory; nothing is evaluated."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from supsup_runtime.arrays import Array, Refusal
from supsup_runtime.errors import InputError

MAX_BYTES = 4 << 30
"""Largest array and file: 4 GiB."""
_MAX_HEADER = 10_000
_MAX_RANK = 32
_LENGTH = "(?:0|[1-9][0-9]{0,17})"
_HEADER = re.compile(
    r"\{'descr':'([<>|=]?[biufc][0-9]{1,2})','fortran_order':(True|False),"
    rf"'shape':\(((?:{_LENGTH},)+{_LENGTH}?|)\),?\}}\n?"
)
"""As numpy and others write it, without the spaces at brackets, colons and commas."""


def read_npy(path: Path) -> Array:
    """Read a ``.npy`` file.

    Raises:
        InputError: If it is missing, too large, or not one array of numbers.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; save an array with numpy.save")
        with path.open("rb") as file:
            return read_array(file, path.stat().st_size, str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_array(
    file: IO[bytes],
    size: int,
    place: str,
    *,
    error: Refusal = InputError,
    kinds: tuple[str, ...] = (),
) -> Array:
    """Read the array of an open ``.npy`` file of `size` bytes.

    Args:
        file: Open at its beginning.
        size: Bytes of the file, which must be those that its header claims.
        place: Name in messages.
        error: What is raised unless it is one array of numbers.
        kinds: Names of allowed dtypes; all numbers and booleans if empty.
    """
    shape, dtype, in_columns = _header(file, place, error)
    if kinds and dtype.name not in kinds:
        raise error(
            f"{place}: must be {' or '.join(kinds)}, got {dtype.name}; convert it with .astype()"
        )
    if math.prod(max(1, length) for length in shape) * dtype.itemsize > MAX_BYTES:
        raise error(
            f"{place}: must hold at most {MAX_BYTES} bytes, its header claims shape {shape}; take "
            "fewer or smaller inputs"
        )
    data_bytes = math.prod(shape) * dtype.itemsize
    if file.tell() + data_bytes != size:
        raise error(
            f"{place}: {dtype.name} {shape} takes {file.tell() + data_bytes} bytes with its "
            f"header, got {size}; save it again with numpy.save"
        )
    try:
        raw = np.empty(data_bytes, np.uint8)
    except MemoryError:
        raise error(
            f"{place}: {data_bytes} bytes do not fit in memory; take fewer inputs"
        ) from None
    left = memoryview(raw)  # type: ignore[arg-type]  # arrays are buffers
    while left:
        got = file.readinto(left)  # type: ignore[attr-defined]  # of every binary file
        if not got:
            raise error(f"{place}: cut short; save it again with numpy.save")
        left = left[got:]
    array = raw.view(dtype)
    return array.reshape(shape[::-1]).T if in_columns else array.reshape(shape)


def _header(
    file: IO[bytes], place: str, error: Refusal
) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Return shape, dtype and whether columns come first."""
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        raise error(f"{place}: must be a .npy array of numbers; save one with numpy.save")
    if start[6:] not in (b"\1\0", b"\2\0"):
        got = ".".join(map(str, start[6:]))
        raise error(f"{place}: version of the .npy format must be 1.0 or 2.0, got {got}")
    length = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    text = file.read(min(length, _MAX_HEADER)).decode("latin-1")
    text = re.sub(" ?([{}():,]) ?", r"\1", re.sub(" +", " ", text))
    found = _HEADER.fullmatch(text)
    descr, order, lengths = found.groups() if found else ("", "", "")
    try:
        dtype = np.dtype(descr)
    except TypeError:  # no such type, or no such header
        raise error(
            f"{place}: must be a .npy array of numbers, got the header {text!r:.80}; save it again "
            "with numpy.save"
        ) from None
    shape = tuple(map(int, re.findall("[0-9]+", lengths)))
    if len(shape) > _MAX_RANK:
        raise error(f"{place}: must have at most {_MAX_RANK} dimensions, got {len(shape)}")
    return shape, dtype, order == "True"
