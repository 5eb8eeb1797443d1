"""Charts of lines as SVG: 340 pixels wide on a phone, 408 elsewhere; the style has the colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, log10
from statistics import fmean
from typing import Any

from supsup_runtime.evaluation.report.markup import Markup, joined, tag

Line = tuple[Sequence[Sequence[float]], str, str]
"""Points ``(x, y)``, class and title."""
_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 18, 8, 36
_LINES = 60
_LEAST_LOSS = 1e-4


def percent(share: float | None) -> str:
    """Format a share, such as ``93.7 %``."""
    if share is None:
        return "-"
    if 0 < share < 0.0005:
        return "<0.1\u202f%"
    return ">99.9\u202f%" if 0.9995 <= share < 1 else f"{100 * share:.1f}\u202f%"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most so many round values in a range."""
    step = 10.0 ** floor(log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [round(k * step, 10) for k in range(ceil(low / step), floor(high / step + 1e-9) + 1)]


def _share(value: float) -> str:
    """Format a tick of an axis of shares."""
    return f"{100 * value:g}\u202f%"


def chart(
    label: str,
    x_name: str,
    y_name: str,
    lines: Sequence[Line],
    *,
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = _share,
) -> Markup:
    """Draw lines over axes that span their points; `label` describes them to screen readers."""
    (x0, x1), (y0, y1) = (_span([point[k] for line in lines for point in line[0]]) for k in (0, 1))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at_x(x: float) -> float:
        return _LEFT + (x - x0) / (x1 - x0) * (right - _LEFT)

    def at_y(y: float) -> float:
        return _TOP + (y1 - y) / (y1 - y0) * (bottom - _TOP)

    marks = []
    for y in ticks(y0, y1):
        height = at_y(y)
        marks.append(tag("line", x1=_LEFT, x2=right, y1=height, y2=height))
        marks.append(tag("text", y_text(y), x=_LEFT - 6, y=height + 4, class_="end"))
    marks += [tag("text", x_text(x), x=at_x(x), y=bottom + 15) for x in ticks(x0, x1)]
    marks.append(tag("text", x_name, x=(_LEFT + right) / 2, y=_HEIGHT - 5))
    for points, class_, title in lines:
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        marks.append(tag("polyline", tag("title", title), points=path, class_=class_))
    size = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "width": 1.2 * _WIDTH}
    drawn = tag("svg", *marks, **size, role="img", aria_label=label, class_="chart")
    return joined(tag("figcaption", y_name, class_="note"), drawn)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return low, high if high > low else low + 0.01


def losses(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Loss by step: a thin line for each of at most 60 tasks, a thick one for their mean.

    The axis of the loss is logarithmic: the first steps may lose a thousand times as much.
    """
    chosen = curves[:: ceil(len(curves) / _LINES)]
    steps: dict[float, list[float]] = {}
    for step, loss in (point for curve in chosen for point in curve["loss"]):
        steps.setdefault(step, []).append(loss)
    named = [(curve["loss"], "thin", curve["task"]) for curve in chosen]
    named.append(([(step, fmean(steps[step])) for step in sorted(steps)], "mean", "mean"))
    lines = [
        ([(step, log10(max(loss, _LEAST_LOSS))) for step, loss in points], *more)
        for points, *more in named
    ]
    label, text = f"Training loss of {len(curves)} tasks", "{:.2g}".format
    return chart(label, "training step", "loss", lines, y_text=lambda y: text(10**y))


def reliability(sums: Mapping[str, Sequence[Sequence[float]]]) -> Markup:
    """Accuracy by confidence, from images, right answers and sum of confidence in each span."""
    lines: list[Line] = [([(0, 0), (1, 1)], "ideal", "as often as it says")]
    for kind, spans in sums.items():
        lines.append(([(sure / n, right / n) for n, right, sure in spans if n], kind, kind))
    return chart("Accuracy by confidence", "confidence", "accuracy", lines, x_text=_share)
