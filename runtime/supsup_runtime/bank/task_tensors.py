"""Masks and state as tensors of a task file, in both formats (docs/FORMAT.md, "Task files")."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

from supsup_runtime.arrays import Array, Bytes, Floats
from supsup_runtime.bank.bits import compress, decompress, packed_bytes
from supsup_runtime.bank.fields import Fields
from supsup_runtime.bank.layout import cut, join
from supsup_runtime.bank.network import MaskedParameter, Network
from supsup_runtime.bank.rice import decode_rice, encode_rice
from supsup_runtime.bank.tensorfile import check_array
from supsup_runtime.errors import BankError

FREE_BYTES = 64 << 20
"""Packed bytes that the coded masks of a small file may decode to."""
MAX_EXPANSION = 1024
"""Packed bytes that each byte of a larger file may decode to."""
Tensors: TypeAlias = dict[str, Array]
State: TypeAlias = Mapping[str, Floats]
Stored: TypeAlias = tuple[dict[str, Bytes], list[MaskedParameter]]
"""Masks as a file has them, and the parameters whose masks are not packed."""


def tensor_names(network: Network) -> dict[int, list[str]]:
    """Return the names of a task file's tensors, by format."""
    masks = [f"mask.{parameter.name}" for parameter in network.parameters]
    joined = ["masks"] * bool(network.parameters) + ["state"] * bool(network.state)
    return {1: masks + [f"state.{tensor.name}" for tensor in network.state], 2: joined}


def stored_state(state: State, network: Network, place: str) -> Array:
    """Return a task's state as files hold it, ``network.state_dtype (num_state,)``.

    Raises:
        BankError: If a value is out of the range of that dtype.
    """
    values = join(state[tensor.name] for tensor in network.state)
    with np.errstate(over="ignore"):
        stored = values.astype(network.state_dtype)
    if not np.isfinite(stored).all():
        raise BankError(
            f"{place}: state of a bank with state_dtype {network.state_dtype} must be within "
            f"+-{np.finfo(network.state_dtype).max}, got {values[~np.isfinite(stored)][0]}; make "
            "the bank with float32 (supsup-train --state float32)"
        )
    return stored


def rounded_state(state: State, network: Network, place: str) -> dict[str, Floats]:
    """Return a task's state as it is read again, ``float32 shape`` by name; see `stored_state`."""
    if network.state_dtype == "float32":
        return dict(state)
    return cut(network.state, stored_state(state, network, place).astype(np.float32))


def encode_tensors(
    masks: Mapping[str, Bytes], state: State, network: Network, place: str, *, version: int
) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors of a task file, and the fields of its header that describe them.

    Masks are packed or, if shorter, coded.
    """
    code = encode_rice if version > 1 else compress
    stored: dict[str, Array] = {}
    for parameter in network.parameters:
        packed = masks[parameter.name]
        coded = code(packed, parameter.size)
        shorter = len(coded) < len(packed) and (
            network.num_masked <= 8 * FREE_BYTES or len(packed) <= MAX_EXPANSION * len(coded)
        )
        stored[parameter.name] = coded if shorter else packed
    if version > 1:
        joined = {"masks": join(stored.values(), np.uint8)}
        joined["state"] = stored_state(state, network, place)
        tensors = {name: joined[name] for name in tensor_names(network)[version]}
        return tensors, {"lengths": [len(mask) for mask in stored.values()]}
    encodings = {
        name: "packed" if mask is masks[name] else "sparse" for name, mask in stored.items()
    }
    tensors = {f"mask.{name}": mask for name, mask in stored.items()}
    tensors |= {f"state.{s.name}": np.ascontiguousarray(state[s.name]) for s in network.state}
    return tensors, {"encodings": encodings}


def decode_tensors(
    tensors: Tensors, header: Fields, network: Network, place: str, *, file_bytes: int
) -> tuple[dict[str, Bytes], dict[str, Floats]]:
    """Invert `encode_tensors`, trusting nothing; padding bits are kept, for `check_padding`.

    Raises:
        BankError: If a rule of docs/FORMAT.md is broken.
    """
    if header["format"] > 1:
        decode, (stored, sparse) = decode_rice, _cut_masks(tensors, header, network, place)
        joined = tensors.get("state", np.zeros(0, network.state_dtype))
        check_array(joined, network.state_dtype, (network.num_state,), place=f"{place}: state")
        state = cut(network.state, joined.astype(np.float32, copy=False))
    else:
        decode, (stored, sparse) = decompress, _named_masks(tensors, header, network, place)
        state = {s.name: tensors[f"state.{s.name}"] for s in network.state}
    claimed = sum(packed_bytes(p.size) for p in sparse)
    if claimed > max(FREE_BYTES, MAX_EXPANSION * file_bytes):
        raise BankError(
            f"{place}: sparse masks of {claimed} packed bytes are too much for a file of "
            f"{file_bytes}; store them packed"
        )
    for p in sparse:
        stored[p.name] = decode(stored[p.name], p.size, place=_of(p, place))
    return stored, state


def _cut_masks(tensors: Tensors, header: Fields, network: Network, place: str) -> Stored:
    lengths = header.shape("lengths")
    most = [packed_bytes(p.size) for p in network.parameters]
    if len(lengths) != len(most) or not all(0 < n <= m for n, m in zip(lengths, most, strict=True)):
        raise BankError(
            f"{place}: lengths must be those of {len(most)} masks, each at least 1 and at most the "
            f"mask packed, got {lengths!r:.80}"
        )
    joined = tensors.get("masks", np.zeros(0, np.uint8))
    if joined.dtype != np.uint8 or joined.shape != (sum(lengths),):
        raise BankError(
            f"{place}: masks must be uint8 ({sum(lengths)},), the sum of lengths, got "
            f"{joined.dtype} {joined.shape}"
        )
    stored, sparse = {}, []
    for p, n, m, end in zip(network.parameters, lengths, most, accumulate(lengths), strict=True):
        stored[p.name] = joined[end - n : end]
        if n < m:
            sparse.append(p)
    return stored, sparse


def _named_masks(tensors: Tensors, header: Fields, network: Network, place: str) -> Stored:
    if network.state_dtype != "float32":
        raise BankError(
            f"{place}: a task of format 1 has float32 state, this bank has {network.state_dtype}"
        )
    encodings, stored = header.get("encodings", dict), {}
    for p in network.parameters:
        mask, encoding = tensors[f"mask.{p.name}"], encodings.get(p.name)
        if mask.dtype != np.uint8 or mask.ndim != 1:
            raise BankError(f"{_of(p, place)} must be uint8 (n,), got {mask.dtype} {mask.shape}")
        if not isinstance(encoding, str) or encoding not in {"packed", "sparse"}:
            raise BankError(
                f"{_of(p, place)}: encoding must be 'packed' or 'sparse', got {encoding!r}"
            )
        stored[p.name] = mask
    return stored, [p for p in network.parameters if encodings[p.name] == "sparse"]


def _of(parameter: MaskedParameter, place: str) -> str:
    return f"{place}: mask of {parameter.name!r}"
