"""What a bank's tasks take, as explicit masks and in a Hopfield store: supsup-inspect --storage."""

from __future__ import annotations

import math
from typing import Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import packed_bytes
from supsup_runtime.console import to_table
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.file import STORE_FILE, has_store, read_store
from supsup_runtime.hopfield.matrix import DTYPES, MAX_UNITS, RULES, capacity
from supsup_runtime.hopfield.store import store_bytes

__all__ = ["storage", "storage_text"]


def storage(bank: MaskBank) -> dict[str, Any]:
    """Bytes of a bank's tasks in every form, and how many tasks each form holds.

    Raises:
        InputError: If the network has no masked parameters.
        BankError: If the bank's Hopfield store breaks a rule.
    """
    network = bank.network
    if not network.parameters:
        raise InputError(
            f"{bank.path}: --storage compares masks, but this network has no masked parameter"
        )
    sizes = [p.size for p in network.parameters]
    a_task = sum(packed_bytes(size) for size in sizes) + 4 * network.num_state
    store = read_store(bank) if has_store(bank) else None
    value: dict[str, Any] = {
        "break_even": {d: math.ceil(store_bytes(network, d) / a_task) for d in DTYPES},
        "capacity": {r: math.floor(min(capacity(size, r) for size in sizes)) for r in RULES},
        "explicit_bytes": sum((bank.path / e.file).stat().st_size for e in bank.entries),
        "fits": max(sizes) <= MAX_UNITS,
        "hopfield_bytes": {d: store_bytes(network, d) for d in DTYPES},
        "kind": "storage",
        "packed_bytes": len(bank) * a_task,
        "path": str(bank.path),
        "store": None,
        "task_bytes": a_task,
        "tasks": len(bank),
    }
    if store is not None:
        value["store"] = {
            "bytes": (bank.path / STORE_FILE).stat().st_size,
            "dtype": store.dtype,
            "rule": store.rule,
            "tasks": len(store),
        }
    value["verdict"] = _verdict(value)
    return value


def _verdict(value: dict[str, Any]) -> str:
    """One plain sentence: which form is smaller for this bank."""
    if not value["fits"]:
        return (
            "Explicit masks are the only form for this bank: a parameter of it has more than the "
            f"{MAX_UNITS:,} units that a Hopfield matrix may have."
        )
    own = value["store"]
    tasks = max(value["tasks"], own["tasks"] if own else 0)
    explicit = tasks * value["task_bytes"]
    dtype = own["dtype"] if own else "float16"
    matrix = value["hopfield_bytes"][dtype]
    smaller = "explicit masks are" if explicit <= matrix else "the Hopfield store is"
    best = max(value["capacity"].values())
    need = value["break_even"][dtype]
    beyond = f"more than the {best} that it holds" if need > best else f"within the {best} it holds"
    return (
        f"For the {tasks} tasks of this bank {smaller} smaller: {explicit:,} bytes of packed masks "
        f"and state, {matrix:,} of {dtype} matrices, which break even at {need:,} tasks, {beyond}."
    )


def storage_text(value: dict[str, Any]) -> str:
    """`storage` as a table and a sentence."""
    tasks, a_task = value["tasks"], value["task_bytes"]
    rows: list[tuple[object, ...]] = [
        ("explicit tasks, as stored", f"{value['explicit_bytes']:,}", f"{tasks:,}", "any"),
        (f"packed masks and state, {a_task:,} a task", f"{tasks * a_task:,}", f"{tasks:,}", "any"),
    ]
    room = ", ".join(f"{count:,} ({rule})" for rule, count in value["capacity"].items())
    for dtype, size in value["hopfield_bytes"].items():
        holds = room if value["fits"] else f"none: above {MAX_UNITS:,} units"
        need = value["break_even"][dtype]
        rows.append((f"Hopfield matrices, {dtype}", f"{size:,}", f"from {need:,}", holds))
    own = value["store"]
    if own:
        title = f"{STORE_FILE}, {own['rule']}, {own['dtype']}"
        holds = f"{value['capacity'][own['rule']]:,}"
        rows.append((title, f"{own['bytes']:,}", f"{own['tasks']:,}", holds))
    table = to_table(("form", "bytes", "tasks", "holds at most"), rows)
    return f"storage of {value['path']}\n{table}\n{value['verdict']}"
