"""Flat arrays: tensors concatenated without gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Array
from supsup_runtime.bank.network import MaskedParameter, StateTensor


def spans(tensors: Sequence[MaskedParameter | StateTensor]) -> list[slice]:
    """Return the slice of each tensor in a flat array of all."""
    ends = accumulate(tensor.size for tensor in tensors)
    return [slice(end - t.size, end) for t, end in zip(tensors, ends, strict=True)]


def cut(tensors: Sequence[MaskedParameter | StateTensor], flat: Array) -> dict[str, Array]:
    """Return views of a flat array as tensors by name."""
    return {
        tensor.name: flat[span].reshape(tensor.shape)
        for tensor, span in zip(tensors, spans(tensors), strict=True)
    }


def join(arrays: Iterable[Array], dtype: npt.DTypeLike = np.float32) -> Array:
    """Flatten and concatenate arrays of one dtype; without any, return an empty one of `dtype`."""
    return np.concatenate([np.zeros(0, dtype), *(array.reshape(-1) for array in arrays)])
