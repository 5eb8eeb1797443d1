"""An experiment as a picture: bars a row, or lines over the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.pictures import picture
from tools.reproduction.summary import COLUMNS, measures_of

__all__ = ["plot"]


def plot(title: str, figure: str, rows: Sequence[Mapping[str, Any]], file: Path) -> str:
    """Write an SVG; equal rows give equal bytes.

    Returns:
        What was written, or that matplotlib is missing.
    """
    bars = figure == "rows"

    def draw(axes: Any) -> None:  # noqa: ANN401 - matplotlib's
        (_bars if bars else _lines)(axes, rows)
        axes.set_title(title, fontsize="medium")
        axes.grid(visible=True, axis="x" if bars else "both", alpha=0.3)
        axes.legend(fontsize="small")

    return picture(file, draw, figsize=(8, 1.5 + 0.55 * len(rows) if bars else 4.5))


def _bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: ANN401 - matplotlib's
    """A group of bars a row, with each seed's value as a dot."""
    measures = measures_of(rows)
    height = 0.8 / len(measures)
    for number, measure in enumerate(measures):
        places = [index + (number - (len(measures) - 1) / 2) * height for index in range(len(rows))]
        values = [100 * row.get(measure, 0) for row in rows]
        axes.barh(places, values, height, label=COLUMNS[measure])
        for place, row in zip(places, rows, strict=True):
            seeds = row.get("seeds", {}).get(measure, [])
            if len(seeds) > 1:
                axes.plot([100 * s for s in seeds], [place] * len(seeds), "k.", markersize=3)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize="small")
    axes.invert_yaxis()
    lowest = min(100 * row[m] for row in rows for m in measures if m in row)
    axes.set(xlabel="percent", xlim=(max(0, lowest - 10), 100))


def _lines(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: ANN401 - matplotlib's
    """Accuracy over the tasks, in the order of the stream, a line a row."""
    for row in rows:
        measure = "unknown" if "unknown" in row["tasks"] else "shared"
        values = [100 * value for value in row["tasks"][measure]]
        axes.plot(range(1, len(values) + 1), values, marker=".", label=row["label"], linewidth=0.8)
    axes.set(xlabel="task", ylabel="accuracy, task unknown, %")
