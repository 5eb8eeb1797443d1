"""Safetensors files with one metadata key, `supsup`, that holds JSON.

safetensors checks the frame of the file; this module checks the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from supsup_runtime.arrays import Array
from supsup_runtime.bank.fields import Fields
from supsup_runtime.errors import BankError

_DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A kind of file: tensors by name and a JSON header; messages call its content `kind`."""

    kind: str
    version: int
    fields: frozenset[str]
    max_header: int

    def write(self, tensors: Mapping[str, Array], header: str, place: str) -> bytes:
        """Return the bytes of a file; equal content gives equal bytes."""
        self._check_size(header, place)
        # one metadata key, because safetensors does not fix the order of several
        return safetensors.numpy.save(dict(tensors), metadata={"supsup": header})

    def read(self, data: bytes, digest: str, place: str) -> tuple[dict[str, Array], Fields]:
        """Return the read-only tensors and the header of a file.

        Raises:
            BankError: If the file is incomplete, a dtype is unsupported, or the header is too long,
                not finite JSON, or of another format or network.
        """
        try:
            views = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # safetensors
        except safetensors.SafetensorError as error:
            raise BankError(f"{place}: not a whole safetensors file: {error}") from error
        tensors = {}
        for name, view in views:
            dtype = _DTYPES.get(view["dtype"])
            if dtype is None:
                raise BankError(
                    f"{place}: dtype of {name!r} must be one of {list(_DTYPES)}, "
                    f"got {view['dtype']}"
                )
            try:
                tensors[name] = np.frombuffer(view["data"], dtype).reshape(view["shape"])
            except ValueError as error:  # too many or too large dimensions
                raise BankError(f"{place}: shape of {name!r} is out of range: {error}") from error
        return tensors, self._header(data, digest, place)

    def _header(self, data: bytes, digest: str, place: str) -> Fields:
        length = int.from_bytes(data[:8], "little")  # already checked
        text = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get("supsup", "")
        self._check_size(text, place)
        try:
            header = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:  # ValueError: or over 4300 digits
            raise BankError(
                f"{place}: metadata 'supsup' must be JSON, got {text[:40]!r}"
            ) from error
        return Fields.of_file(
            header, self.fields, place=place, kind=self.kind, version=self.version, digest=digest
        )

    def _check_size(self, header: str, place: str) -> None:
        if len(header) > self.max_header:
            raise BankError(
                f"{place}: header must have at most {self.max_header} characters, got {len(header)}"
            )


def check_names(found: Iterable[str], expected: Iterable[str], place: str) -> None:
    """Raise `BankError` if a tensor is missing or unknown."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise BankError(f"{place}: tensors must fit the network; missing {missing}, extra {extra}")


def check_array(value: Array, dtype: npt.DTypeLike, shape: tuple[int, ...], *, place: str) -> None:
    """Raise `BankError` unless an array has this dtype and shape and is finite."""
    if value.dtype != dtype or value.shape != shape:
        raise BankError(
            f"{place} must be {np.dtype(dtype)} {shape}, got {value.dtype} {value.shape}"
        )
    if not np.isfinite(value).all():
        raise BankError(f"{place} must be finite, got NaN or infinity")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999
        raise ValueError(f"{text} is out of range")
    return value
