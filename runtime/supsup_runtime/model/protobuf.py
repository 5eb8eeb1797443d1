"""Read metadata and operators of an ONNX file without loading it.

Memory is bounded by `MAX_METADATA_BYTES` and the depth of nesting, and no tensor is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from supsup_runtime.errors import ModelError
from supsup_runtime.files import regular_file
from supsup_runtime.model.metadata import PREFIX

MAX_METADATA_BYTES = 1 << 28
"""Of all our metadata together."""
_METADATA_PROPS = 14
_MAX_NAME_BYTES = 1 << 16
_MAX_VERSION = 1 << 31
_MAX_TAG = (1 << 32) - 1
"""Of larger ones protobuf takes the lowest bits."""
_PIECE_BYTES = 1 << 14
_HEADER_BYTES = 20
"""Of two varints, the most that a field begins with."""
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
"""Bytes of protobuf's fixed-width wire types."""
_WITHIN = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Messages within messages that lead to operators and tensors, by field number of onnx.proto."""
_LOCATION, _SCANNED_BYTES = b"location", 1 << 20
"""The key without which nobody follows a tensor's data; messages up to this size are searched."""
_WHOLE = (b"Loop", b"Scan", b"Split")
"""Operators with any number of outputs. Without one of them ONNX Runtime may end the process."""
_OUTPUT = 2
_READ = {"node": (_OUTPUT, 4, 7), "opset": (1, 2), "tensor": (8, 13, 14)}
"""A node's outputs, of which an empty name is kept, operator and domain; an opset's domain and
version; a tensor's name, and where its data are if not in the tensor."""
Values: TypeAlias = "dict[int, int | bytes]"


def open_file(path: Path) -> AbstractContextManager[Any]:
    """Open a model for reading, links followed.

    Raises:
        ModelError: If it is missing, or not a regular file.
        FileError: If it cannot be opened or read.
    """
    missing = "no such file; make it with supsup-export"
    return regular_file(path, links=True, error=ModelError, missing=missing)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of the ``.onnx`` file at `path` whose keys begin with ``org.supsup.``.

    Raises:
        ModelError: If the file is not a regular one, not a protobuf message, cut short or in ORT's
            format, or the metadata are too large.
        FileError: If it cannot be opened or read.
    """
    metadata: dict[str, str] = {}
    with open_file(path) as file:
        data, at, room = _Pieces(file), 0, MAX_METADATA_BYTES
        if path.suffix == ".ort" or data.read(4, 4) == b"ORTM":
            raise ModelError(
                f"{path}: models in ORT format are not loaded, as their metadata cannot be read "
                "before; load the .onnx file that it was made from"
            )
        try:
            while at < data.size:
                number, wire_type, size, at = data.header(at, data.size)
                if number == _METADATA_PROPS and wire_type == _LENGTH_DELIMITED:
                    room -= _keep(metadata, data, at, at + size, room)
                at += size if wire_type else 0
        except (EOFError, ValueError) as error:
            raise ModelError(
                f"{path}: not an ONNX model, or cut short: {error}; make it with supsup-export"
            ) from error
    return metadata


def _keep(metadata: dict[str, str], data: _Pieces, at: int, end: int, room: int) -> int:
    """Add an entry to `metadata` if it is ours, and return the bytes it takes of `room`."""
    found = {1: (at, 0), 2: (at, 0)}  # key and value: where, and of what size
    while at < end:
        number, wire_type, size, at = data.header(at, end)
        if wire_type == _LENGTH_DELIMITED:
            found[number] = at, size
        at += size if wire_type else 0
    (key_at, key_size), (value_at, size) = found[1], found[2]
    if data.read(key_at, min(key_size, len(PREFIX))) != PREFIX.encode():
        return 0
    if key_size + size > room:
        raise ValueError(f"its metadata must have at most {MAX_METADATA_BYTES} bytes, got more")
    metadata[data.read(key_at, key_size).decode()] = data.read(value_at, size).decode()
    return key_size + size


def read_operators(model: BinaryIO, *, place: str) -> tuple[dict[str, int], set[str]]:
    """Read opsets and operators of an ONNX model, with subgraphs and functions.

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
        for kind, values in _messages(_Pieces(model)):
            if kind == "opset":
                opsets[_domain(values.get(1, b""))] = _version(values.get(2, 0))
            elif kind == "node":
                domain = _domain(values.get(7, b""))
                name = _name(values.get(4, b""))
                operators.add(f"{domain}.{name}" if domain else name)
    except (EOFError, ValueError) as error:
        raise ModelError(f"{place}: not an ONNX model, or cut short: {error}") from error
    return opsets, operators


