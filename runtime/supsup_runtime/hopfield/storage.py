"""Storage of a bank as masks and as a Hopfield store."""

from __future__ import annotations

import math
from typing import Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import packed_bytes
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.file import STORE_FILE, has_store, read_store
from supsup_runtime.hopfield.matrix import DTYPES, MAX_UNITS, RULES, capacity
from supsup_runtime.hopfield.store import store_bytes


def storage(bank: MaskBank) -> dict[str, Any]:
    """Compare explicit masks with a Hopfield store.

    Returns:
        A dictionary: ``kind`` (``storage``), ``path``, ``tasks`` (explicit ones), ``task_bytes``
            (packed masks and state of one task), ``packed_bytes`` (of all tasks),
            ``explicit_bytes`` (of the files), ``hopfield_bytes`` (of the matrices, by dtype),
            ``break_even`` (tasks from which matrices are smaller, by dtype), ``capacity`` (tasks,
            by rule), ``fits`` (whether matrices support so many units), ``store`` (``bytes``,
            ``dtype``, ``rule`` and ``tasks`` of the bank's store, or None) and ``verdict`` (a
            sentence).

    Raises:
        InputError: If the network has no masked parameters.
        BankError: If the store breaks a rule.
    """
    network = bank.network
    if not network.parameters:
        raise InputError(
            f"{bank.path}: --storage compares masks, but this network has no masked parameter"
        )
    sizes = [p.size for p in network.parameters]
    task_bytes = sum(packed_bytes(size) for size in sizes) + 4 * network.num_state
    value: dict[str, Any] = {
        "break_even": {d: math.ceil(store_bytes(network, d) / task_bytes) for d in DTYPES},
        "capacity": {r: math.floor(min(capacity(size, r) for size in sizes)) for r in RULES},
        "explicit_bytes": sum((bank.path / e.file).stat().st_size for e in bank.entries),
        "fits": max(sizes) <= MAX_UNITS,
        "hopfield_bytes": {d: store_bytes(network, d) for d in DTYPES},
        "kind": "storage",
        "packed_bytes": len(bank) * task_bytes,
        "path": str(bank.path),
        "store": _own_store(bank) if has_store(bank) else None,
        "task_bytes": task_bytes,
        "tasks": len(bank),
    }
    value["verdict"] = _verdict(value)
    return value


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
