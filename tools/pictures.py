"""Results as pictures: matplotlib where it is installed, and files whose bytes follow from rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def picture(file: Path, draw: Callable[[Any], None], **shape: Any) -> str:
    """Draw into new axes, and write them as the file's suffix says; equal ones give equal bytes.

    Args:
        file: Such as an SVG.
        draw: Gets the axes that ``matplotlib.pyplot.subplots`` gives.
        shape: Arguments of that, such as ``figsize``.

    Returns:
        What was written, or that matplotlib is missing.
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
