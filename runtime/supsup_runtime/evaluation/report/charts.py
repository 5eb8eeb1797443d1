"""Charts as SVG in units of about a pixel, 340 wide to fit a phone; colours are the style's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10, sqrt
from statistics import fmean
from typing import Any

from supsup_runtime.evaluation.report.markup import Markup, joined, tag

Range = tuple[float, float]
Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 8, 36
_CELL, _GUTTER = 38, 14
NUMBERED = 12
_LINES = 60


def percent(share: float | None) -> str:
    """Format a share, such as ``93.7 %``."""
    return "-" if share is None else f"{100 * share:.1f}\u202f%"


def short(text: str, most: int = _GUTTER) -> str:
    """Cut a long text in its middle."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - half]}…{text[-half:]}"


def drawing(height: float, label: str, *marks: object, class_: str = "chart") -> Markup:
    """Return an SVG with a description for screen readers."""
    box = f"0 0 {_WIDTH} {ceil(height)}"
    return tag("svg", *marks, viewBox=box, role="img", aria_label=label, class_=class_)


def strip(chance: float, known: float | None, unknown: float | None) -> Markup:
    """A line from 0 to 100 % with chance, known and unknown accuracy, as wide as its place."""

    def at(share: float) -> str:
        return f"{100 * share:.1f}%"

    marks = [tag("line", x1="0", x2="100%", y1=8, y2=8, class_="axis")]
    marks.append(tag("line", x1=at(chance), x2=at(chance), y1=2, y2=14, class_="chance"))
    for kind, share in (("unknown", unknown), ("known", known)):
        if share is not None:
            marks.append(tag("circle", cx=at(share), cy=8, r=4, class_=kind))
    return tag("svg", *marks, class_="strip", height=16, aria_hidden="true")


def bar(share: float) -> Markup:
    """A bar, as wide as `share` of its place."""
    mark = tag("rect", width=f"{100 * share:.2f}%", height=10, y=3, class_="bar")
    return tag("svg", mark, class_="strip", height=16, aria_hidden="true")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values in a range."""
    step = 10.0 ** floor(log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [round(k * step, 10) for k in range(ceil(low / step), floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Plot:
    """The frame of a chart of points: ranges of x and y, and a description."""

    x: Range
    y: Range
    label: str

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point is drawn."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = (x - x0) / ((x1 - x0) or 1) * (_WIDTH - _LEFT - _RIGHT)
        return _LEFT + across, _HEIGHT - _BOTTOM - (y - y0) / ((y1 - y0) or 1) * (
            _HEIGHT - _TOP - _BOTTOM
        )

    def line(self, points: Points, class_: str, title: str | None = None) -> Markup:
        """Connect points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        told = None if title is None else tag("title", title)
        return tag("polyline", told, points=path, class_=class_)

    def dot(self, x: float, y: float, class_: str, title: str, r: float = 3) -> Markup:
        """Mark a point."""
        cx, cy = self.at(x, y)
        return tag("circle", tag("title", title), cx=cx, cy=cy, r=r, class_=class_)

    def drawn(self, marks: Sequence[Markup], names: tuple[str, str], shares: str) -> Markup:
        """Draw marks on axes with these names.

        `shares` has x, y or both if they are shares. Without a name, y has no axis.
        """
        frame = []
        for y in ticks(*self.y) if names[1] else ():
            left, height = self.at(self.x[0], y)
            frame.append(
                tag("line", x1=left, x2=_WIDTH - _RIGHT, y1=height, y2=height, class_="grid")
            )
            text = f"{100 * abs(y):g}\u202f%" if "y" in shares else f"{y:g}"
            frame.append(tag("text", text, x=_LEFT - 6, y=height + 4, text_anchor="end"))
        for x in ticks(*self.x):
            text = f"{100 * x:g}\u202f%" if "x" in shares else f"{x:g}"
            place = {"x": self.at(x, self.y[0])[0], "y": _HEIGHT - _BOTTOM + 15}
            frame.append(tag("text", text, **place, text_anchor="middle"))
        middle = (_WIDTH + _LEFT - _RIGHT) / 2
        frame.append(tag("text", names[0], x=middle, y=_HEIGHT - 5, text_anchor="middle"))
        title = tag("figcaption", names[1], class_="axis-name") if names[1] else None
        return joined(title, drawing(_HEIGHT, self.label, *frame, *marks))


def _around(values: Sequence[float]) -> Range:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05
    return low - room, high + room


