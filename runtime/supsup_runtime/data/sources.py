"""Data sets: scikit-learn's digits, IDX folders such as MNIST, CIFAR, and ``.npz`` files.

Sizes are checked before memory is allocated; pickles call nothing (docs/DATA.md).
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Array, Labels, Values, check_number, checked_path
from supsup_runtime.data.cifar import kind_of, read_cifar
from supsup_runtime.data.dataset import MAX_CLASSES, Dataset, check_values
from supsup_runtime.errors import DataError
from supsup_runtime.npyfile import read_array
from supsup_runtime.preprocessing import Moment

Part: TypeAlias = tuple[Values, Labels]

MAX_PART_BYTES = 2**32
"""Largest array, of images or labels: 4 GiB."""
MAX_EXPANSION = 1032
"""Largest expansion by DEFLATE."""

_MNIST_MEAN = 0.1307
_MNIST_STD = 0.3081
_IMAGES_MAGIC = 0x803  # IDX: unsigned bytes, three dimensions
_LABELS_MAGIC = 0x801  # IDX: unsigned bytes, one dimension
_NUM_DIGITS_TEST = 360
_CHUNK_BYTES = 2**22  # of float64 in `_moments`
# raised by gzip and zipfile for invalid files
_BROKEN_FILE = (
    *(OSError, EOFError, ValueError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def load_dataset(
    source: str | Path | None = None, *, mean: float | None = None, std: float | None = None
) -> Dataset:
    """Load a data set into memory and check it.

    Args:
        source: ``digits`` or None for scikit-learn's digits; a folder of four IDX files (MNIST,
            Fashion-MNIST, ...); ``cifar-10-batches-py`` or ``cifar-100-python``, as published
            (CIFAR-100 with its fine labels); or an ``.npz`` file with `x_train`, `y_train`,
            `x_test` and `y_test`.
        mean: Of ``value / scale``; defaults to MNIST's for IDX and that of each channel for CIFAR,
            else to the training images'.
        std: As `mean`.

    Raises:
        DataError: If the source is missing, damaged or too large, or needs scikit-learn.
    """
    for name, value in (("mean", mean), ("std", std)):
        if value is not None:
            check_number(name, value, math.isfinite, "a finite number", error=DataError)
    if source is None or (isinstance(source, str) and source == "digits"):
        return _load_digits(mean, std)
    path = checked_path(source, error=DataError)
    with reading(path):
        return _load(path, mean, std)


def _load(path: Path, mean: float | None, std: float | None) -> Dataset:
    if path.is_dir() and (kind := kind_of(path)) is not None:
        train, test, names = read_cifar(path, kind)
        moments: tuple[Moment, Moment] = (
            kind.mean if mean is None else mean,
            kind.std if std is None else std,
        )
        return _dataset(str(path), train, test, scale=255.0, moments=moments, class_names=names)
    if path.is_dir():
        if (path / "train").is_dir():
            raise DataError(
                f"{path}: is a folder of pictures, which stream split takes alone; keep those of "
                "other streams in an .npz file"
            )
        parts: tuple[Part, Part] = _idx_part(path, "train"), _idx_part(path, "t10k")
        moments = _MNIST_MEAN if mean is None else mean, _MNIST_STD if std is None else std
        return _dataset(str(path), *parts, scale=255.0, moments=moments)
    if path.suffix != ".npz" or not path.is_file():
        raise DataError(
            f"{path}: expected 'digits', a folder with IDX files, or a .npz file, "
            f"got {'another kind of file' if path.exists() else 'a path that does not exist'}"
        )
    parts = _load_npz(path)
    scale = 255.0 if parts[0][0].dtype == np.uint8 else 1.0
    return _dataset(str(path), *parts, scale=scale, moments=(mean, std))


def _load_digits(mean: float | None, std: float | None) -> Dataset:
    """Split the 1797 digits by `RandomState(0).permutation`; the last 360 are the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits: needs scikit-learn, which is not installed; pip install 'supsup[train]', "
            "or name a folder or file with data"
        ) from error
    images, labels = load_digits(return_X_y=True)
    values = images.reshape(-1, 8, 8).astype(np.uint8)  # integers, 0 to 16
    labels = labels.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(values))
    train, test = order[:-_NUM_DIGITS_TEST], order[-_NUM_DIGITS_TEST:]
    parts = ((values[train], labels[train]), (values[test], labels[test]))
    return _dataset("digits", *parts, scale=16.0, moments=(mean, std))


def _dataset(
    name: str,
    train: Part,
    test: Part,
    *,
    scale: float,
    moments: tuple[Moment | None, Moment | None],
    class_names: tuple[str, ...] = (),
) -> Dataset:
    check_values(f"{name}: training images", train[0])
    mean, std = moments
    if mean is None or std is None:
        centre, spread = _moments(train[0])
        mean = centre / scale if mean is None else mean
        std = spread / scale if std is None else std
    (train_x, train_y), (test_x, test_y) = train, test
    return Dataset(
        name=name,
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        mean=mean,
        std=std,
        scale=scale,
        class_names=class_names,
    )


