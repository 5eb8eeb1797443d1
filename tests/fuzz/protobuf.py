"""Mutations of protobuf messages of any schema, on the wire format.

A message is a list of fields. A length-delimited field whose content parses as a message is taken
for one, so that mutations reach tensors and attributes deep in an ONNX model.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from random import Random

from fuzz.mutate import bytes_of, flip, integer, text

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
_MIN_DATA = 16
_MAX_PARSED = 1 << 16
"""Longer contents are data: masks, weights."""


@dataclass(slots=True)
class Field:
    """A field; `value` is a number, bytes, or the fields of a message."""

    number: int
    wire: int
    value: int | bytes | list[Field]


def parse(data: bytes) -> list[Field]:
    """Parse a message, or raise `ValueError`."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field 0")
        value: int | bytes | list[Field]
        if wire == VARINT:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if wire == BYTES else (_SIZES.get(wire, -1), at)
            if size < 0 or at + size > len(data):
                raise ValueError("cut short")
            value, at = data[at : at + size], at + size
            if wire == BYTES:
                value = _inner(value)
        fields.append(Field(number, wire, value))
    return fields


def _inner(data: bytes) -> bytes | list[Field]:
    """Fields, if it is a message; most that begin with field 1 or 2, or are not text, are."""
    likely = data[:1] in {b"\x08", b"\x0a", b"\x12"} or not data.isascii()
    if likely and len(data) <= _MAX_PARSED:
        with suppress(ValueError):
            fields = parse(data)
            if serialize(fields) == data:  # a varint of text or masks can be too long
                return fields
    return data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number ends too early")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def serialize(fields: list[Field]) -> bytes:
    """Invert `parse`, whatever the fields say."""
    return b"".join(map(_field, fields))


def _field(field: Field) -> bytes:
    head = number_bytes(field.number << 3 | field.wire)
    if isinstance(field.value, int):
        return head + number_bytes(field.value)
    data = field.value if isinstance(field.value, bytes) else serialize(field.value)
    return head + (number_bytes(len(data)) if field.wire == BYTES else b"") + data


def number_bytes(value: int) -> bytes:
    """Encode a varint of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def mutated(rng: Random, data: bytes) -> bytes:
    """Change one to four fields of a message, any with the same chance."""
    fields = parse(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places: list[tuple[list[Field], int]] = []
        _collect(fields, places)
        if places:
            _change(rng, *rng.choice(places))
    return serialize(fields)


def flipped(rng: Random, data: bytes) -> bytes:
    """Flip bits of a tensor's data, so that the message stays as valid as it was."""
    fields = parse(data)
    places: list[tuple[list[Field], int]] = []
    _collect(fields, places)
    data_of = [value for inner, index in places if _is_data(value := inner[index])]
    if data_of:
        field = rng.choice(data_of)
        assert isinstance(field.value, bytes)
        changed = bytearray(field.value)
        for _ in range(rng.choice((1, 3, 20))):
            flip(rng, changed)
        field.value = bytes(changed)
    return serialize(fields)


def _is_data(field: Field) -> bool:
    return isinstance(field.value, bytes) and len(field.value) >= _MIN_DATA


def _collect(fields: list[Field], places: list[tuple[list[Field], int]]) -> None:
    for index, field in enumerate(fields):
        places.append((fields, index))
        if isinstance(field.value, list):
            _collect(field.value, places)


def _change(rng: Random, fields: list[Field], index: int) -> None:
    field = fields[index]
    how = rng.random()
    if how < 0.1:
        del fields[index]
    elif how < 0.2:
        fields.insert(rng.randrange(len(fields) + 1), field)
    elif how < 0.3:
        other = rng.randrange(len(fields))
        fields[index], fields[other] = fields[other], fields[index]
    elif how < 0.35:
        fields[index] = Field(integer(rng, field.number) & 0x1FFFFFFF, field.wire, field.value)
    elif how < 0.4:
        fields[index] = Field(field.number, BYTES, _nested(rng, field))
    elif how < 0.45:
        fields.insert(index, Field(rng.choice((1, 5, 7, 13, 14, 16)), VARINT, rng.choice((0, 1))))
    else:
        fields[index] = Field(field.number, field.wire, _other(rng, field.value))


def _nested(rng: Random, field: Field) -> list[Field]:
    inner = field
    for _ in range(rng.choice((1, 5, 50))):
        inner = Field(field.number, BYTES, [inner])
    return [inner]


def _other(rng: Random, value: int | bytes | list[Field]) -> int | bytes | list[Field]:
    if isinstance(value, int):
        return integer(rng, value)
    if isinstance(value, list):
        return bytes_of(rng, serialize(value))
    if value.isascii() and value and len(value) < 100 and rng.random() < 0.5:
        return text(rng, value.decode()).encode(errors="surrogatepass")
    return bytes_of(rng, value)
