"""Reproducible pictures with matplotlib, if it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def picture(file: Path, draw: Callable[[Any], None], **shape: Any) -> str:
    """Draw into new axes and write them to a file; equal drawings give equal bytes.

    Args:
        file: Its suffix decides the format.
        draw: Receives the axes.
        shape: Arguments of ``matplotlib.pyplot.subplots``, such as ``figsize``.

    Returns:
        A message: what was written, or that matplotlib is missing.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return "no plot: matplotlib is not installed; pip install 'supsup[viz]'"
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "supsup"
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(layout="constrained", **shape)
    draw(axes)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return f"wrote {file}"
