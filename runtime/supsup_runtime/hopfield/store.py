"""The Hopfield store of a bank: all its masks in one matrix per masked parameter, of fixed size.

Tasks are encoded one after the other, without the masks of those before. What the store gives back
are energies, fields, the mean mask and fixed points; docs/HOPFIELD.md says what that costs.
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

from supsup_runtime.arrays import Bits, Bytes, Floats
from supsup_runtime.bank.bits import pack_mask, unpack_mask
from supsup_runtime.bank.fields import is_number
from supsup_runtime.bank.layout import join, spans
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks, check_task
from supsup_runtime.errors import BankError, CapacityWarning, InputError
from supsup_runtime.hopfield.matrix import (
    HopfieldMatrix,
    capacity,
    expected_bit_error,
    matrix_bytes,
)
from supsup_runtime.hopfield.settle import settle

FINGERPRINT = 16
"""Hexadecimal digits of a mask's fingerprint."""
_FINGERPRINT = re.compile(f"[0-9a-f]{{{FINGERPRINT}}}")
TOLERATED = math.erfc(math.sqrt(1 / (2 * 0.138))) / 2
"""Fraction of bits turned by one step above which a warning comes: Hebb's rule at its capacity."""


def to_pattern(mask: Bits) -> Floats:
    """A mask as signs, 1 where it is set, else -1: ``bool (...)`` to ``float32 (mask.size,)``."""
    return np.where(mask.reshape(-1), np.float32(1), np.float32(-1))


def fingerprint(packed: Bytes) -> str:
    """What tells stored masks from others: the head of the SHA-256 of the packed mask."""
    return hashlib.sha256(packed.tobytes()).hexdigest()[:FINGERPRINT]


def fingerprints(task: TaskMasks, network: Network) -> tuple[str, ...]:
    """Fingerprints of a task's masks, in the order of the network's parameters."""
    return tuple(fingerprint(task.masks[p.name]) for p in network.parameters)


def are_fingerprints(value: object, count: int) -> TypeGuard[list[str]]:
    """Whether a value from JSON can be the fingerprints of a task with `count` masks."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(mark, str) and _FINGERPRINT.fullmatch(mark) for mark in value)
    )


def is_entropy(value: object) -> TypeGuard[float]:
    """Whether a value from JSON can be an entropy: a finite number of at least 0."""
    return is_number(value) and 0 <= value <= sys.float_info.max


def store_bytes(network: Network, dtype: str) -> int:
    """Bytes of a store's tensors, whatever the number of tasks."""
    parameters = sum(matrix_bytes(p.size, dtype) + 4 * p.size for p in network.parameters)
    return parameters + 8 * network.num_state


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """What a store keeps of one task, beside its part in the sums.

    Attributes:
        name: The task's name.
        labels: Names of the real outputs by index.
        fingerprints: Of its masks, in the order of the network's parameters.
        entropy: H of the task's own test images through its mask, mean, in nats; None where its
            training record has none. Recovery tells a known stream from an unknown one by it.
    """

    name: str
    labels: tuple[str, ...]
    fingerprints: tuple[str, ...]
    entropy: float | None = None