def refuse_unsafe(model: BinaryIO, *, place: str) -> None:
    """Refuse an ONNX model by which ONNX Runtime would read another file, or end the process.

    Raises:
        ModelError: If a tensor's data are in another file, an operator among `_WHOLE` omits an
            output, or the model is not a protobuf message or is cut short.
    """
    try:
        found = [*_messages(_Pieces(model), (_LOCATION, *_WHOLE))]
    except (EOFError, ValueError) as error:
        raise ModelError(f"{place}: not an ONNX model, or cut short: {error}") from error
    outside = [values.get(8, b"") for _, values in found if 13 in values or values.get(14)]
    if outside:
        raise ModelError(
            f"{place}: tensors must have their data in the model, got {outside[0]!r:.80} with data "
            "in another file; save the model as one file"
        )
    omitted = [values for _, values in found if values.get(_OUTPUT) == b""]
    cut = [name for values in omitted if (name := values.get(4)) in _WHOLE]
    if cut:
        raise ModelError(
            f"{place}: {cut[0]!r} must name each of its outputs, got an empty name; name it"
        )


def _messages(data: _Pieces, words: Sequence[bytes] = ()) -> Iterator[tuple[str, Values]]:
    """Yield what `_READ` names of each message, at any depth, without recursion.

    Small messages without any of `words` are left out.
    """
    at = 0
    stack: list[tuple[str, int, Values]] = [("model", data.size, {})]
    while stack:
        kind, end, values = stack[-1]
        if at >= end:
            stack.pop()
            if kind in _READ:
                yield kind, values
            continue
        number, wire_type, value, at = data.header(at, end)
        if wire_type == _LENGTH_DELIMITED and number in _WITHIN.get(kind, {}):
            if value <= _SCANNED_BYTES and words:
                content = data.read(at, value)
                if not any(word in content for word in words):
                    at += value
                    continue
            stack.append((_WITHIN[kind][number], at + value, {}))
            continue
        if number in _READ.get(kind, ()):
            read = data.read(at, _small(value)) if wire_type else value
            values[number] = b"" if number == _OUTPUT and values.get(number) == b"" else read
        at += value if wire_type else 0


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


class _Pieces:
    """Fields of a file by position, which is read a piece at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start, self._piece = 0, b""
        self.size = file.seek(0, 2)

    def read(self, at: int, size: int) -> bytes:
        """Return the bytes at a position, fewer at the end."""
        self._file.seek(at)
        return self._file.read(size)

    def header(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Read a field's number and wire type, its value if a varint, else its size; and its end.

        That is the position of the content, if it has a size.
        """
        index = at - self._start
        if not 0 <= index <= len(self._piece) - _HEADER_BYTES:
            self._start, self._piece, index = at, self.read(at, _PIECE_BYTES), 0
        try:
            tag, index = _varint(self._piece, index)
            number, wire_type = tag >> 3, tag & 7
            size = _FIXED.get(wire_type, -1)
            if wire_type in {0, _LENGTH_DELIMITED}:
                size, index = _varint(self._piece, index)
        except IndexError as error:
            raise EOFError("a number ends too early") from error
        if size < 0 or number == 0 or tag > _MAX_TAG:
            raise ValueError(f"unknown field {number} of wire type {wire_type}")
        at = self._start + index
        if at + (size if wire_type else 0) > end:
            raise EOFError(f"field {number} of {size} bytes ends after byte {end}")
        return number, wire_type, size, at


def _varint(data: bytes, index: int) -> tuple[int, int]:
    """Return a number and the index behind it."""
    byte = data[index]
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        index += 1
        byte = data[index]
        if shift > 63:
            raise EOFError("a number ends too early")
        value |= (byte & 0x7F) << shift
        if value >= 1 << 64:
            raise ValueError("a number must be below 2**64")
        shift += 7
    return value, index + 1