def ranked(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy of many tasks, the lowest first."""
    key = "known" if "known" in rows[0] else "shared"
    order = sorted(rows, key=lambda row: row[key] or 0)
    kinds = [kind for kind in ("unknown", key) if rows[0].get(kind) is not None]
    every = [row[kind] for row in rows for kind in kinds]
    plot = Plot((1, len(rows)), _around(every or [0.0]), f"Accuracy of {len(rows)} tasks, ranked")
    marks = [
        plot.dot(i, row[kind], kind, f"{row['task']}: {kind} {percent(row[kind])}", 2)
        for kind in kinds
        for i, row in enumerate(order, start=1)
    ]
    return plot.drawn(marks, ("tasks, lowest accuracy first", "accuracy"), "y")


def heat_map(
    counts: Sequence[Sequence[int]], names: Sequence[str], columns: Sequence[str], label: str
) -> Markup:
    """Counts by row and column as shares of the row; a right answer is on the diagonal."""
    named = len(columns) <= NUMBERED
    heads = list(map(short, columns)) if named else [str(i + 1) for i in range(len(columns))]
    sides = list(map(short, names)) if named else [str(i + 1) for i in range(len(names))]
    left = 8 + 6 * max(map(len, sides))
    cell = min(_CELL, (_WIDTH - left) / len(columns))
    top = 8 + 6 * max(map(len, heads)) if named else 16
    every = 1 if named else ceil(11 / cell)
    marks = []
    for k, text in enumerate(sides):
        if k % every == 0:
            y = top + (k + 0.5) * cell + 4
            marks.append(tag("text", text, x=left - 4, y=y, text_anchor="end"))
    for k, text in enumerate(heads):
        x = left + (k + 0.5) * cell
        if named and max(map(len, heads)) > 2:
            turn = f"translate({x + 4:.1f} {top - 4}) rotate(-90)"
            marks.append(tag("text", text, transform=turn))
        elif k % (2 * every) == 0 or named:
            marks.append(tag("text", text, x=x, y=top - 4, text_anchor="middle"))
    size = {"width": round(cell * 0.94, 2), "height": round(cell * 0.94, 2)}
    for i, row in enumerate(counts):
        total = sum(row) or 1
        place = {"x": left, "y": top + i * cell, "width": cell * len(columns)}
        marks.append(tag("rect", **place, height=size["height"], class_="empty"))
        for k, count in enumerate(row):
            if not count:
                continue
            told = tag("title", f"{names[i]} as {columns[k]}: {count} of {total}")
            fill = round(0.08 + 0.47 * sqrt(count / total), 2)
            x, y = left + k * cell, top + i * cell
            kind = "right" if i == k else "wrong"
            marks.append(tag("rect", told, x=x, y=y, **size, class_=kind, fill_opacity=fill))
            if named and cell > 15 and count >= 0.01 * total:
                place = {"x": x + 0.47 * cell, "y": y + 0.47 * cell + 3.5}
                text = f"{100 * count / total:.0f}"
                marks.append(tag("text", text, **place, text_anchor="middle", class_="count"))
    return drawing(top + cell * len(counts) + 2, label, *marks)


def losses(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Loss by step: a thin line for each of at most 60 tasks, a thick one for their mean."""
    chosen = curves[:: ceil(len(curves) / _LINES)]
    lines: list[Points] = [curve["loss"] for curve in chosen]
    last, most = (max(point[k] for line in lines for point in line) for k in (0, 1))
    plot = Plot((0, last), (0, most or 1), f"Training loss of {len(curves)} tasks by step")
    marks = [
        plot.line(line, "thin", curve["task"]) for line, curve in zip(lines, chosen, strict=True)
    ]
    steps = {step: [y for line in lines for x, y in line if x == step] for step, _ in lines[0]}
    marks.append(plot.line([(step, fmean(each)) for step, each in steps.items()], "mean"))
    return plot.drawn(marks, ("training step", "loss"), "")


def learned(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Training against held-out accuracy, a dot for each task."""
    every = [curve[key] for curve in curves for key in ("train_accuracy", "accuracy")]
    span = _around(every)
    label = f"Training and held-out accuracy of {len(curves)} tasks"
    plot = Plot(span, span, label)
    marks = [plot.line([(span[0], span[0]), (span[1], span[1])], "ideal")]
    for curve in curves:
        x, y = curve["train_accuracy"], curve["accuracy"]
        told = f"{curve['task']}: training {percent(x)}, held out {percent(y)}"
        marks.append(plot.dot(x, y, "known", told))
    return plot.drawn(marks, ("training accuracy", "held-out accuracy"), "xy")


def histogram(margins: Mapping[str, Sequence[Any]]) -> Markup:
    """Margins: right tasks above the line, wrong ones below, each to its own largest count."""
    edges, sides = margins["edges"], (("right", 1), ("wrong", -1))
    low = -1 if any(margins["wrong"]) else 0
    plot = Plot((0, edges[-1]), (low, 1), "Margins of right and wrong inferences")
    marks = []
    for kind, sign in sides:
        for k, count in enumerate(margins[kind]):
            if count:
                height = sign * count / max(margins[kind])
                (x0, y0), (x1, y1) = plot.at(edges[k], 0), plot.at(edges[k + 1], height)
                told = f"{edges[k]:.3g} to {edges[k + 1]:.3g}: {count:,} {kind}"
                size = {"width": x1 - x0 - 1, "height": abs(y1 - y0)}
                marks.append(
                    tag("rect", tag("title", told), x=x0, y=min(y0, y1), **size, class_=kind)
                )
    return plot.drawn(marks, ("margin", ""), "")


def reliability(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Markup:
    """Accuracy by confidence, with the task known and unknown."""
    plot = Plot((0, 1), (0, 1), "Accuracy by confidence")
    marks = [plot.line([(0, 0), (1, 1)], "ideal")]
    for kind, spans in curves.items():
        marks.append(plot.line([(span["confidence"], span["accuracy"]) for span in spans], kind))
        most = max(span["images"] for span in spans)
        for span in spans:
            told = f"confidence {percent(span['confidence'])}: right {percent(span['accuracy'])}"
            told += f" of {span['images']:,} images, task {kind}"
            size = 1.5 + 3.5 * sqrt(span["images"] / most)
            marks.append(plot.dot(span["confidence"], span["accuracy"], kind, told, size))
    return plot.drawn(marks, ("confidence", "accuracy"), "xy")
