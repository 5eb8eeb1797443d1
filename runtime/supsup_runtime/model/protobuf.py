"""Read metadata and operators of an ONNX file without loading it.

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
_MAX_NAME_BYTES = 1 << 16
_MAX_VERSION = 1 << 31
_WITHIN = {
    "model": {7: "graph", 8: "opset", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node"},
    "node": {5: "attribute"},
    "attribute": {6: "graph"},
}
"""Messages within messages that lead to operators, by field number of onnx.proto."""
_READ = {"node": (4, 7), "opset": (1, 2)}
"""A node's operator and domain; an opset's domain and version."""


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


def read_operators(model: BinaryIO, *, place: str) -> tuple[dict[str, int], set[str]]:
    """Read opsets and operators of an ONNX model, with subgraphs and functions; skip its tensors.

    Returns:
        The version of each domain (``""`` is ``ai.onnx``), and the operators, such as ``Add`` and
        ``com.microsoft.MatMulNBits``.

    Raises:
        ModelError: If the model is not a protobuf message or is cut short, or a name is empty or
            cannot be printed.
    """
    opsets: dict[str, int] = {}
    operators: set[str] = set()
    try:
        for kind, values in _messages(model, model.seek(0, 2)):
            if kind == "opset":
                opsets[_domain(values.get(1, b""))] = _version(values.get(2, 0))
            else:
                domain = _domain(values.get(7, b""))
                name = _name(values.get(4, b""))
                operators.add(f"{domain}.{name}" if domain else name)
    except (EOFError, ValueError) as error:
        raise ModelError(f"{place}: not an ONNX model, or cut short: {error}") from error
    return opsets, operators


def _messages(file: BinaryIO, end: int) -> Iterator[tuple[str, dict[int, int | bytes]]]:
    """Yield what `_READ` names of each message, at any depth, without recursion."""
    file.seek(0)
    stack: list[tuple[str, int, dict[int, int | bytes]]] = [("model", end, {})]
    while stack:
        kind, end, values = stack[-1]
        if file.tell() >= end:
            stack.pop()
            if kind in _READ:
                yield kind, values
            continue
        number, wire_type, value = _header(file, end)
        if wire_type == _LENGTH_DELIMITED and number in _WITHIN.get(kind, {}):
            stack.append((_WITHIN[kind][number], file.tell() + value, {}))
        elif number in _READ.get(kind, ()):
            values[number] = file.read(_small(value)) if wire_type else value
        elif wire_type:
            file.seek(value, 1)


def _small(size: int) -> int:
    if size > _MAX_NAME_BYTES:
        raise ValueError(f"a name must have at most {_MAX_NAME_BYTES} bytes, got {size}")
    return size


def _name(value: int | bytes) -> str:
    text = value.decode() if isinstance(value, bytes) else ""
    if not text.isprintable() or not text:
        raise ValueError(f"names must be printable text, got {value!r:.80}")
    return text


def _domain(value: int | bytes) -> str:
    return "" if value in {b"", b"ai.onnx"} else _name(value)


def _version(value: int | bytes) -> int:
    if not isinstance(value, int) or value >= _MAX_VERSION:
        raise ValueError(f"an opset must be below {_MAX_VERSION}, got {value!r:.80}")
    return value


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yield number and size of each length-delimited field; the caller must consume it."""
    while file.tell() < end:
        number, wire_type, value = _header(file, end)
        if wire_type == _LENGTH_DELIMITED:
            yield number, value
        elif wire_type != 0:
            file.seek(value, 1)


def _header(file: BinaryIO, end: int) -> tuple[int, int, int]:
    """Read a field's number and wire type, and its value if a varint, else its size."""
    tag = _varint(file)
    number, wire_type = tag >> 3, tag & 7
    if wire_type == 0:
        return number, wire_type, _varint(file)
    size = _varint(file) if wire_type == _LENGTH_DELIMITED else _FIXED.get(wire_type, -1)
    if size < 0 or number == 0:
        raise ValueError(f"unknown field {number} of wire type {wire_type}")
    if file.tell() + size > end:
        raise EOFError(f"field {number} of {size} bytes ends after byte {end}")
    return number, wire_type, size


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
        if value >= 1 << 64:
            raise ValueError("a number must be below 2**64")
        if byte[0] < 0x80:
            return value
        shift += 7
