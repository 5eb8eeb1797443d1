"""Storage of a bank: its tasks in several forms, and as a Hopfield store."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import count_ones, packed_bytes
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.file import STORE_FILE, has_store, read_store
from supsup_runtime.hopfield.matrix import DTYPES, MAX_UNITS, RULES, capacity
from supsup_runtime.hopfield.store import store_bytes

FORMS = {
    "float_bytes": "a float32 model per task",
    "packed_bytes": "packed masks, and state",
    "csc_bytes": "16-bit indices of ones (CSC), and float32 state",
    "explicit_bytes": "explicit tasks, as stored",
    "bound_bytes": "entropy of the masks, and state",
}
"""Forms of a task, by their key in `storage`."""


def storage(bank: MaskBank) -> dict[str, Any]:
    """Compare the bytes of a bank's tasks in several forms, and as a Hopfield store.

    Returns:
        A dictionary: ``kind`` (``storage``), ``path``, ``tasks`` (explicit ones), ``task_bytes``
            (packed masks and state of one task), the bytes of all tasks in each of `FORMS`
            (``explicit_bytes``: of the files), ``by_task`` (of each: these, ``name`` and
            ``density``), ``state_dtype``, ``hopfield_bytes`` (of the matrices, by dtype),
            ``break_even`` (tasks from which matrices are smaller, by dtype), ``capacity`` (tasks,
            by rule), ``fits`` (whether matrices support so many units), ``store`` (``bytes``,
            ``dtype``, ``rule`` and ``tasks`` of the bank's store, or None) and ``verdict`` (a
            sentence).

    Raises:
        InputError: If the network has no masked parameters.
        BankError: If a task or the store breaks a rule.
    """
    network = bank.network
    if not network.parameters:
        raise InputError(
            f"{bank.path}: --storage compares masks, but this network has no masked parameter"
        )
    sizes = [p.size for p in network.parameters]
    by_task = [_by_form(bank, index) for index in range(len(bank))]
    task_bytes = _packed_task(network)
    value: dict[str, Any] = {
        "break_even": {d: math.ceil(store_bytes(network, d) / task_bytes) for d in DTYPES},
        "capacity": {r: math.floor(min(capacity(size, r) for size in sizes)) for r in RULES},
        "by_task": by_task,
        "fits": max(sizes) <= MAX_UNITS,
        "hopfield_bytes": {d: store_bytes(network, d) for d in DTYPES},
        "kind": "storage",
        "path": str(bank.path),
        "state_dtype": network.state_dtype,
        "store": _own_store(bank) if has_store(bank) else None,
        "task_bytes": task_bytes,
        "tasks": len(bank),
        **{form: sum(task[form] for task in by_task) for form in FORMS},
    }
    value["verdict"] = _verdict(value)
    return value


def _by_form(bank: MaskBank, index: int) -> dict[str, Any]:
    """Return a task's name, density and bytes by form."""
    network, task = bank.network, bank.task(index)
    ones = {p.name: count_ones(task.masks[p.name]) for p in network.parameters}
    entropy = sum(_entropy(ones[p.name], p.size) for p in network.parameters)
    return {
        "bound_bytes": math.ceil(entropy / 8) + _state_bytes(network),
        "csc_bytes": 2 * sum(ones.values()) + 4 * network.num_state,
        "density": sum(ones.values()) / network.num_masked,
        "explicit_bytes": (bank.path / bank.entries[index].file).stat().st_size,
        "float_bytes": 4 * (network.num_masked + network.num_state),
        "name": task.name,
        "packed_bytes": _packed_task(network),
    }


def _entropy(ones: int, size: int) -> float:
    """Return the bits of a random mask with as many ones: log2 of (size over ones)."""
    parts = (math.lgamma(count + 1) for count in (size, ones, size - ones))
    return (next(parts) - sum(parts)) / math.log(2)


def _packed_task(network: Network) -> int:
    return sum(packed_bytes(p.size) for p in network.parameters) + _state_bytes(network)


def _state_bytes(network: Network) -> int:
    return np.dtype(network.state_dtype).itemsize * network.num_state


def _own_store(bank: MaskBank) -> dict[str, Any]:
    store = read_store(bank)
    return {
        "bytes": (bank.path / STORE_FILE).stat().st_size,
        "dtype": store.dtype,
        "rule": store.rule,
        "tasks": len(store),
    }


def _verdict(value: dict[str, Any]) -> str:
    if not value["fits"]:
        return (
            "This bank supports explicit masks only: one of its parameters has more than the "
            f"{MAX_UNITS:,} units that a Hopfield matrix supports."
        )
    own = value["store"]
    tasks = max(value["tasks"], own["tasks"] if own else 0)
    explicit = tasks * value["task_bytes"]
    dtype = own["dtype"] if own else "float16"
    matrix = value["hopfield_bytes"][dtype]
    smaller = "explicit masks are" if explicit <= matrix else "the Hopfield store is"
    best = max(value["capacity"].values())
    need = value["break_even"][dtype]
    beyond = (
        f"more than the store holds ({best})" if need > best else f"within its capacity ({best})"
    )
    return (
        f"For the {tasks} tasks of this bank, {smaller} smaller: {explicit:,} bytes of packed "
        f"masks and state, {matrix:,} bytes of {dtype} matrices. They break even at {need:,} "
        f"tasks, {beyond}."
    )
