"""One task, one file: its packed masks, its state, its labels (docs/FORMAT.md, "Task files")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from supsup_runtime.arrays import Array, Bits, Bytes, Floats
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
    """What a task adds to a network.

    Attributes:
        name: 1 to 100 of ``A-Z a-z 0-9 . _ -``, the first a letter or a digit.
        masks: By parameter name, ``uint8 (ceil(size / 8),)``, packed (see `bits`).
        state: By tensor name, ``float32 shape``; empty where the network has none.
        labels: Names of the real outputs by index; at most ``real_outputs`` of them.
        training: Its record, as JSON holds it: rule, steps, accuracy.
    """

    name: str
    masks: Mapping[str, Bytes]
    state: Mapping[str, Floats] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    def renamed(self, name: str) -> TaskMasks:
        """The same task under another name."""
        return replace(self, name=name)

    def density(self, network: Network) -> float:
        """Fraction of ones, within ``[0, 1]``; 0 where the network masks nothing."""
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
    """A task from unpacked masks: ``bool shape`` by parameter name.

    Raises:
        BankError: If a mask is not boolean.
    """
    return TaskMasks(
        name=name,
        masks={key: pack_mask(np.asarray(mask)) for key, mask in masks.items()},
        state=dict(state or {}),
        labels=tuple(labels),
        training=dict(training or {}),
    )


def check_name(name: object) -> str:
    """Return a legal task name, or refuse it.

    Raises:
        BankError: If it has another character than ``A-Z a-z 0-9 . _ -``, is empty or too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BankError(
            "task name: must be 1 to 100 of A-Z a-z 0-9 . _ -, starting with a letter or digit, "
            f"got {name!r}"
        )
    return name


def max_task_bytes(network: Network) -> int:
    """No task file of the network is longer: packed masks, state, header."""
    packed = sum(parameter.size // 8 + 1 for parameter in network.parameters)
    names = [p.name for p in network.parameters] + [s.name for s in network.state]
    described = sum(200 + 6 * len(name) for name in names)  # a character escapes to 6 at most
    return packed + 4 * network.num_state + described + 2 * MAX_HEADER_BYTES


def encode_task(task: TaskMasks, network: Network, digest: str) -> bytes:
    """Bytes of a task file: equal tasks give equal bytes.

    Each mask is stored packed or sparse, whichever is shorter.

    Raises:
        BankError: If the task does not fit the network.
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
    """Invert `encode_task`, trusting nothing.

    Args:
        data: A whole task file.
        network: The network that the task must belong to.
        digest: Its `Network.digest`.
        place: What messages call the file.

    Raises:
        BankError: If any rule of docs/FORMAT.md is broken; the message names file and rule.
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
    """Refuse a task that does not fit the network.

    Args:
        task: The task.
        network: Its network.
        place: What messages call the task.

    Raises:
        BankError: If a mask or a state tensor is missing, too many, or of another shape, a value
            is not finite, or the name or the labels break a rule of docs/FORMAT.md.
    """
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
    """Refuse labels that are too many for the network's real outputs, or no Unicode text.

    Raises:
        BankError: If they are.
    """
    if len(labels) > network.real_outputs:
        raise BankError(
            f"{place}: at most {network.real_outputs} labels (the real outputs), got {len(labels)}"
        )
    if not all(isinstance(label, str) for label in labels):
        raise BankError(f"{place}: labels must be strings, got {labels}")
    if not is_unicode("".join(labels)):
        raise BankError(f"{place}: labels must be Unicode text, got a lone surrogate")
