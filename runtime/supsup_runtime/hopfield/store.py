"""The Hopfield store of a bank (docs/HOPFIELD.md).

Its size is fixed. Tasks are encoded one by one, without earlier masks.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from supsup_runtime.arrays import Bits, Bytes, Floats, about, check_choice, check_kind, few, shown
from supsup_runtime.bank.bits import pack_mask, unpack_mask
from supsup_runtime.bank.fields import is_number
from supsup_runtime.bank.layout import join, spans
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks, check_task
from supsup_runtime.errors import BankError, CapacityWarning, InputError
from supsup_runtime.hopfield.matrix import (
    MAX_UNITS,
    HopfieldMatrix,
    capacity,
    expected_bit_error,
    matrix_bytes,
)
from supsup_runtime.hopfield.settle import settle

FINGERPRINT = 16
"""Hexadecimal digits of a fingerprint."""
MAX_MATRIX_BYTES = 4 << 30
"""Bytes of all matrices of a store in memory."""
_FINGERPRINT = re.compile(f"[0-9a-f]{{{FINGERPRINT}}}")
TOLERATED = math.erfc(math.sqrt(1 / (2 * 0.138))) / 2
"""Fraction of flipped bits above which to warn: Hebb's rule at capacity."""


def to_pattern(mask: Bits) -> Floats:
    """Return a mask ``bool (...)`` as ``float32 (mask.size,)`` of 1 (set) and -1."""
    return np.where(mask.reshape(-1), np.float32(1), np.float32(-1))


def fingerprint(packed: Bytes) -> str:
    """Return the first digits of the SHA-256 of a packed mask."""
    return hashlib.sha256(packed.tobytes()).hexdigest()[:FINGERPRINT]


def fingerprints(task: TaskMasks, network: Network) -> tuple[str, ...]:
    """Return the fingerprints of a task's masks, in parameter order."""
    return tuple(fingerprint(task.masks[p.name]) for p in network.parameters)


def are_fingerprints(value: object, count: int) -> TypeGuard[list[str]]:
    """Return whether a JSON value can be the fingerprints of `count` masks."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(mark, str) and _FINGERPRINT.fullmatch(mark) for mark in value)
    )


def is_entropy(value: object) -> TypeGuard[float]:
    """Return whether a JSON value is a finite number of at least 0."""
    return is_number(value) and 0 <= value <= sys.float_info.max


def store_bytes(network: Network, dtype: str) -> int:
    """Return the bytes of a store's tensors, for any number of tasks."""
    parameters = sum(matrix_bytes(p.size, dtype) + 4 * p.size for p in network.parameters)
    return parameters + 8 * network.num_state


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """What a store keeps of one task besides its part in the sums.

    Attributes:
        name: Task name.
        labels: Names of the real outputs by index.
        fingerprints: Of its masks, in parameter order.
        entropy: Mean H of its test images in nats, which tells known from unknown streams, or None.
    """

    name: str
    labels: tuple[str, ...]
    fingerprints: tuple[str, ...]
    entropy: float | None = None


