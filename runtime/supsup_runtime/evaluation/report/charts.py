"""Charts as SVG, at most 340 pixels wide on a phone, 408 elsewhere; the style has the colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt
from statistics import fmean
from typing import Any

import numpy as np

from supsup_runtime.evaluation.report.markup import Markup, joined, tag

NUMBERED = 12
"""Rows and columns up to which a heat map has names and numbers."""
_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 8, 36
_CELL = 38
_NAME = 14
_LINES = 60
_BARS = 20
_LEAST_LOSS = 1e-4


def percent(share: float | None) -> str:
    """Format a share, such as ``93.7 %``."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "<0.1\u202f%"
    return ">99.9\u202f%" if 0.9995 <= share < 1 else f"{100 * share:.1f}\u202f%"


def strip(chance: float, known: float, unknown: float | None) -> Markup:
    """A line from 0 to 100 % with three shares, as wide as its place."""
    marks = [tag("line", x1="0", x2="100%", y1=8, y2=8, class_="axis")]
    x = f"{100 * chance:.1f}%"
    marks.append(tag("line", x1=x, x2=x, y1=2, y2=14, class_="chance"))
    for kind, share in (("unknown", unknown), ("known", known)):
        if share is not None:
            marks.append(tag("circle", cx=f"{100 * share:.1f}%", cy=8, r=4, class_=kind))
    return tag("svg", *marks, class_="strip", height=16, aria_hidden="true")


def heat_map(
    shares: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], label: str
) -> Markup:
    """Shares by row and column; a right answer is on the diagonal."""
    named = len(columns) <= NUMBERED
    sides, heads = (
        [_short(name) if named else str(k + 1) for k, name in enumerate(names)]
        for names in (rows, columns)
    )
    left = 8 + 6.5 * max(map(len, sides))
    longest = max(map(len, heads))
    upright = longest < 3 or not named
    top = 16 if upright else 8 + 6 * longest
    cell = min(_CELL, (_WIDTH - left) / len(columns))
    size = {"width": 0.94 * cell, "height": 0.94 * cell}
    every = 1 if named else ceil(11 / cell)
    marks = []
    for k, text in list(enumerate(sides))[::every]:
        marks.append(tag("text", text, x=left - 4, y=top + (k + 0.5) * cell + 4, class_="end"))
    for k, text in list(enumerate(heads))[:: 1 if named else 2 * every]:
        x = left + (k + 0.47) * cell
        turn = f"translate({x if upright else x + 4:.1f} {top - 4}) rotate({0 if upright else -90})"
        marks.append(tag("text", text, transform=turn, class_="middle" if upright else "start"))
    for i, row in enumerate(shares):
        y = top + i * cell
        marks.append(tag("rect", x=left, y=y, **size | {"width": cell * len(row)}, class_="empty"))
        for k, share in enumerate(row):
            if share:
                told = tag("title", f"{rows[i]} as {columns[k]}: {percent(share)}")
                kind, x = "right" if i == k else "wrong", left + k * cell
                fill = 0.55 * sqrt(share)
                marks.append(tag("rect", told, x=x, y=y, **size, class_=kind, fill_opacity=fill))
            if share >= 0.01 and named and cell > 15:
                place = {"x": x + 0.47 * cell, "y": y + 0.47 * cell + 3.5}
                marks.append(tag("text", f"{100 * share:.0f}", **place, class_="middle count"))
    return _drawing(left + cell * len(columns), top + cell * len(shares) + 2, label, marks)


def _short(text: str) -> str:
    half = _NAME // 2
    return text if len(text) <= _NAME else f"{text[:half]}…{text[1 - half :]}"


def _drawing(width: float, height: float, label: str, marks: Sequence[Markup]) -> Markup:
    size = {"viewBox": f"0 0 {ceil(width)} {ceil(height)}", "width": 1.2 * ceil(width)}
    return tag("svg", *marks, **size, role="img", aria_label=label, class_="chart")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most so many round values in a range."""
    step = 10.0 ** floor(log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [round(k * step, 10) for k in range(ceil(low / step), floor(high / step + 1e-9) + 1)]


def around(values: Sequence[float]) -> tuple[float, float]:
    """Return a range with some room on both sides."""
    room = 0.06 * (max(values) - min(values)) or 0.05
    return min(values) - room, max(values) + room


def share_text(value: float) -> str:
    """Format a tick of an axis of shares."""
    return f"{100 * value:g}\u202f%"


@dataclass(frozen=True, slots=True)
class Plot:
    """Axes: names and ranges of x and y, and how to write values; y is not drawn without a name."""

    x_name: str
    y_name: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_text: Callable[[float], str] = share_text
    y_text: Callable[[float], str] = share_text

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is drawn."""
        right = (x - self.x[0]) / (self.x[1] - self.x[0])
        down = (self.y[1] - y) / (self.y[1] - self.y[0])
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + right * width, _TOP + down * height

    def line(self, points: Sequence[Sequence[float]], class_: str, title: str = "") -> Markup:
        """Connect points ``(x, y)``."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        return tag("polyline", tag("title", title), points=path, class_=class_)

    def dot(self, x: float, y: float, class_: str, title: str, r: float = 3) -> Markup:
        """Mark a point."""
        cx, cy = self.at(x, y)
        return tag("circle", tag("title", title), cx=cx, cy=cy, r=r, class_=class_)

    def drawn(self, label: str, marks: Sequence[Markup]) -> Markup:
        """Draw marks on the axes; `label` describes the chart to screen readers."""
        frame = []
        for y in ticks(*self.y) if self.y_name else ():
            left, height = self.at(self.x[0], y)
            ends = {"x1": left, "x2": _WIDTH - _RIGHT, "y1": height, "y2": height}
            frame.append(tag("line", **ends, class_="grid"))
            frame.append(tag("text", self.y_text(y), x=left - 6, y=height + 4, class_="end"))
        below = _HEIGHT - _BOTTOM + 15
        for x in ticks(*self.x):
            place = {"x": self.at(x, self.y[0])[0], "y": below}
            frame.append(tag("text", self.x_text(x), **place, class_="middle"))
        middle = (_WIDTH + _LEFT - _RIGHT) / 2
        frame.append(tag("text", self.x_name, x=middle, y=_HEIGHT - 5, class_="middle"))
        name = tag("figcaption", self.y_name, class_="note")
        return joined(name, _drawing(_WIDTH, _HEIGHT, label, [*frame, *marks]))


def ranked(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy of many tasks, the lowest first."""
    order = sorted(rows, key=lambda row: row["known"])
    points = [
        (i, row[kind], kind, f"{row['task']}: {kind} {percent(row[kind])}")
        for kind in ("unknown", "known")
        for i, row in enumerate(order, start=1)
        if row[kind] is not None
    ]
    span = around([point[1] for point in points])
    plot = Plot("tasks, lowest accuracy first", "accuracy", (1, len(rows)), span, "{:g}".format)
    return plot.drawn(f"Accuracy of {len(rows)} tasks", [plot.dot(*point, r=2) for point in points])


