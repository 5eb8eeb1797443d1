"""From measurements to a table: means over tasks and seeds, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tools.reproduction.experiment import Experiment, Row

from supsup_runtime.console import to_table

__all__ = ["COLUMNS", "MEASURES", "cells", "row_summary", "to_text"]

Line = dict[str, Any]
MEASURES = ("known", "inferred", "near", "unknown", "shared")
NEAR_DEGREES = 10.0
COLUMNS = {
    "known": "task known (GG)",
    "inferred": "task inferred",
    "near": "within 10 degrees",
    "unknown": "unknown (GNu)",
    "shared": "labels alone (GNs)",
}


def row_summary(row: Row, by_bank: Mapping[str, Sequence[Line]], masks: int) -> dict[str, Any]:
    """The numbers of one row.

    Args:
        row: What was measured.
        by_bank: A line a task, by bank.
        masks: Masks in each bank.

    Returns:
        For each measure that there is its mean over tasks, then banks, as a fraction; ``*_se``,
        the binomial standard error of those of a sample, in which a batch is one draw; ``seeds``,
        the means of each bank; ``tasks``, those of each task; milliseconds, medians over tasks;
        and what was asked for, and whether it was met.
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
    }
    for measure in MEASURES:
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
    """Fraction of the sample inferred to within 10 degrees; None where tasks are no rotations."""
    names = line.get("inferred_as", {})
    if not line["images"] or not all(
        name.startswith("rotated-") for name in (line["task"], *names)
    ):
        return None
    right = sum(n for name, n in names.items() if _turn(name, line["task"]) <= NEAR_DEGREES)
    return float(right / line["images"])


def _turn(one: str, other: str) -> float:
    """Degrees between two rotated tasks, the shorter way round."""
    degrees = abs(float(one.partition("-")[2]) - float(other.partition("-")[2])) % 360
    return min(degrees, 360 - degrees)


def cells(row: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    """A row's measures in percent, with standard errors where they are of samples."""
    return [_percent(row, measure) for measure in measures]


def _percent(row: Mapping[str, Any], measure: str) -> str:
    if measure not in row:
        return "-"
    error = row.get(f"{measure}_se")
    plus = f" ± {100 * error:.2f}" if error else ""  # none of all right or all wrong
    return f"{100 * row[measure]:.2f}{plus}"


def to_text(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal; percentages."""
    measures = [m for m in MEASURES if any(m in row for row in rows)]
    header = ["", *(COLUMNS[m] for m in measures), "ms", "reference", "asked for"]
    body = [
        [
            row["label"],
            *cells(row, measures),
            _milliseconds(row["unknown_ms"]),
            described.reference or "-",
            _asked(row),
        ]
        for row, described in zip(rows, experiment.rows, strict=True)
    ]
    return to_table(header, body)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _asked(row: Mapping[str, Any]) -> str:
    return (
        "; ".join(
            f"{name} {asked['at_least']:g}: {'met' if asked['met'] else 'NOT met'}"
            for name, asked in row["asked"].items()
        )
        or "-"
    )
