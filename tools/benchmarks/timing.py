"""How times are taken: candidates alternate in rounds, medians with quartiles are compared.

Rows are plain dictionaries, so that every case prints the same table and writes the same JSON.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "Candidate",
    "Row",
    "Setup",
    "available_bytes",
    "machine",
    "measure",
    "skipped",
    "spread",
    "table",
    "too_large",
]

Row = dict[str, Any]
MAX_CALLS = 200
"""Calls of a candidate in one visit, at most."""
SETTLE_SECONDS = 0.005
"""Pause before a visit: OpenMP threads of the candidate before spin for about a millisecond."""
WARM_UP_SECONDS = 0.5
"""Warming up a candidate ends after this, if not sooner."""
SLOW_SECONDS = 0.05
"""Calls slower than this are not warmed up again at every visit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every case needs.

    Attributes:
        cache: Folder of the banks and models made for a run.
        threads: Threads of one call, for every candidate.
        rounds: Visits to each candidate.
        visit_seconds: About how long one visit lasts; a visit has at least one call.
    """

    cache: Path
    threads: int = 1
    rounds: int = 9
    visit_seconds: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to do a thing.

    Attributes:
        name: What the table calls it.
        call: Does it once. What it returns goes into the column `task` if it is an integer.
        note: What a reader must know to judge the time.
        scale: Factor for the seconds of a call, where only a part is measured; `note` says so.
        against: Name of the candidate that its ratio is to; the first one where empty.
    """

    name: str
    call: Callable[[], object]
    note: str = ""
    scale: float = 1.0
    against: str = ""


def measure(candidates: Sequence[Candidate], setup: Setup) -> list[Row]:
    """Time all candidates in alternating rounds.

    Returns:
        One row a candidate: the median of single calls and its quartiles, in milliseconds, and
        `ratio`, the median over that of the candidate it is compared with.
    """
    warmed = [_warm_up(candidate.call) for candidate in candidates]
    seconds: list[list[float]] = [[] for _ in candidates]
    gc.collect()
    gc.disable()
    try:
        for _ in range(setup.rounds):
            for candidate, (_, typical), taken in zip(candidates, warmed, seconds, strict=True):
                taken.extend(_visit(candidate.call, typical, setup.visit_seconds))
    finally:
        gc.enable()
    rows = [
        _row(candidate, answer, taken)
        for candidate, (answer, _), taken in zip(candidates, warmed, seconds, strict=True)
    ]
    medians = {row["case"]: row["ms"] for row in rows}
    for candidate, row in zip(candidates, rows, strict=True):
        row["ratio"] = row["ms"] / medians[candidate.against or candidates[0].name]
    return rows


def _row(candidate: Candidate, answer: object, seconds: Sequence[float]) -> Row:
    return {
        "case": candidate.name,
        **spread([second * candidate.scale * 1e3 for second in seconds], "ms"),
        "calls": len(seconds),
        "ratio": None,
        "task": answer if isinstance(answer, int) else None,
        "note": candidate.note,
    }


def skipped(name: str, reason: str) -> Row:
    """The row of a candidate that was not run."""
    return {"case": name, "ms": None, "note": f"skipped: {reason}"}


def spread(values: Sequence[float], unit: str) -> Row:
    """Median and quartiles: ``{unit: ..., unit_q25: ..., unit_q75: ...}``."""
    low, middle, high = (float(v) for v in np.percentile(values, [25, 50, 75]))
    return {unit: middle, f"{unit}_q25": low, f"{unit}_q75": high}


def _warm_up(call: Callable[[], object]) -> tuple[object, float]:
    """Call up to five times, fewer where that is slow; the answer, and seconds of the fastest."""
    taken: list[float] = []
    while len(taken) < 5 and sum(taken) < WARM_UP_SECONDS:
        start = time.perf_counter()
        answer = call()
        taken.append(time.perf_counter() - start)
    return answer, min(taken)


def _visit(call: Callable[[], object], typical: float, visit_seconds: float) -> list[float]:
    """Seconds of each of some calls; how many follows from the `typical` seconds of one."""
    time.sleep(SETTLE_SECONDS)
    if typical < SLOW_SECONDS:
        call()  # the candidate before left its own data in the processor's caches
    taken = []
    for _ in range(min(MAX_CALLS, max(1, int(visit_seconds / typical)))):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def machine() -> dict[str, Any]:
    """Versions, processor and load: what a time means nothing without."""
    packages = ("numpy", "torch", "onnx", "onnxruntime")
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _cpu_name() -> str:
    """As /proc/cpuinfo has it, where there is one."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def available_bytes() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not say."""
    path = Path("/proc/meminfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def too_large(needed: int, what: str) -> str:
    """Why `needed` bytes cannot be had, or an empty text."""
    available = available_bytes()
    if available is None or needed < available:
        return ""
    return f"{what} needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are available"


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text; columns in the order of their first appearance, notes below."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "note"))
    columns = [c for c in columns if any(row.get(c) is not None for row in rows)]
    notes = list(dict.fromkeys(row["note"] for row in rows if row.get("note")))
    cells = [[*columns, ""]]
    for row in rows:
        mark = f"[{notes.index(row['note']) + 1}]" if row.get("note") else ""
        cells.append([*(_cell(row.get(column)) for column in columns), mark])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = [column in {"case", "model"} for column in [*columns, ""]]
    lines = [_aligned(line, widths, left) for line in cells]
    return "\n".join([*lines, *(f"[{i}] {note}" for i, note in enumerate(notes, 1))])


def _aligned(line: Sequence[str], widths: Sequence[int], left: Sequence[bool]) -> str:
    cells = [
        text.ljust(width) if at_left else text.rjust(width)
        for text, width, at_left in zip(line, widths, left, strict=True)
    ]
    return "  ".join(cells).rstrip()


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return str(value)