class HopfieldStore:
    """All masks of a network's tasks, implicitly.

    Attributes:
        network: The network that the tasks share.
        digest: Its `Network.digest`.
        rule: ``hebb`` or ``storkey``.
        dtype: Of the stored matrices, ``float32`` or ``float16``.
        tasks: The tasks encoded, in order.
        matrices: By parameter name.
        sums: By parameter name, ``int64 (d,)``: the sum of all patterns.
        state_sums: By tensor name, ``float64 shape``: the sum of all tasks' state.
    """

    def __init__(
        self, network: Network, digest: str, *, rule: str = "storkey", dtype: str = "float32"
    ) -> None:
        if not network.parameters:
            raise InputError(
                "Hopfield store: the network must have masked parameters, got none; its tasks are "
                "state, which no matrix recalls"
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

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks encoded, in order."""
        return tuple(task.name for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __contains__(self, name: object) -> bool:
        return name in self.task_names

    def encode(self, task: TaskMasks) -> dict[str, float]:
        """Write a task's masks and state into the store.

        Returns:
            By parameter name, the fraction of the task's bits that one step turns, within
            ``[0, 1]``. Under ``storkey`` the newest task has next to none, older ones may.

        Raises:
            BankError: If the task does not fit the network, or its name is taken.
            InputError: If the numbers would leave the range of `dtype`.

        Warns:
            CapacityWarning: If a matrix has more patterns than its `capacity`, or loses more bits
                of this one than it would of random ones there.
        """
        place = f"Hopfield store: task {task.name!r}"
        check_task(task, self.network, place)
        if task.name.casefold() in {name.casefold() for name in self.task_names}:
            raise BankError(
                f"{place}: is encoded already (upper and lower case count as one), and what is in "
                "the matrices stays; choose another name"
            )
        for matrix in self.matrices.values():
            matrix.refuse_overflow()  # before any of them changes
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
        """A task's masks as signs, by parameter name: ``float32 (d,)``."""
        return {
            p.name: to_pattern(unpack_mask(task.masks[p.name], p.shape))
            for p in self.network.parameters
        }

    def settle(self, patterns: Mapping[str, Floats]) -> tuple[dict[str, Floats], bool]:
        """The fixed point that a task's patterns fall to, all together, as in a recovery.

        Args:
            patterns: By parameter name, ``float32 (d,)`` of -1 and 1; of all parameters.

        Returns:
            The patterns, and whether they are a fixed point; see `hopfield.settle`.

        Raises:
            InputError: If a parameter is missing, or a pattern is another.
        """
        parts = dict(zip(self.matrices, spans(self.network.parameters), strict=True))

        def look(z: Floats) -> tuple[float, Floats]:
            seen = [matrix.look(z[parts[name]]) for name, matrix in self.matrices.items()]
            return sum(energy for energy, _ in seen), join(field for _, field in seen)

        diagonal = join(matrix.diagonal() for matrix in self.matrices.values())
        z, fixed = settle(look, diagonal, self._joined(patterns))
        return {name: z[part] for name, part in parts.items()}, fixed

    def mean(self, parameter: str) -> Floats:
        """The mean of the encoded patterns: ``float32 (d,)``, within ``[-1, 1]``.

        Raises:
            InputError: If there is no such parameter, or no task is encoded.
        """
        if parameter not in self.matrices:
            raise InputError(
                f"Hopfield store: parameter must be one of {sorted(self.matrices)}, "
                f"got {parameter!r}"
            )
        return (self.sums[parameter] / self._count()).astype(np.float32)

    def mean_state(self) -> dict[str, Floats]:
        """The mean of the encoded tasks' state, by tensor name: ``float32 shape``.

        Raises:
            InputError: If no task is encoded.
        """
        with np.errstate(over="ignore"):  # infinity is refused where it would do harm
            return {
                name: np.asarray(total / self._count(), np.float32)
                for name, total in self.state_sums.items()
            }

    def find(self, patterns: Mapping[str, Floats]) -> tuple[str, ...]:
        """Names of the tasks whose masks are exactly these, in all parameters; empty for others.

        The masks are told by their fingerprints, 64 bits each.

        Raises:
            InputError: As `settle`.
        """
        self._joined(patterns)
        marks = tuple(fingerprint(pack_mask(patterns[name] > 0)) for name in self.matrices)
        return tuple(task.name for task in self.tasks if task.fingerprints == marks)

    def _joined(self, patterns: Mapping[str, Floats]) -> Floats:
        """The patterns of all parameters, checked, one after the other."""
        if set(patterns) != set(self.matrices):
            raise InputError(
                f"Hopfield store: patterns must be of {sorted(self.matrices)}, got "
                f"{sorted(patterns)}"
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