class HopfieldStore:
    """All masks of a network's tasks, stored implicitly.

    Attributes:
        network: Network that the tasks share.
        digest: Its `Network.digest`.
        rule: ``hebb`` or ``storkey``.
        dtype: ``float32`` or ``float16``, of the stored matrices.
        tasks: Encoded tasks, in order.
        matrices: By parameter name.
        sums: Sum of all patterns by parameter name, ``int64 (d,)``.
        state_sums: Sum of all state by tensor name, ``float64 shape``.
    """

    def __init__(
        self, network: Network, digest: str, *, rule: str = "storkey", dtype: str = "float32"
    ) -> None:
        check_kind("Hopfield store: network", network, Network, "a Network")
        if not network.parameters:
            raise InputError(
                "Hopfield store: the network must have masked parameters, got none; its tasks have "
                "state alone, which a matrix cannot store"
            )
        if network.stored:
            raise InputError(
                "Hopfield store: weights must be seeded, as its models regrow them, got stored "
                f"ones of {network.stored[0].name!r}; keep the explicit masks"
            )
        num_bytes = sum(4 * p.size * p.size for p in network.parameters)
        if num_bytes > MAX_MATRIX_BYTES and max(p.size for p in network.parameters) <= MAX_UNITS:
            raise InputError(
                f"Hopfield store: matrices of all parameters may take {MAX_MATRIX_BYTES:,} bytes "
                f"in memory, got {num_bytes:,}; mask fewer units, or keep the explicit masks"
            )
        self.network = network
        self.digest = digest
        self.rule = rule
        self.dtype = dtype
        self.tasks: tuple[StoredTask, ...] = ()
        self.matrices = {
            p.name: _named_matrix(p.name, p.size, rule, dtype) for p in network.parameters
        }
        self.sums = {p.name: np.zeros(p.size, np.int64) for p in network.parameters}
        self.state_sums = {s.name: np.zeros(s.shape, np.float64) for s in network.state}

    def __repr__(self) -> str:
        tasks = f"{len(self.tasks)} tasks: {few(self.task_names)}" if self.tasks else "no tasks"
        return about(self, tasks, self.rule, self.dtype, repr(self.network))

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the encoded tasks."""
        return tuple(task.name for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, name: object) -> bool:
        return name in self.task_names

    def encode(self, task: TaskMasks) -> dict[str, float]:
        """Add a task's masks and state.

        Returns:
            Fraction of the task's bits that one step flips, by parameter name. Under ``storkey``
                older tasks may lose bits that this does not show.

        Raises:
            BankError: If the task does not fit the network, or its name is taken.
            InputError: If values would exceed the range of `dtype`.

        Warns:
            CapacityWarning: If a matrix exceeds its `capacity`, or flips more bits of this pattern
                than Hebb's rule does at capacity.
        """
        check_kind("Hopfield store: task", task, TaskMasks, "TaskMasks, from make_task")
        place = f"Hopfield store: task {task.name!r}"
        check_task(task, self.network, place)
        if task.name.casefold() in {name.casefold() for name in self.task_names}:
            raise BankError(
                f"{place}: is encoded already (names ignore case) and cannot be replaced; "
                "choose another name"
            )
        for matrix in self.matrices.values():
            matrix.refuse_overflow()  # before any matrix changes
        patterns = self.patterns_of(task)
        for name, pattern in patterns.items():
            self.matrices[name].add(pattern)
            self.sums[name] += pattern.astype(np.int64)
        for name, value in task.state.items():
            self.state_sums[name] += value
        marks = fingerprints(task, self.network)
        entropy = task.training.get("entropy")
        stored = StoredTask(
            name=task.name,
            labels=task.labels,
            fingerprints=marks,
            entropy=float(entropy) if is_entropy(entropy) else None,
        )
        self.tasks = (*self.tasks, stored)
        errors = {name: self.matrices[name].bit_error(z) for name, z in patterns.items()}
        for name, error in errors.items():
            self._warn(name, error)
        return errors

    def patterns_of(self, task: TaskMasks) -> dict[str, Floats]:
        """Return a task's masks as signs ``float32 (d,)``, by parameter name."""
        return {
            p.name: to_pattern(unpack_mask(task.masks[p.name], p.shape))
            for p in self.network.parameters
        }

    def settle(self, patterns: Mapping[str, Floats]) -> tuple[dict[str, Floats], bool]:
        """Return the fixed point of patterns ``float32 (d,)``, and whether it is one.

        Raises:
            InputError: If a pattern is missing or invalid.
        """
        parts = dict(zip(self.matrices, spans(self.network.parameters), strict=True))

        def look(z: Floats) -> tuple[float, Floats]:
            seen = [matrix.look(z[parts[name]]) for name, matrix in self.matrices.items()]
            return sum(energy for energy, _ in seen), join(field for _, field in seen)

        diagonal = join(matrix.diagonal() for matrix in self.matrices.values())
        z, fixed = settle(look, diagonal, self._joined(patterns))
        return {name: z[part] for name, part in parts.items()}, fixed

    def mean(self, parameter: str) -> Floats:
        """Return the mean of a parameter's patterns, ``float32 (d,)`` within ``[-1, 1]``.

        Raises:
            InputError: If the parameter does not exist, or no task is encoded.
        """
        check_choice("Hopfield store: parameter", parameter, sorted(self.matrices))
        return (self.sums[parameter] / self._count()).astype(np.float32)

    def mean_state(self) -> dict[str, Floats]:
        """Return the mean state by tensor name, ``float32 shape``.

        Raises:
            InputError: If no task is encoded.
        """
        with np.errstate(over="ignore"):  # HopfieldInfo refuses infinity
            return {
                name: np.asarray(total / self._count(), np.float32)
                for name, total in self.state_sums.items()
            }

    def find(self, patterns: Mapping[str, Floats]) -> tuple[str, ...]:
        """Return the tasks with exactly these masks in all parameters, by 64-bit fingerprints.

        Raises:
            InputError: See `settle`.
        """
        self._joined(patterns)
        marks = tuple(fingerprint(pack_mask(patterns[name] > 0)) for name in self.matrices)
        return tuple(task.name for task in self.tasks if task.fingerprints == marks)

    def _joined(self, patterns: Mapping[str, Floats]) -> Floats:
        check_kind("Hopfield store: patterns", patterns, Mapping, "a mapping")
        if set(patterns) != set(self.matrices):
            raise InputError(
                f"Hopfield store: patterns must be of {sorted(self.matrices)}, got "
                f"{shown(list(patterns))}"
            )
        return join(matrix.signs(patterns[name]) for name, matrix in self.matrices.items())

    def _count(self) -> int:
        if not self.tasks:
            raise InputError("Hopfield store: no task is encoded, so there is no mean; encode one")
        return len(self.tasks)

    def _warn(self, parameter: str, measured: float) -> None:
        size, count = self.matrices[parameter].size, len(self)
        room = capacity(size, self.rule)
        if count <= room and measured <= TOLERATED:
            return
        expected = expected_bit_error(size, count, self.rule)
        warnings.warn(
            f"Hopfield store: {parameter!r} holds {count} patterns of {size} bits, its capacity by "
            f"rule {self.rule} is {room:.1f} random ones: expected bit error {expected:.2%} (one "
            f"step, mean of all tasks, random patterns), measured of {self.tasks[-1].name!r} "
            f"{measured:.2%}; keep the explicit masks, or mask more units",
            CapacityWarning,
            stacklevel=3,
        )


def _named_matrix(name: str, size: int, rule: str, dtype: str) -> HopfieldMatrix:
    try:
        return HopfieldMatrix(size, rule=rule, dtype=dtype)
    except InputError as error:
        raise InputError(f"parameter {name!r}: {error}") from error
