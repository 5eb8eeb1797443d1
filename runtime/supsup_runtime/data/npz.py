"""Arrays in ``.npz`` and ``.npy`` files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from supsup_runtime.arrays import Array, Labels, Values, few
from supsup_runtime.data.dataset import MAX_CLASSES
from supsup_runtime.data.reading import check_size
from supsup_runtime.errors import DataError
from supsup_runtime.npyfile import read_array


def npz_values(path: Path, archive: zipfile.ZipFile, key: str) -> Values:
    """Read images, ``uint8`` or ``float32``."""
    array = _npz_array(path, archive, key, ("uint8", "float32"))
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def npz_labels(path: Path, archive: zipfile.ZipFile, key: str) -> Labels:
    """Read integers below `MAX_CLASSES` as ``int64``."""
    kinds = tuple(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u"))
    array = _npz_array(path, archive, key, kinds)
    if array.max() >= MAX_CLASSES:  # before uint64 wraps
        raise DataError(f"{path}: {key}: labels must be below {MAX_CLASSES}, got {array.max()}")
    return array.astype(np.int64)


def _npz_array(path: Path, archive: zipfile.ZipFile, key: str, dtypes: tuple[str, ...]) -> Array:
    """Read one array of an archive, with no dimension of 0."""
    place = f"{path}: {key}"
    if f"{key}.npy" not in archive.namelist():
        names = few([name.removesuffix(".npy") for name in archive.namelist()]) or "none"
        raise DataError(
            f"{path}: must have an array {key}, has {names}; save it "
            f"with numpy.savez_compressed(..., {key}=...)"
        )
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{place}: must be stored or deflated, got zip method {info.compress_type}; save it "
            "again with numpy.savez_compressed"
        )
    check_size(place, info.file_size, path.stat().st_size)
    with archive.open(info) as member:
        array = read_array(member, info.file_size, place, error=DataError, kinds=dtypes)
    if not array.shape or not array.size:
        raise DataError(f"{place}: every dimension must be at least 1, got shape {array.shape}")
    return array


def read_npy(path: Path) -> Array:
    """Read numbers of any type from an ``.npy`` file, whose size must be as its header claims."""
    with path.open("rb") as file:
        array = read_array(file, path.stat().st_size, str(path), error=DataError)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path}: must be an array of numbers, got {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
