"""The sweep as a picture: milliseconds of a call over the number of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.benchmarks.timing import Row
from tools.pictures import picture

__all__ = ["plot_sweep"]


def plot_sweep(rows: Sequence[Row], file: Path, title: str) -> str:
    """Write an SVG: a line a case, medians with quartiles as a band.

    Returns:
        What was written, or that matplotlib is missing.
    """

    def draw(axes: Any) -> None:  # noqa: ANN401 - matplotlib's
        for case in dict.fromkeys(row["case"] for row in rows):
            points = [row for row in rows if row["case"] == case and row["ms"] is not None]
            if points:
                tasks = [row["tasks"] for row in points]
                axes.plot(tasks, [row["ms"] for row in points], marker="o", label=case)
                low, high = ([row[key] for row in points] for key in ("ms_q25", "ms_q75"))
                axes.fill_between(tasks, low, high, alpha=0.2)
        axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="ms a call", title=title)
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend(fontsize="small")

    return picture(file, draw, figsize=(7, 4.5))
