"""Plots of accuracy and of recoveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tools.pictures import picture
from tools.reproduction.summary import COLUMNS, measures_of

from supsup_runtime.recovery.result import TOLERANCE

_POINTS = 250
"""Of a line: more are means of consecutive tasks."""


def plot_rows(title: str, figure: str, rows: Sequence[Mapping[str, Any]], file: Path) -> str:
    """Write an SVG; return a message."""
    bars = figure == "rows"

    def draw(axes: Any) -> None:  # noqa: ANN401 - matplotlib's
        (_bars if bars else _lines)(axes, rows)
        axes.set_title(title, fontsize="medium")
        axes.grid(visible=True, axis="x" if bars else "both", alpha=0.3)
        axes.legend(fontsize="small")

    return picture(file, draw, figsize=(8, 1.5 + 0.55 * len(rows) if bars else 4.5))


def _bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: ANN401 - matplotlib's
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
    for row in rows:
        measure = "unknown" if "unknown" in row["tasks"] else "shared"
        values = [100 * value for value in row["tasks"][measure]]
        span = -(-len(values) // _POINTS)
        firsts = range(0, len(values), span)
        means = [fmean(values[first : first + span]) for first in firsts]
        tasks = [first + 1 for first in firsts]
        axes.plot(tasks, means, marker=".", label=row["label"], linewidth=0.8)
    means_of = f", means of {span} tasks" if span > 1 else ""
    axes.set(xlabel="task", ylabel=f"accuracy, task unknown, %{means_of}")


def plot_traces(recoveries: Mapping[str, Mapping[str, Any]], file: Path) -> str:
    """Plot distance, entropy and energy by step; return a message.

    Args:
        recoveries: By legend, each with ``verdict``, ``expected_entropy`` and ``trace``.
        file: An SVG or PNG.
    """

    def draw(panels: Any) -> None:  # noqa: ANN401 - matplotlib's
        distance, entropy, energy = panels
        for number, (name, recovery) in enumerate(recoveries.items()):
            look = {"color": f"C{number % 10}", "marker": ".", "markersize": 3}
            trace, expected = recovery["trace"], recovery["expected_entropy"]
            label = f"{name}, {recovery['verdict']}"
            distance.plot([100 * d for d in trace["distance"]], label=label, **look)
            entropy.plot(trace["entropy"], **look)
            energy.plot(trace["energy"], **look)
            if expected is not None:
                entropy.axhline(expected, color=look["color"], linestyle=":", alpha=0.6)
        distance.axhline(100 * TOLERANCE, color="grey", linestyle="--", linewidth=0.8)
        distance.set(ylabel="distance from the\nfixed point, % of bits")
        entropy.set(ylabel="entropy, nats\n(dotted: expected)", ylim=(0, None))
        energy.set(ylabel="energy", xlabel="step")
        for axes in panels:
            axes.grid(visible=True, alpha=0.3)
        columns = min(len(recoveries), 3)
        distance.figure.legend(loc="outside lower center", ncols=columns, fontsize="small")

    return picture(file, draw, nrows=3, sharex=True, figsize=(6.4, 7.2))
