"""Pictures without labels, of which no task is learned."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from supsup_runtime.arrays import Array, checked_path
from supsup_runtime.data.dataset import check_values
from supsup_runtime.data.own.folders import pictures_in
from supsup_runtime.data.own.pictures import read_picture
from supsup_runtime.data.sources import _npz_values, reading
from supsup_runtime.errors import DataError
from supsup_runtime.npyfile import read_array


def read_pictures(source: str | Path) -> Sequence[Array]:
    """Read pictures without labels.

    Args:
        source: A folder of picture files, an ``.npz`` file with `x_train`, or an ``.npy`` file.

    Returns:
        ``uint8`` or, of arrays, ``float32``, each ``(height, width)`` or ``(height, width,
        channels)``.

    Raises:
        DataError: If they are missing, damaged or no pictures.
    """
    path = checked_path(source, error=DataError)
    with reading(path):
        if path.is_dir():
            return [read_picture(each) for each in pictures_in(path)]
        if path.suffix not in {".npz", ".npy"} or not path.is_file():
            raise DataError(
                f"{path}: must be a folder of pictures, an .npz or an .npy file, got "
                f"{'another kind of file' if path.exists() else 'a path that does not exist'}"
            )
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                x: Array = _npz_values(path, archive, "x_train")
        else:
            with path.open("rb") as file:
                size, kinds = path.stat().st_size, ("uint8", "float32")
                x = read_array(file, size, str(path), error=DataError, kinds=kinds)
            x = x.astype(x.dtype.newbyteorder("="), copy=False)
        check_values(str(path), x)
        return list(x)
