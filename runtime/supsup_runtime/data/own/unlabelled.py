"""Pictures without labels, of which no task is learned."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from supsup_runtime.arrays import Array, checked_path
from supsup_runtime.data.dataset import check_values
from supsup_runtime.data.npz import npz_values, read_npy
from supsup_runtime.data.own.folders import pictures_in
from supsup_runtime.data.own.pictures import read_picture
from supsup_runtime.data.reading import reading
from supsup_runtime.errors import DataError


def read_pictures(source: str | Path) -> Sequence[Array] | Array:
    """Read a folder of pictures, the `x_train` of an ``.npz`` file, or an ``.npy`` file.

    Returns:
        ``uint8`` or, of arrays, ``float32``, as stored; one array if they are of one shape.

    Raises:
        DataError: If they are missing, damaged or no pictures.
    """
    path = checked_path(source, error=DataError)
    with reading(path):
        if path.is_dir():
            pictures = [read_picture(each) for each in pictures_in(path)]
            alike = len({picture.shape for picture in pictures}) == 1
            return np.stack(pictures) if alike else pictures
        if path.suffix not in {".npz", ".npy"} or not path.is_file():
            got = "another kind of file" if path.exists() else "a path that does not exist"
            raise DataError(
                f"{path}: must be a folder of pictures, an .npz or .npy file, got {got}"
            )
        if path.suffix == ".npy":
            x: Array = read_npy(path)
        else:
            with zipfile.ZipFile(path) as archive:
                x = npz_values(path, archive, "x_train")
        check_values(str(path), x)
    return x
