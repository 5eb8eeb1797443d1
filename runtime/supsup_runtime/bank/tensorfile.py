"""Safetensors files with one metadata key, `supsup`, that holds JSON.

safetensors checks the frame of the file; this module checks the rest.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from supsup_runtime.arrays import Array, check_kind
from supsup_runtime.bank.fields import Fields, parse_json
from supsup_runtime.errors import BankError

_DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "F64": "<f8", "I32": "<i4"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A kind of file: tensors by name and a JSON header, whose fields `formats` has by format."""

    kind: str
    formats: Mapping[int, frozenset[str]]
    max_header: int

    def frame_bytes(self, names: Collection[str]) -> int:
        """Return an upper bound on a file's bytes besides its tensors."""
        described = sum(200 + 6 * len(name) for name in names)  # up to 6 per escaped character
        return described + 2 * self.max_header

    def write(self, tensors: Mapping[str, Array], header: str, place: str) -> bytes:
        """Return the bytes of a file; equal content gives equal bytes."""
        self._check_size(header, place)
        # one metadata key, because safetensors does not fix the order of several
        return safetensors.numpy.save(dict(tensors), metadata={"supsup": header})

    def read(
        self, data: bytes, digest: str, names: Mapping[int, Collection[str]], place: str
    ) -> tuple[dict[str, Array], Fields]:
        """Return the read-only tensors, exactly those that a format names, and the header.

        Raises:
            BankError: If the file is incomplete, a tensor is missing, unknown or of an unsupported
                dtype, or the header is too long, not strict JSON, or of another format or network.
        """
        frame = int.from_bytes(data[:8], "little")
        most = max(map(self.frame_bytes, names.values()))
        if most < frame < len(data):
            raise BankError(
                f"{place}: its first {frame} bytes must be at most {most} for the tensors of this "
                "network"
            )
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
        header = self._header(data[8 : 8 + frame], digest, place)
        wanted = set(names[header["format"]])
        if tensors.keys() != wanted:
            missing, extra = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
            raise BankError(
                f"{place}: tensors must fit the network; missing {missing}, extra {extra}"
            )
        return tensors, header

    def _header(self, frame: bytes, digest: str, place: str) -> Fields:
        text = (json.loads(frame).get("__metadata__") or {}).get("supsup", "")  # is valid
        self._check_size(text, place)
        header = parse_json(text, f"{place}: metadata 'supsup' ")
        return Fields.of_file(header, self.formats, place=place, kind=self.kind, digest=digest)

    def _check_size(self, header: str, place: str) -> None:
        if len(header) > self.max_header:
            raise BankError(
                f"{place}: header must have at most {self.max_header} characters, got {len(header)}"
            )


def check_array(value: Array, dtype: npt.DTypeLike, shape: tuple[int, ...], *, place: str) -> None:
    """Raise `BankError` unless an array has this dtype and shape and is finite."""
    check_kind(place, value, np.ndarray, f"a {np.dtype(dtype)} array", error=BankError)
    if value.dtype != dtype or value.shape != shape:
        raise BankError(
            f"{place} must be {np.dtype(dtype)} {shape}, got {value.dtype} {value.shape}"
        )
    if not np.isfinite(value).all():
        raise BankError(f"{place} must be finite, got NaN or infinity")
