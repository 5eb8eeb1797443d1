"""Task files: packed masks, state and labels (docs/FORMAT.md, "Task files")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from supsup_runtime.arrays import Array, Bits, Bytes, Floats, check_kind, checked_reals, shown
from supsup_runtime.bank.bits import check_padding, compress, count_ones, decompress, pack_mask
from supsup_runtime.bank.fields import canonical_json, is_unicode
from supsup_runtime.bank.network import MaskedParameter, Network
from supsup_runtime.bank.tensorfile import (
    TensorFile,
    check_array,
    check_names,
)
from supsup_runtime.errors import BankError

FORMAT = 1
MAX_HEADER_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE = TensorFile(
    kind="task",
    version=FORMAT,
    fields=frozenset({"digest", "encodings", "format", "labels", "name", "training"}),
    max_header=MAX_HEADER_BYTES,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskMasks:
    """Mask, state, labels and training record of one task.

    Attributes:
        name: 1 to 100 of ``A-Z a-z 0-9 . _ -``, the first a letter or digit.
        masks: Packed ``uint8 (ceil(size / 8),)`` by parameter name; see `bits`.
        state: ``float32 shape`` by tensor name.
        labels: Names of the real outputs by index; at most ``real_outputs``.
        training: Training record as JSON: rule, steps, accuracy.
    """

    name: str
    masks: Mapping[str, Bytes]
    state: Mapping[str, Floats] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    def renamed(self, name: str) -> TaskMasks:
        """Return a copy with another name."""
        return replace(self, name=name)

    def density(self, network: Network) -> float:
        """Return the fraction of ones, within ``[0, 1]``; 0 if the network masks nothing."""
        ones = sum(count_ones(mask) for mask in self.masks.values())
        return ones / network.num_masked if network.num_masked else 0.0


def make_task(
    name: str,
    masks: Mapping[str, Bits],
    *,
    state: Mapping[str, Floats] | None = None,
    labels: tuple[str, ...] = (),
    training: Mapping[str, Any] | None = None,
) -> TaskMasks:
    """Make a task from unpacked masks.

    Args:
        name: Task name; see `TaskMasks`.
        masks: ``bool shape`` by parameter name.
        state: ``float32 shape`` by tensor name.
        labels: Names of the real outputs by index.
        training: Training record as JSON.

    Raises:
        BankError: If a mask is not boolean, or an argument of another type.
    """
    for what, value in (("masks", masks), ("state", state), ("training", training)):
        if value is not None or what == "masks":
            check_kind(f"task: {what}", value, Mapping, "a mapping", error=BankError)
    check_kind("task: labels", labels, (tuple, list), "a tuple of texts", error=BankError)
    return TaskMasks(
        name=name,
        masks={key: pack_mask(checked_reals("task: a mask", mask)) for key, mask in masks.items()},
        state=dict(state or {}),
        labels=tuple(labels),
        training=dict(training or {}),
    )


def check_name(name: object) -> str:
    """Return a valid task name (see `TaskMasks`), or raise `BankError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BankError(
            "task name: must be 1 to 100 of A-Z a-z 0-9 . _ -, starting with a letter or digit, "
            f"got {shown(name)}"
        )
    return name


def max_task_bytes(network: Network) -> int:
    """Return an upper bound on the size of a task file."""
    packed = sum(parameter.size // 8 + 1 for parameter in network.parameters)
    names = [p.name for p in network.parameters] + [s.name for s in network.state]
    described = sum(200 + 6 * len(name) for name in names)  # up to 6 per escaped character
    return packed + 4 * network.num_state + described + 2 * MAX_HEADER_BYTES


def encode_task(task: TaskMasks, network: Network, digest: str) -> bytes:
    """Return the bytes of a task file, each mask packed or sparse, whichever is shorter.

    Equal tasks give equal bytes. A task that does not fit raises `BankError`.
    """
    place = f"task {task.name!r}"
    check_task(task, network, place)
    tensors: dict[str, Array] = {}
    encodings: dict[str, str] = {}
    for parameter in network.parameters:
        packed = task.masks[parameter.name]
        sparse = compress(packed, parameter.size)
        shorter = len(sparse) < len(packed)
        encodings[parameter.name] = "sparse" if shorter else "packed"
        tensors[f"mask.{parameter.name}"] = sparse if shorter else packed
    for tensor in network.state:
        tensors[f"state.{tensor.name}"] = np.ascontiguousarray(task.state[tensor.name])
    header = {
        "digest": digest,
        "encodings": encodings,
        "format": FORMAT,
        "labels": list(task.labels),
        "name": task.name,
        "training": dict(task.training),
    }
    try:
        text = canonical_json(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise BankError(
            f"{place}: training must be JSON without NaN or infinity: {error}"
        ) from error
    return _FILE.write(tensors, text, place)


def decode_task(data: bytes, network: Network, digest: str, *, place: str) -> TaskMasks:
    """Invert `encode_task`, trusting nothing; messages call the file `place`.

    Raises:
        BankError: If a rule of docs/FORMAT.md is broken.
    """
    tensors, header = _FILE.read(data, digest, place)
    expected = {f"mask.{p.name}" for p in network.parameters}
    expected |= {f"state.{s.name}" for s in network.state}
    check_names(tensors, expected, place)
    encodings = header.get("encodings", dict)
    task = TaskMasks(
        name=header["name"],
        masks={
            p.name: _mask(tensors[f"mask.{p.name}"], p, encodings.get(p.name), place)
            for p in network.parameters
        },
        state={s.name: tensors[f"state.{s.name}"] for s in network.state},
        labels=tuple(header.items("labels")),
        training=header.get("training", dict),
    )
    check_task(task, network, place)
    return task


def _mask(stored: Array, parameter: MaskedParameter, encoding: object, place: str) -> Bytes:
    where = f"{place}: mask of {parameter.name!r}"
    if stored.dtype != np.uint8 or stored.ndim != 1:
        raise BankError(f"{where} must be uint8 (n,), got {stored.dtype} {stored.shape}")
    if encoding == "sparse":
        return decompress(stored, parameter.size, place=where)
    if encoding != "packed":
        raise BankError(f"{where}: encoding must be 'packed' or 'sparse', got {encoding!r}")
    return stored


def check_task(task: TaskMasks, network: Network, place: str) -> None:
    """Raise `BankError` unless a task fits the network: names, shapes, finite values, labels."""
    check_name(task.name)
    for key, given, wanted in (
        ("masks", task.masks, [p.name for p in network.parameters]),
        ("state", task.state, [s.name for s in network.state]),
    ):
        if set(given) != set(wanted):
            raise BankError(f"{place}: {key} must be of {wanted}, got {sorted(given)}")
    for parameter in network.parameters:
        where = f"{place}: mask of {parameter.name!r}"
        check_padding(task.masks[parameter.name], parameter.size, place=where)
    for tensor in network.state:
        where = f"{place}: state {tensor.name!r}"
        check_array(task.state[tensor.name], np.float32, tensor.shape, place=where)
    check_labels(task.labels, network, place)


def check_labels(labels: tuple[str, ...], network: Network, place: str) -> None:
    """Raise `BankError` unless labels are Unicode text and at most `real_outputs`."""
    if len(labels) > network.real_outputs:
        raise BankError(
            f"{place}: at most {network.real_outputs} labels (the real outputs), got {len(labels)}"
        )
    if not all(isinstance(label, str) for label in labels):
        raise BankError(f"{place}: labels must be strings, got {labels}")
    if not is_unicode("".join(labels)):
        raise BankError(f"{place}: labels must be Unicode text, got a lone surrogate")
