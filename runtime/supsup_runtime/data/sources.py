"""Data sets: scikit-learn's digits, IDX folders such as MNIST, CIFAR, and ``.npz`` files.

Sizes are checked before memory is allocated; pickles call nothing (docs/DATA.md).
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from supsup_runtime.arrays import Values, check_number, checked_path
from supsup_runtime.data.cifar import kind_of, read_cifar
from supsup_runtime.data.dataset import Dataset, Part, check_values
from supsup_runtime.data.idx import idx_part
from supsup_runtime.data.npz import npz_labels, npz_values
from supsup_runtime.data.reading import reading
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import Moment

_MNIST_MEAN = 0.1307
_MNIST_STD = 0.3081
_NUM_DIGITS_TEST = 360
_CHUNK_BYTES = 2**22  # of float64 in `_moments`


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
        parts: tuple[Part, Part] = idx_part(path, "train"), idx_part(path, "t10k")
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


def _load_npz(path: Path) -> tuple[Part, Part]:
    with reading(path), zipfile.ZipFile(path) as archive:
        train, test = (
            (npz_values(path, archive, f"x_{part}"), npz_labels(path, archive, f"y_{part}"))
            for part in ("train", "test")
        )
    return train, test
