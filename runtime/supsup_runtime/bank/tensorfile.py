"""Safetensors files with one metadata key, `supsup`, whose value is JSON: tasks, Hopfield stores.

safetensors checks the frame of a file; here is what is then still to be distrusted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import safetensors
import safetensors.numpy

from supsup_runtime.arrays import Array
from supsup_runtime.bank.fields import Fields
from supsup_runtime.errors import BankError

__all__ = [
    "View",
    "check_header_size",
    "check_names",
    "read_header",
    "read_views",
    "write_tensors",
]

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
    data: bytes,
    names: Collection[str],
    *,
    place: str,
    kind: str,
    version: int,
    digest: str,
    most: int,
) -> Fields:
    """The header of a file that `read_views` has read.

    Args:
        data: The whole file.
        names: Its fields.
        place: What messages call the file; so is `kind` its content.
        kind: See `place`.
        version: What its field ``format`` must be.
        digest: What its field ``digest`` must be.
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
    return Fields.of_file(header, names, place=place, kind=kind, version=version, digest=digest)


def check_names(found: Iterable[str], expected: Iterable[str], place: str) -> None:
    """Refuse tensors that are not those expected, by name.

    Raises:
        BankError: If one is missing, or too many.
    """
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise BankError(f"{place}: tensors must fit the network; missing {missing}, extra {extra}")


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