def _moments(x: Values) -> tuple[float, float]:
    """Return mean and standard deviation in float64, in chunks of rows."""
    rows = max(1, _CHUNK_BYTES // (8 * math.prod(x.shape[1:])))
    chunks = [x[start : start + rows] for start in range(0, len(x), rows)]
    mean = math.fsum(float(c.sum(dtype=np.float64)) for c in chunks) / x.size
    squares = math.fsum(float(np.square(c - np.float64(mean)).sum()) for c in chunks)
    return mean, math.sqrt(squares / x.size)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise `DataError` for what reading a data set raises."""
    try:
        yield
    except DataError:
        raise
    except _BROKEN_FILE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); get or save the file again") from error


def _idx_part(folder: Path, part: str) -> Part:
    images_path = _find_idx(folder, f"{part}-images", "idx3-ubyte")
    labels_path = _find_idx(folder, f"{part}-labels", "idx1-ubyte")
    labels = _read_idx(labels_path, _LABELS_MAGIC)
    images = _read_idx(images_path, _IMAGES_MAGIC)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: must hold one label for each of the {len(images)} images of "
            f"{images_path.name}, got {len(labels)}; do both come from the same data set?"
        )
    return images, labels.astype(np.int64)


def _find_idx(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{dot}{kind}{gz}" for gz in ("", ".gz") for dot in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder}: has no {names[0]}; an IDX folder holds four files, "
        "train-images, train-labels, t10k-images and t10k-labels, each with an ending as in "
        f"{', '.join(names)}"
    )


def _read_idx(path: Path, magic: int) -> npt.NDArray[np.uint8]:
    with reading(path), _open(path) as file:
        shape, header_bytes = _idx_shape(path, file, magic)
        num_bytes = math.prod(shape)
        _check_size(str(path), num_bytes, path.stat().st_size)
        if path.suffix != ".gz":  # length known already
            _check_length(path, header_bytes + num_bytes, path.stat().st_size)
        data = file.read(num_bytes + 1)  # + 1 detects extra bytes
    _check_length(path, header_bytes + num_bytes, header_bytes + len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _idx_shape(path: Path, file: IO[bytes], magic: int) -> tuple[tuple[int, ...], int]:
    """Return the shape and the header's length in bytes."""
    header_bytes = 4 + 4 * (magic & 0xFF)  # last byte: number of dimensions
    header = file.read(header_bytes)
    got = header[:4].hex()
    if got != f"{magic:08x}":
        raise DataError(
            f"{path}: must start with the IDX magic number 0x{magic:08x}, "
            f"got {'0x' + got if got else 'an empty file'}; is it another file that was renamed?"
        )
    if len(header) < header_bytes:
        raise DataError(f"{path}: its header is truncated; download it again")
    shape = struct.unpack(f">{magic & 0xFF}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path}: every dimension must be at least 1, got {shape}")
    return shape, header_bytes


def _check_length(path: Path, expected: int, got: int) -> None:
    if got != expected:
        state = "is truncated" if got < expected else "has extra bytes"
        raise DataError(
            f"{path}: {state}: its header claims {expected} bytes, got {got}; download it again"
        )


def _load_npz(path: Path) -> tuple[Part, Part]:
    with reading(path), zipfile.ZipFile(path) as archive:
        train, test = (
            (_npz_values(path, archive, f"x_{part}"), _npz_labels(path, archive, f"y_{part}"))
            for part in ("train", "test")
        )
    return train, test


def _npz_values(path: Path, archive: zipfile.ZipFile, key: str) -> Values:
    array = _npz_array(path, archive, key, ("uint8", "float32"))
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def _npz_labels(path: Path, archive: zipfile.ZipFile, key: str) -> Labels:
    kinds = tuple(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u"))
    array = _npz_array(path, archive, key, kinds)
    if array.max() >= MAX_CLASSES:  # before uint64 wraps
        raise DataError(f"{path}: {key}: labels must be below {MAX_CLASSES}, got {array.max()}")
    return array.astype(np.int64)


def _npz_array(path: Path, archive: zipfile.ZipFile, key: str, dtypes: tuple[str, ...]) -> Array:
    """Read one array of an archive, with no dimension of 0."""
    place = f"{path}: {key}"
    if f"{key}.npy" not in archive.namelist():
        raise DataError(
            f"{place}: missing; a data set holds x_train, y_train, x_test and y_test, "
            f"got {', '.join(archive.namelist()[:8]) or 'nothing'}"
        )
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{place}: must be stored or deflated, got zip method {info.compress_type}; save it "
            "again with numpy.savez_compressed"
        )
    _check_size(place, info.file_size, path.stat().st_size)
    with archive.open(info) as member:
        array = read_array(member, info.file_size, place, error=DataError, kinds=dtypes)
    if not array.shape or not array.size:
        raise DataError(f"{place}: every dimension must be at least 1, got shape {array.shape}")
    return array


def _check_size(place: str, num_bytes: int, file_bytes: int) -> None:
    if num_bytes > MAX_PART_BYTES:
        raise DataError(
            f"{place}: must hold at most {MAX_PART_BYTES} bytes, its header claims {num_bytes}; "
            "take fewer or smaller images"
        )
    if num_bytes > MAX_EXPANSION * file_bytes:
        raise DataError(
            f"{place}: its header claims {num_bytes} bytes, but a file of {file_bytes} bytes "
            f"can hold at most {MAX_EXPANSION * file_bytes}; it is truncated or forged"
        )
