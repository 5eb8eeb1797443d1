"""Small streams of pictures that can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.data.dataset import Dataset
from supsup_runtime.data.streams import Stream, make_stream


def picture_arrays(*, classes: int, side: int, images: int) -> dict[str, Any]:
    """Noisy pictures ``uint8 (images, side, side, 3)``, each class bright at a place of its own."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    cells = max(2, int(np.ceil(classes**0.5)))
    wide = -(-side // cells)
    values = rng.integers(0, 100, (images, side, side, 3))
    for row, label in enumerate(labels):
        top, left = wide * (label // cells), wide * (label % cells)
        values[row, top : top + wide, left : left + wide] += 150
    x = values.astype(np.uint8)
    test = slice(images // 2)
    return {"x_train": x, "y_train": labels, "x_test": x[test] // 2 + 40, "y_test": labels[test]}


def pictures(*, tasks: int, classes: int, side: int = 8, images: int = 72) -> Stream:
    """Return a split stream of such pictures, as images."""
    made = picture_arrays(classes=classes, side=side, images=images)
    arrays: dict[str, Any] = {
        f"{part}_{axis}": made[f"{axis}_{part}"] for part in ("train", "test") for axis in "xy"
    }
    data = Dataset(name="pictures", **arrays, mean=0.3, std=0.2, scale=255.0)
    return make_stream("split", data, num_tasks=tasks, layout="image")


def pictures_file(path: Path, *, classes: int, side: int, images: int) -> Path:
    """Write such pictures as a ``.npz`` file."""
    made = picture_arrays(classes=classes, side=side, images=images)
    np.savez(path, **made)
    return path
