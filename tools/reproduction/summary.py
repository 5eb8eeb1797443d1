"""Means over tasks and seeds, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tools.reproduction.measuring import Row
from tools.reproduction.store import Line

NEAR_DEGREES = 10.0
COLUMNS = {
    "known": "task known (GG)",
    "inferred": "task inferred",
    "near": "within 10 degrees",
    "unknown": "unknown (GNu)",
    "shared": "labels alone (GNs)",
}
"""Titles of the measures, in the order of the tables."""


def measures_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the measures of any row."""
    return [measure for measure in COLUMNS if any(measure in row for row in rows)]


def row_summary(row: Row, by_bank: Mapping[str, Sequence[Line]], masks: int) -> dict[str, Any]:
    """Summarize one row, given a line per task by bank, and the masks per bank.

    Returns:
        Each measure as a fraction, the mean over tasks, then banks; ``*_se``, the binomial
        standard error of a sample, in which a batch is one draw; ``seeds``, means per bank;
        ``tasks``, means per task; medians in milliseconds; ``asked``, the bars.
    """
    everything = [dict(line) for lines in by_bank.values() for line in lines]
    for line in everything:
        near = _near(line)
        if near is not None:
            line["near"] = near
    size = len(everything) // len(by_bank)
    banks = [everything[start : start + size] for start in range(0, len(everything), size)]
    found: dict[str, Any] = {
        "images": sum(line["images"] for line in everything),
        "label": row.label,
        "masks": masks,
        "num_tasks": size,
        "reference": row.reference,
    }
    for measure in COLUMNS:
        if all(line.get(measure) is not None for line in everything):
            seeds = [fmean(line[measure] for line in lines) for lines in banks]
            found[measure] = fmean(seeds)
            found.setdefault("seeds", {})[measure] = [round(value, 6) for value in seeds]
            found.setdefault("tasks", {})[measure] = [
                round(fmean(lines[index][measure] for lines in banks), 6) for index in range(size)
            ]
            if measure != "known":
                spread = found[measure] * (1 - found[measure])
                found[f"{measure}_se"] = math.sqrt(spread * row.batch / found["images"])
    for name in ("known_ms", "unknown_ms"):
        values = [line[name] for line in everything if line.get(name) is not None]
        found[name] = round(median(values), 3) if values else None
    found["asked"] = {
        measure: {"at_least": percent, "met": 100 * found.get(measure, 0) >= percent}
        for measure, percent in row.at_least
    }
    return found


def _near(line: Line) -> float | None:
    """Return the fraction inferred within 10 degrees; None without rotations."""
    names = line.get("inferred_as", {})
    if not line["images"] or not all(
        name.startswith("rotated-") for name in (line["task"], *names)
    ):
        return None
    right = sum(n for name, n in names.items() if _turn(name, line["task"]) <= NEAR_DEGREES)
    return float(right / line["images"])


def _turn(one: str, other: str) -> float:
    """Return the smaller angle between two tasks, in degrees."""
    degrees = abs(float(one.partition("-")[2]) - float(other.partition("-")[2])) % 360
    return min(degrees, 360 - degrees)
