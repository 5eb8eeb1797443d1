"""Timing: candidates alternate in rounds; rows have medians and quartiles.

Rows are plain dictionaries, so that all cases share one table and JSON.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.console import to_table

Row = dict[str, Any]
MAX_CALLS = 200
"""At most so many calls of a candidate per visit."""
SETTLE_SECONDS = 0.005
"""Pause before a visit: OpenMP threads spin for about a millisecond after a call."""
WARM_UP_SECONDS = 0.5
"""Warming up a candidate ends after this time at the latest."""
SLOW_SECONDS = 0.05
"""Candidates slower than this are warmed up only once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Settings of every case.

    Attributes:
        cache: Folder of banks and models.
        threads: Threads per call.
        rounds: Visits to each candidate.
        visit_seconds: Approximate length of a visit, which has at least one call.
    """

    cache: Path
    threads: int
    rounds: int
    visit_seconds: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One of the alternatives to time.

    Attributes:
        name: Name in the table.
        call: Runs it once; an integer result is the column `task`.
        note: Conditions of the time.
    """

    name: str
    call: Callable[[], object]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Result of a case.

    Attributes:
        rows: Of the table.
        ratio: Meaning of the column `ratio`.
        settings: In addition to the options.
        draw: Draws the rows, for ``--plot``.
    """

    rows: list[Row]
    ratio: str = "-"
    settings: dict[str, Any] = field(default_factory=dict)
    draw: Callable[[Any], None] | None = None


def measure(candidates: Sequence[Candidate], setup: Setup) -> list[Row]:
    """Time all candidates in alternating rounds.

    Returns:
        A row per candidate: median and quartiles of single calls in milliseconds, and `ratio` of
        the median to that of the first.
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
    rows: list[Row] = [
        {
            "case": candidate.name,
            **spread([1e3 * second for second in taken], "ms"),
            "calls": len(taken),
            "ratio": None,
            "task": answer if isinstance(answer, int) else None,
            "note": candidate.note,
        }
        for candidate, (answer, _), taken in zip(candidates, warmed, seconds, strict=True)
    ]
    for row in rows:
        row["ratio"] = row["ms"] / rows[0]["ms"]
    return rows


def spread(values: Sequence[float], unit: str) -> Row:
    """Return median and quartiles: ``{unit: ..., unit_q25: ..., unit_q75: ...}``."""
    low, middle, high = (float(v) for v in np.percentile(values, [25, 50, 75]))
    return {unit: middle, f"{unit}_q25": low, f"{unit}_q75": high}


def _warm_up(call: Callable[[], object]) -> tuple[object, float]:
    """Return an answer, and the fewest seconds of up to five calls."""
    taken: list[float] = []
    while len(taken) < 5 and sum(taken) < WARM_UP_SECONDS:
        start = time.perf_counter()
        answer = call()
        taken.append(time.perf_counter() - start)
    return answer, min(taken)


def _visit(call: Callable[[], object], typical: float, visit_seconds: float) -> list[float]:
    time.sleep(SETTLE_SECONDS)
    if typical < SLOW_SECONDS:
        call()  # refill the processor's caches
    taken = []
    for _ in range(min(MAX_CALLS, max(1, int(visit_seconds / typical)))):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def table(rows: Sequence[Row]) -> str:
    """Return rows as aligned text, with notes below."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "note"))
    columns = [c for c in columns if any(row.get(c) is not None for row in rows)]
    notes = list(dict.fromkeys(row["note"] for row in rows if row.get("note")))
    cells = [
        [
            *(_cell(row.get(column)) for column in columns),
            f"[{notes.index(row['note']) + 1}]" if row.get("note") else "",
        ]
        for row in rows
    ]
    lines = [to_table([*columns, ""], cells)]
    return "\n".join([*lines, *(f"[{i}] {note}" for i, note in enumerate(notes, 1))])


def _cell(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return "-" if value is None else value
