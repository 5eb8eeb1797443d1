"""Safetensors files with one metadata key, `supsup`, whose value is JSON: tasks, Hopfield stores.

safetensors checks the frame of a file; here is what is then still to be distrusted.
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
    """One kind of file: tensors by name, and a header of JSON.

    Attributes:
        kind: What messages call its content.
        version: Of its format.
        fields: Of its header, with ``format`` and, of the network, ``digest``.
        max_header: Characters that the header may have.
    """

    kind: str
    version: int
    fields: frozenset[str]
    max_header: int

    def write(self, tensors: Mapping[str, Array], header: str, place: str) -> bytes:
        """Bytes of a file; equal tensors and headers give equal bytes.

        Raises:
            BankError: If the header is longer than a reader takes.
        """
        self._check_size(header, place)
        # One metadata key: safetensors does not promise the order of several.
        return safetensors.numpy.save(dict(tensors), metadata={"supsup": header})

    def read(self, data: bytes, digest: str, place: str) -> tuple[dict[str, Array], Fields]:
        """Tensors, read-only, and header of a whole file.

        Args:
            data: All of the file.
            digest: Of the network that it must belong to.
            place: What messages call it.

        Raises:
            BankError: If it is no whole safetensors file, a tensor is of another dtype than U8,
                F16, F32, F64 and I32, or the header is too long, no JSON, has NaN or infinity, or
                is of another format or network.
        """
        try:
            # safetensors leaves this function untyped
            views = safetensors.deserialize(data)  # type: ignore[no-untyped-call]  # safetensors
        except safetensors.SafetensorError as error:
            raise BankError(f"{place}: not a whole safetensors file: {error}") from error
        tensors = {}
        for name, view in views:
            dtype = _DTYPES.get(view["dtype"])
            if dtype is None:
                raise BankError(
                    f"{place}: {name!r} must be one of {list(_DTYPES)}, got {view['dtype']}"
                )
            try:
                tensors[name] = np.frombuffer(view["data"], dtype).reshape(view["shape"])
            except ValueError as error:  # more or longer dimensions than numpy has
                raise BankError(f"{place}: shape of {name!r} is out of range: {error}") from error
        return tensors, self._header(data, digest, place)

    def _header(self, data: bytes, digest: str, place: str) -> Fields:
        length = int.from_bytes(data[:8], "little")  # safetensors has checked it already
        text = (json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get("supsup", "")
        self._check_size(text, place)
        try:
            header = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:  # ValueError: integers of 4300 digits, too
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
    """Refuse tensors that are not those expected, by name.

    Raises:
        BankError: If one is missing, or too many.
    """
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise BankError(f"{place}: tensors must fit the network; missing {missing}, extra {extra}")


def check_array(value: Array, dtype: npt.DTypeLike, shape: tuple[int, ...], *, place: str) -> None:
    """Refuse an array of another dtype or shape, or one that is not finite.

    Raises:
        BankError: If it is.
    """
    if value.dtype != dtype or value.shape != shape:
        raise BankError(
            f"{place} must be {np.dtype(dtype)} {shape}, got {value.dtype} {value.shape}"
        )
    if not np.isfinite(value).all():
        raise BankError(f"{place} must be finite, got NaN or infinity")


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):  # 1e999
        raise ValueError(f"{text} is out of range")
    return value
