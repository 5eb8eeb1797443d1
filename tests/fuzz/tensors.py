"""Mutations of safetensors files, .npy arrays and zip archives."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from random import Random
from typing import Any

from fuzz.mutate import INTEGERS, bytes_of, changed_value, choice, dumped, encoded, flip

_ZEROS = "0" * 64
Parts = tuple[dict[str, Any], bytes]
"""Header and data of a safetensors file."""


def split(data: bytes) -> Parts:
    """Take a safetensors file apart."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: bytes, data: bytes) -> bytes:
    """Put a safetensors file together; the header is padded as its library does."""
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def replaced(header: dict[str, Any], data: bytes, name: str, content: bytes) -> Parts:
    """Give a tensor of bytes other content."""
    begin, end = header[name]["data_offsets"]
    header[name]["shape"] = [len(content)]
    for about in (header[key] for key in header if key != "__metadata__"):
        first, last = about["data_offsets"]
        late = len(content) - (end - begin) if first >= end else 0
        about["data_offsets"] = [first + late, last + late]
    header[name]["data_offsets"] = [begin, begin + len(content)]
    return header, data[:begin] + content + data[end:]


def sealed(header: dict[str, Any], told: Any, data: bytes) -> bytes:  # noqa: ANN401 - any JSON
    """Put a file together whose own digest, if it has one, is true, as a forger would.

    A task's is of the file with zeros in its place, a store's of its tensors.
    """
    has_digest = isinstance(told, dict) and "sha256" in told
    if has_digest and "rule" in told:
        told["sha256"] = _tensors_digest(header, data)
    elif has_digest:
        told["sha256"] = _ZEROS
    file = _with(header, dumped(told), data)
    own = hashlib.sha256(file).hexdigest() if has_digest else ""
    return file.replace(_ZEROS.encode(), own.encode(), 1) if has_digest else file


def _tensors_digest(header: Mapping[str, Any], data: bytes) -> str:
    found = hashlib.sha256()
    for name in sorted(set(header) - {"__metadata__"}):
        begin, end = header[name]["data_offsets"]
        found.update(data[begin:end])
    return found.hexdigest()


def _with(header: dict[str, Any], told: bytes, data: bytes) -> bytes:
    header["__metadata__"]["supsup"] = told.decode(errors="replace")
    return joined(dumped(header), data)


def tensors_of(rng: Random, file: bytes) -> bytes:
    """Change a safetensors file with JSON in its metadata `supsup`: frame, JSON or tensors.

    Its own digest becomes true three times in four.
    """
    if rng.random() < 0.05:
        return bytes_of(rng, file)
    header, data = split(file)
    told = json.loads(header["__metadata__"]["supsup"])
    how = choice(rng, ((0.5, "data"), (0.35, "told"), (0.15, "frame")))
    if how == "frame":
        return joined(dumped(changed_value(rng, header)), data)
    if how == "data":
        data = _payload_of(rng, header, data)
    else:
        told = changed_value(rng, told)
    if rng.random() < 0.75:
        return sealed(header, told, data)
    return _with(header, encoded(rng, dumped(told)), data)


def _payload_of(rng: Random, header: Mapping[str, Any], data: bytes) -> bytes:
    """Change values of one tensor and keep its length; masks are bits, most others floats."""
    changed = bytearray(data)
    names = [name for name in header if name != "__metadata__" and header[name]["data_offsets"][1]]
    if not names:
        return data
    about = header[rng.choice(names)]
    begin, end = about["data_offsets"]
    if about["dtype"] in {"F32", "F64"} and rng.random() < 0.5:
        kind, size = ("<f", 4) if about["dtype"] == "F32" else ("<d", 8)
        value = rng.choice((0.0, -1.0, 1e-40, 3e38, float("inf"), float("nan")))
        at = begin + size * rng.randrange((end - begin) // size)
        changed[at : at + size] = struct.pack(kind, value)
    else:
        part = changed[begin:end]
        for _ in range(rng.choice((1, 1, 3, 20))):
            flip(rng, part)
        changed[begin:end] = part
    return bytes(changed)


def npy_of(rng: Random, file: bytes) -> bytes:
    """Change an array file: its header's values, its version, its data."""
    how = choice(rng, ((0.5, "data"), (0.4, "header"), (0.1, "bytes")))
    if how == "bytes":
        return bytes_of(rng, file)
    size = int.from_bytes(file[8:10], "little")
    header, data = file[10 : 10 + size].decode("latin-1"), file[10 + size :]
    if how == "data":
        data = rng.choice((bytes_of, _floats_of, _bits_of, _bits_of))(rng, data)
        return file[: 10 + size] + data
    header = _header_of(rng, header).rstrip()
    text = header.encode("latin-1", errors="replace")[: 2**16 - 65]
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _floats_of(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if len(data) >= 4:
            at = 4 * rng.randrange(len(data) // 4)
            value = rng.choice((0.0, -1.5, 1e-40, 1e30, 3e38, float("inf"), float("nan")))
            changed[at : at + 4] = struct.pack("<f", value)
    return bytes(changed)


def _bits_of(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    flip(rng, changed)
    return bytes(changed)


_DTYPES = ("<f4", ">f4", "<f8", "<f2", "|O", "<U3", "<c8", "|b1", "<i8", "|V4", "<M8[s]", "{", "f4")
_SHAPES = ("()", "(0,)", "(10**12,)", "(-1, 5)", "(True, 5)", "(1.0, 5)", "(5,", "'5'", "None")
_HEADERS = (
    "{",
    "PK\x03\x04",
    "(" * 3000,
    "[" * 150 + "]" * 150,
    "__import__('os')",
    "{'descr': 1}",
)


def _header_of(rng: Random, header: str) -> str:
    how = rng.randrange(6)
    if how == 0:
        return rng.choice(_HEADERS)
    if how == 1:
        return header.replace("'<f4'", repr(rng.choice(_DTYPES)))
    if how == 2:
        return header.replace("False", rng.choice(("True", "1", "None", "[]")))
    if how == 3:
        return bytes_of(rng, header.encode("latin-1")).decode("latin-1")
    begin, end = header.index("(", header.index("shape")), header.index(")") + 1
    sizes = [int(part) for part in header[begin + 1 : end - 1].split(",") if part.strip()]
    shape = str(tuple(rng.choice((size, size, size + 1, rng.choice(INTEGERS))) for size in sizes))
    return header[:begin] + (rng.choice(_SHAPES) if how == 4 else shape) + header[end:]


def zip_of(rng: Random, file: bytes) -> bytes:
    """Change an .npz archive: its bytes, one of its arrays, its list of members."""
    if rng.random() < 0.2:
        return bytes_of(rng, file)
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    index = rng.randrange(len(members))
    name, data = members[index]
    how = choice(rng, ((0.7, "array"), (0.1, "drop"), (0.1, "double"), (0.1, "name")))
    if how == "array":
        members[index] = name, npy_of(rng, data)
    elif how == "drop":
        del members[index]
    elif how == "double":
        members.append((name, npy_of(rng, data)))
    else:
        members[index] = rng.choice(("../x.npy", "x_train", "x_train.npy/", "\u202e.npy")), data
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    return archived(members, rng.choices(methods, (5, 4, 1))[0])


def archived(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Write an archive without times."""
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return written.getvalue()
