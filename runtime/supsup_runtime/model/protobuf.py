"""Read the metadata of an ONNX file without loading the graph.

``metadata_props`` is field 14 of ``ModelProto``, with ``key`` = 1 and ``value`` = 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from supsup_runtime.errors import ModelError

_METADATA_PROPS = 14
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
"""Bytes of protobuf's fixed-width wire types."""
MAX_ENTRY_BYTES = 1 << 28


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of the ``.onnx`` file at `path`.

    Raises:
        ModelError: If the file is not a protobuf message, is cut short, or an entry is too large.
    """
    metadata = {}
    with path.open("rb") as file:
        try:
            for number, size in _fields(file, path.stat().st_size):
                if number == _METADATA_PROPS:
                    key, value = _entry(file, size)
                    metadata[key] = value
                else:
                    file.seek(size, 1)
        except (EOFError, ValueError) as error:
            raise ModelError(
                f"{path}: not an ONNX model, or cut short: {error}; make it with supsup-export"
            ) from error
    return metadata


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yield number and size of each length-delimited field; the caller must consume it."""
    while file.tell() < end:
        tag = _varint(file)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            _varint(file)
            continue
        size = _varint(file) if wire_type == _LENGTH_DELIMITED else _FIXED.get(wire_type, -1)
        if size < 0 or number == 0:
            raise ValueError(f"unknown field {number} of wire type {wire_type}")
        if file.tell() + size > end:
            raise EOFError(f"field {number} of {size} bytes ends after byte {end}")
        if wire_type == _LENGTH_DELIMITED:
            yield number, size
        else:
            file.seek(size, 1)


def _entry(file: BinaryIO, size: int) -> tuple[str, str]:
    if size > MAX_ENTRY_BYTES:
        raise ValueError(f"a metadata entry must have at most {MAX_ENTRY_BYTES} bytes, got {size}")
    texts = {1: "", 2: ""}
    for number, length in _fields(file, file.tell() + size):
        texts[number] = file.read(length).decode()
    return texts[1], texts[2]


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise EOFError("a number ends too early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
