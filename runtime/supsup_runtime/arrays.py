"""Array types, and checks of network inputs and outputs."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from supsup_runtime.errors import InputError

Array: TypeAlias = npt.NDArray[Any]
Bits: TypeAlias = npt.NDArray[np.bool_]
"""Unpacked masks."""
Bytes: TypeAlias = npt.NDArray[np.uint8]
"""Packed masks."""
Floats: TypeAlias = npt.NDArray[np.float32]
Images: TypeAlias = npt.NDArray[np.float32]
"""A batch, ``(batch, *input_shape)``."""
Labels: TypeAlias = npt.NDArray[np.int64]
"""One class per image, ``(images,)``."""
Reals: TypeAlias = npt.NDArray[np.floating]
"""Floats of any width."""
Scores: TypeAlias = npt.NDArray[np.float64]
Values: TypeAlias = npt.NDArray[np.uint8 | np.float32]
"""Images or feature vectors as a data set stores them."""


def checked_images(x: Images, input_shape: tuple[int, ...]) -> Images:
    """Return a batch as C-contiguous ``float32 (batch, *input_shape)``.

    Raises:
        InputError: If dtype or shape differ, a value is not finite, or there is no row.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.float32:
        kind = getattr(x, "dtype", type(x).__name__)
        raise InputError(f"x must be a float32 array, got {kind}; use x.astype(numpy.float32)")
    if x.shape[1:] != input_shape or x.ndim == 0 or len(x) == 0:
        raise InputError(
            f"x must have shape (batch, {', '.join(map(str, input_shape))}) with batch >= 1, "
            f"got {x.shape}"
        )
    x = np.ascontiguousarray(x)
    if not _finite(x):
        raise InputError(f"x must be finite, got NaN or infinity in row {_bad_row(x)}")
    return x


def checked_outputs(values: Floats, kind: str, place: str, *, rows: Labels | None = None) -> Floats:
    """Return a model's outputs, or raise `InputError` if they are not finite.

    Messages call them `kind` and the model `place`; `rows` are their batch rows, None all.
    """
    if _finite(values):
        return values
    where = "for the batch"
    if values.ndim > 1:
        row = _bad_row(values)
        where = f"in row {row if rows is None else rows[row]}"
    raise InputError(
        f"{place}: {kind} are not finite {where}: x is too large; normalise it as in training"
    )


def _finite(values: Floats) -> bool:
    # a finite sum of squares has finite terms; vdot takes a third of the time of isfinite
    # and, unlike dot, does not warn on overflow
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def _bad_row(values: Floats) -> int:
    return int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
