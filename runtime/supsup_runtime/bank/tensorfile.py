"""Safetensors files with one metadata key, `supsup`, whose value is JSON: tasks, Hopfield stores.

safetensors checks the frame of a file; here is what is then still to be distrusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.numpy

from supsup_runtime.arrays import Array
from supsup_runtime.errors import BankError

__all__ = ["Header", "View", "check_header_size", "read_header", "read_views", "write_tensors"]

Header = dict[str, Any]
View = dict[str, Any]
"""``dtype`` and ``shape`` as safetensors names them, and ``data``, the bytes."""


def write_tensors(tensors: Mapping[str, Array], text: str) -> bytes:
    """Bytes of a file with these tensors and this header; equal ones give equal bytes."""
    # One metadata key: safetensors does not promise the order of several.
    return safetensors.numpy.save(dict(tensors), metadata={"supsup": text})


def read_views(data: bytes, place: str) -> dict[str, View]:
    """The tensors of a whole file, by name.

    Raises:
        BankError: If it is no whole safetensors file.
    """
    try:
        # safetensors leaves this function untyped
        items: list[tuple[str, View]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # safetensors
    except safetensors.SafetensorError as error:
        raise BankError(f"{place}: not a whole safetensors file: {error}") from error
    return dict(items)


def read_header(
    data: bytes, *, place: str, kind: str, version: int, fields: set[str], most: int
) -> Header:
    """The header of a file that `read_views` has read.

    Args:
        data: The whole file.
        place: What messages call the file.
        kind: What messages call its content.
        version: What its field ``format`` must be.
        fields: Exactly these.
        most: Characters that it may have.

    Raises:
        BankError: If it is too long, no JSON, has NaN or infinity, or breaks one of the above.
    """
    length = int.from_bytes(data[:8], "little")  # safetensors has checked it already
    text = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get("supsup", "")
    check_header_size(text, most=most, place=place)
    try:
        header = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # ValueError: integers of 4300 digits, too
        raise BankError(f"{place}: metadata 'supsup' must be JSON, got {text[:40]!r}") from error
    found = header.get("format") if isinstance(header, dict) else header
    if not isinstance(header, dict) or found != version or isinstance(found, bool):
        raise BankError(f"{place}: {kind} format must be {version}, got {found!r:.80}")
    if set(header) != fields:
        raise BankError(f"{place}: header fields must be {sorted(fields)}, got {sorted(header)}")
    return header


def check_header_size(text: str, *, most: int, place: str) -> None:
    """Refuse a header that readers would.

    Raises:
        BankError: If it has more than `most` characters.
    """
    if len(text) > most:
        raise BankError(f"{place}: header must have at most {most} characters, got {len(text)}")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999
        raise ValueError(f"{text} is out of range")
    return value