def losses(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Loss by step: a thin line for each of at most 60 tasks, a thick one for their mean.

    The axis of the loss is logarithmic: the first steps may lose a thousand times as much.
    """
    chosen = curves[:: ceil(len(curves) / _LINES)]
    steps: dict[float, list[float]] = {}
    for step, loss in (point for curve in chosen for point in curve["loss"]):
        steps.setdefault(step, []).append(loss)
    span = around([_log(loss) for losses in steps.values() for loss in losses])

    def loss_of(y: float) -> str:
        return f"{10**y:.2g}"

    plot = Plot("training step", "loss", (0, max(steps)), span, "{:g}".format, loss_of)
    lines = [(curve["loss"], "thin", curve["task"]) for curve in chosen]
    lines.append(([(step, fmean(steps[step])) for step in sorted(steps)], "mean", "mean"))
    marks = [
        plot.line([(step, _log(loss)) for step, loss in points], *more) for points, *more in lines
    ]
    return plot.drawn(f"Training loss of {len(curves)} tasks", marks)


def _log(loss: float) -> float:
    return log10(max(loss, _LEAST_LOSS))


def learned(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Training against held-out accuracy, a dot for each task."""
    points = [(curve["train_accuracy"], curve["accuracy"]) for curve in curves]
    span = around([share for point in points for share in point])
    plot = Plot("training accuracy", "held-out accuracy", span, span)
    marks = [plot.line([(span[0], span[0]), (span[1], span[1])], "ideal")]
    for (x, y), curve in zip(points, curves, strict=True):
        told = f"{curve['task']}: training {percent(x)}, held out {percent(y)}"
        marks.append(plot.dot(x, y, "known", told))
    return plot.drawn(f"Training and held-out accuracy of {len(curves)} tasks", marks)


def histogram(margins: Mapping[str, Sequence[float]]) -> Markup:
    """Margins where the task is right above the line, wrong below, each to its largest bar."""
    end = float(np.quantile(np.concatenate(list(margins.values())), 0.98)) or 1.0
    plot = Plot("margin", "", (0, end), (-1 if margins["wrong"] else 0, 1), "{:g}".format)
    marks = []
    for kind, sign in (("right", 1), ("wrong", -1)):
        counts, edges = np.histogram(np.clip(margins[kind], 0, end), _BARS, (0, end))
        for k in np.flatnonzero(counts):
            height = sign * counts[k] / counts.max()
            (x0, y0), (x1, y1) = plot.at(edges[k], 0), plot.at(edges[k + 1], height)
            told = tag("title", f"{edges[k]:.3g} to {edges[k + 1]:.3g}: {counts[k]:,} {kind}")
            size = {"width": x1 - x0 - 1, "height": abs(y1 - y0)}
            marks.append(tag("rect", told, x=x0, y=min(y0, y1), **size, class_=kind))
    return plot.drawn("Margins of right and wrong tasks", marks)


def reliability(sums: Mapping[str, Sequence[Sequence[float]]]) -> Markup:
    """Accuracy by confidence, from images, right answers and sum of confidence in each span."""
    plot = Plot("confidence", "accuracy", (0, 1), (0, 1))
    marks = [plot.line([(0, 0), (1, 1)], "ideal")]
    for kind, spans in sums.items():
        points = [(sure / n, right / n, n) for n, right, sure in spans if n]
        marks.append(plot.line([point[:2] for point in points], kind))
        for x, y, n in points:
            told = f"confidence {percent(x)}: {percent(y)} of {n:,.0f} images right, task {kind}"
            size = 1.5 + 3.5 * sqrt(n / max(point[2] for point in points))
            marks.append(plot.dot(x, y, kind, told, size))
    return plot.drawn("Accuracy by confidence", marks)
