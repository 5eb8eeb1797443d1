"""Task files: packed masks, state and labels (docs/FORMAT.md, "Task files")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from supsup_runtime.arrays import (
    Array,
    Bits,
    Bytes,
    Floats,
    about,
    check_kind,
    checked_reals,
    few,
    shown,
)
from supsup_runtime.bank.bits import check_padding, count_ones, pack_mask
from supsup_runtime.bank.fields import canonical_json, is_integer, is_unicode
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task_tensors import decode_tensors, encode_tensors, tensor_names
from supsup_runtime.bank.tensorfile import TensorFile, check_array
from supsup_runtime.errors import BankError

FORMAT = 2
MAX_HEADER_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = frozenset({"digest", "format", "labels", "name", "training"})
_FILE = TensorFile(
    kind="task",
    formats={1: _FIELDS | {"encodings"}, FORMAT: _FIELDS | {"lengths", "sha256"}},
    max_header=MAX_HEADER_BYTES,
)
_UNSEALED = "0" * 64
Origin: TypeAlias = Mapping[str, str | int]
"""Where a task's data come from: ``data``, their SHA-256; ``stream``, its kind; ``seed``."""
_SEEDED = ("permuted", "mixed")
"""Streams whose tasks depend on the seed."""


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

    def __repr__(self) -> str:
        tensors = f"{len(self.masks)} masks", f"{len(self.state)} tensors of state"
        labels = f"labels {few(self.labels)}" if self.labels else "no labels"
        return about(self, shown(self.name), *tensors, labels)

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


def origin_of(task: TaskMasks) -> Origin:
    """Return what the training record says of a task's data; empty if it says nothing valid."""
    found = {key: task.training.get(key) for key in ("data", "stream")}
    recipe = task.training.get("recipe")
    if isinstance(recipe, Mapping) and found["stream"] in _SEEDED:
        found["seed"] = recipe.get("seed")
    return found if is_origin(found) else {}


def is_origin(value: object) -> TypeGuard[Origin]:
    """Return whether a value is an `Origin`: nothing, or ``data``, ``stream`` and maybe a seed."""
    if value == {}:
        return True
    if not isinstance(value, Mapping) or set(value) - {"seed"} != {"data", "stream"}:
        return False
    data, stream = value["data"], value["stream"]
    texts = isinstance(data, str) and isinstance(stream, str)
    seeded = "seed" not in value or is_integer(value["seed"])
    return bool(texts and seeded and _DIGEST.fullmatch(data) and _NAME.fullmatch(stream))


def check_name(name: object) -> str:
    """Return a valid task name (see `TaskMasks`), or raise `BankError`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BankError(
            "task name: must be 1 to 100 of A-Z a-z 0-9 . _ -, starting with a letter or digit, "
            f"got {shown(name)}"
        )
    return name


def name_of(task: object) -> str:
    """Return the valid name of `TaskMasks`, or raise `BankError`."""
    check_kind("task", task, TaskMasks, "TaskMasks, from make_task", error=BankError)
    return check_name(getattr(task, "name", None))


def max_task_bytes(network: Network) -> int:
    """Return an upper bound on the size of a task file."""
    packed = sum(parameter.size // 8 + 1 for parameter in network.parameters)
    return packed + 4 * network.num_state + _FILE.frame_bytes(tensor_names(network)[1])


def encode_task(task: TaskMasks, network: Network, digest: str, *, version: int = FORMAT) -> bytes:
    """Return the bytes of a task file of format `version`, masks packed, or coded if shorter.

    Equal tasks give equal bytes. A task that does not fit raises `BankError`.
    """
    place = f"task {name_of(task)!r}"
    check_task(task, network, place)
    tensors, described = encode_tensors(task.masks, task.state, network, place, version=version)
    header = {
        "digest": digest,
        "format": version,
        "labels": list(task.labels),
        "name": task.name,
        "training": dict(task.training),
        **described,
    }
    if version > 1:
        header["sha256"] = _UNSEALED
    try:
        text = canonical_json(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise BankError(
            f"{place}: training must be JSON without NaN or infinity: {error}"
        ) from error
    data = _FILE.write(tensors, text, place)
    return data if version == 1 else _sealed(data)


def decode_task(
    data: bytes,
    network: Network,
    digest: str,
    *,
    place: str,
    newest: int = FORMAT,
    intact: bool = False,
) -> TaskMasks:
    """Invert `encode_task`, trusting nothing; messages call the file `place`.

    `newest` is the format of the task's bank. If its index has shown the file to be `intact`, the
    file's own SHA-256 is not checked again.

    Raises:
        BankError: If a rule of docs/FORMAT.md is broken.
    """
    tensors, header = _FILE.read(data, digest, tensor_names(network), place)
    if header["format"] > newest:
        raise BankError(
            f"{place}: a task of format {header['format']} needs a bank of that format, got a "
            f"bank of format {newest}; run supsup-bank upgrade on the bank first"
        )
    if header["format"] > 1 and not intact:
        _check_seal(data, header["sha256"], place)
    masks, state = decode_tensors(tensors, header, network, place, file_bytes=len(data))
    task = TaskMasks(
        name=header["name"],
        masks=masks,
        state=state,
        labels=tuple(header.items("labels")),
        training=header.get("training", dict),
    )
    check_task(task, network, place)
    return task


def _sealed(data: bytes) -> bytes:
    """Put a file's own SHA-256, taken with zeros in its place, into its header."""
    mark = rb"\"sha256\":\""  # as safetensors escapes it; escaped twice inside labels
    start = data.index(mark + _UNSEALED.encode()) + len(mark)
    own = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + own + data[start + len(own) :]


