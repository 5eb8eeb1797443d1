"""Check and prepare what a model is given: ``uint8`` is pictures, ``float32`` is ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from supsup_runtime.arrays import Array, Given, Images, checked_images
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.preprocessing import batched


class Inputs:
    """The inputs of a model, which messages call `place`."""

    def __init__(self, info: ModelInfo, place: str) -> None:
        self._shape = info.network.input_shape
        self._steps = info.network.preprocessing
        self._baked = info.baked
        self._place = place

    def checked(self, x: Given) -> Images:
        """Return what the graph takes: a ready batch or, of a baked model, pictures.

        Args:
            x: ``float32 (batch, *input_shape)``, or pictures of ``uint8``, as `Preprocessing.apply`
                takes them.

        Raises:
            InputError: If dtype or shape differ, a value is not finite, there is no row, pictures
                are given to a model without preprocessing, or other than pictures of one size to a
                baked one.
        """
        pictures = _are_pictures(x)
        if not pictures and not self._baked:
            return checked_images(cast(Images, x), self._shape)
        if not pictures:
            raise InputError(
                f"{self._place}: its preprocessing is baked in, so x must be uint8 pictures, got "
                f"{getattr(x, 'dtype', type(x).__name__)}; export with --preprocess runtime to "
                "give ready arrays"
            )
        if self._baked:
            return cast(Images, _of_one_size(x))
        if self._steps is not None and not self._steps.takes_bytes:
            raise InputError(
                f"{self._place}: was trained on floats, of scale {self._steps.scale:g}, so x must "
                "not be uint8; divide as in training, and give what model.prepare returns"
            )
        return self.prepared(x)

    def prepared(self, pictures: Array | Sequence[Array]) -> Images:
        """Return pictures, ``uint8`` or float, as ``float32 (batch, *input_shape)``.

        Raises:
            InputError: If the model has no preprocessing, dtype or shape differ, or a value is not
                finite.
        """
        if self._steps is None:
            raise InputError(
                f"{self._place}: the model has no preprocessing for pictures; prepare them as in "
                f"training and give float32 (batch, {', '.join(map(str, self._shape))})"
            )
        return checked_images(self._steps.apply(pictures).reshape(-1, *self._shape), self._shape)


def blank(info: ModelInfo, rows: int) -> Images:
    """Return a batch that the graph takes, all zero; pictures of the network's size if baked."""
    steps = info.network.preprocessing
    if info.baked and steps is not None:
        return cast(Images, np.zeros((rows, *steps.size, steps.output_shape[0]), np.uint8))
    return np.zeros((rows, *info.network.input_shape), np.float32)


def _are_pictures(x: object) -> bool:
    several = x if isinstance(x, list | tuple) else [x]
    return bool(several) and all(
        isinstance(each, np.ndarray) and each.dtype == np.uint8 for each in several
    )


def _of_one_size(pictures: Array | Sequence[Array]) -> Array:
    """Return ``uint8 (batch, height, width, channels)``."""
    several = [pictures] if isinstance(pictures, np.ndarray) else pictures
    batches = [batched(each) for each in several]
    for number, batch in enumerate(batches):
        if batch.shape[1:] != batches[0].shape[1:]:
            raise InputError(
                f"picture {number}: preprocessing is baked into the model, so all of a call must "
                f"have the shape of the first, {batches[0].shape[1:]}, got {batch.shape[1:]}; call "
                "it for each size, or export with --preprocess runtime"
            )
    return np.ascontiguousarray(np.concatenate(batches))
