"""A small data set of random images, and its values as a stream has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.data.dataset import Dataset

MEAN, STD = 0.25, 0.5
# float32: three roundings of values below 2, at most 1.2e-7 each, doubled twice by 1 / STD.
ATOL = 1e-6


def tiny(
    *shape: int, images: int = 12, classes: int = 6, dtype: str = "uint8", scale: float = 255.0
) -> Dataset:
    """A data set of `images` training and half as many test images, classes in turn."""
    rng = np.random.RandomState(0)
    x = rng.randint(0, 256, (images + images // 2, *shape)).astype(dtype)
    y = np.arange(len(x), dtype=np.int64) % classes
    return Dataset(
        name="tiny",
        train_x=x[:images],
        train_y=y[:images],
        test_x=x[images:],
        test_y=y[images:],
        mean=MEAN,
        std=STD,
        scale=scale,
    )


def normalised(x: npt.NDArray[Any], scale: float = 255.0) -> npt.NDArray[np.float64]:
    return (x.astype(np.float64) / scale - MEAN) / STD