def _check_seal(data: bytes, told: object, place: str) -> None:
    digits = told.encode() if isinstance(told, str) and is_unicode(told) else b""
    start = data.find(digits, 8, 8 + int.from_bytes(data[:8], "little"))
    view, got = memoryview(data), hashlib.sha256()
    for part in (view[:start], _UNSEALED.encode(), view[start + len(digits) :]):
        got.update(part)
    if len(digits) != len(_UNSEALED) or start < 0 or got.hexdigest() != told:
        raise BankError(
            f"{place}: the task is damaged or was changed: its own SHA-256 must be "
            f"{told!r:.80}, got {got.hexdigest()}; get the file again"
        )


def check_task(task: TaskMasks, network: Network, place: str) -> None:
    """Raise `BankError` unless a task fits the network: names, shapes, finite values, labels."""
    check_name(task.name)
    for key, given, wanted in (
        ("masks", task.masks, [p.name for p in network.parameters]),
        ("state", task.state, [s.name for s in network.state]),
    ):
        check_kind(f"{place}: {key}", given, Mapping, "a mapping", error=BankError)
        if set(given) != set(wanted):
            raise BankError(f"{place}: {key} must be of {wanted}, got {shown(list(given))}")
    for parameter in network.parameters:
        where = f"{place}: mask of {parameter.name!r}"
        check_padding(task.masks[parameter.name], parameter.size, place=where)
    for tensor in network.state:
        where = f"{place}: state {tensor.name!r}"
        check_array(task.state[tensor.name], np.float32, tensor.shape, place=where)
    check_labels(task.labels, network, place)
    check_kind(f"{place}: training", task.training, Mapping, "a mapping", error=BankError)


def equal_tasks(tasks: Iterable[TaskMasks]) -> list[tuple[str, str]]:
    """Return pairs of a bank's tasks with equal masks and state: no inference tells them apart."""
    seen: dict[bytes, str] = {}
    pairs = []
    for task in tasks:
        arrays: list[Array] = [*task.masks.values(), *task.state.values()]
        content = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
        first = seen.setdefault(content.digest(), task.name)
        if first != task.name:
            pairs.append((first, task.name))
    return pairs


def check_labels(labels: tuple[str, ...], network: Network, place: str) -> None:
    """Raise `BankError` unless labels are Unicode text and at most `real_outputs`."""
    check_kind(f"{place}: labels", labels, (tuple, list), "a tuple of texts", error=BankError)
    if len(labels) > network.real_outputs:
        raise BankError(
            f"{place}: at most {network.real_outputs} labels (the real outputs), got {len(labels)}"
        )
    if not all(isinstance(label, str) for label in labels):
        raise BankError(f"{place}: labels must be strings, got {shown(labels)}")
    if not is_unicode("".join(labels)):
        raise BankError(f"{place}: labels must be Unicode text, got a lone surrogate")
