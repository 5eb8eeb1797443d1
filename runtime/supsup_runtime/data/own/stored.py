"""Pictures in ``.npz``, ``.npy``, IDX and CSV files, which one read brings all at once."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from supsup_runtime.arrays import Array, Labels, Values
from supsup_runtime.data.dataset import MAX_CLASSES, check_labels, check_values
from supsup_runtime.data.idx import idx_part, read_idx
from supsup_runtime.data.npz import npz_labels, npz_values, read_npy
from supsup_runtime.data.own.parts import Source, check_known, checked_classes, natural
from supsup_runtime.data.own.pictures import Look
from supsup_runtime.data.reading import MAX_PART_BYTES, reading
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import Mode

Channels = Literal["last", "first"]
_MAX_VALUES = 1 << 20
"""Most values of a picture in a CSV file."""


def stored_pictures(
    paths: Sequence[Path],
    classes: Sequence[str] | None,
    *,
    test: bool,
    shape: Sequence[int] | None,
    channels: Channels,
) -> Source:
    """Read and check pictures with their labels, and keep the labels.

    Args:
        paths: An ``.npz`` or CSV file, a folder of IDX files, or two ``.npy`` or IDX files.
        classes: Names of the classes, by label; None takes numbers, or the names in a CSV file in
            natural order.
        test: Whether to read the test part of an ``.npz`` file or a folder.
        shape: Shape of a picture as it is stored, if the array does not say.
        channels: Whether the first or the last axis of a coloured picture are its channels.

    Raises:
        DataError: If a file is missing or damaged, or does not fit (docs/DATA.md).
    """
    place = paths[0]

    def load() -> tuple[Values, Labels | list[str]]:
        with reading(place):
            stored, marks = _load(paths, test=test, shape=shape)
        return _channels_last(place, stored, shape, channels), marks

    def reader() -> Callable[[int], Array]:
        again = load()[0]
        if again.shape != pictures_shape:
            raise DataError(f"{place}: changed while it was in use; start again")
        return again.__getitem__

    def hasher() -> Callable[[int], bytes]:
        read = reader()
        return lambda row: hashlib.sha256(read(row).tobytes()).digest()

    pictures, marks = load()
    names, labels = _labelled(place, marks, classes)
    pictures_shape, dtype = pictures.shape, pictures.dtype.name
    mode: Mode = "rgb" if pictures_shape[3:] == (3,) else "gray"
    return Source(
        place=str(place),
        classes=names,
        labels=labels,
        dtype=dtype,
        name=lambda row: f"{place.name}[{row}]",
        looker=lambda: lambda _row: Look(pictures_shape[1:3], mode),
        reader=reader,
        hasher=hasher,
    )


def _labelled(
    place: Path, marks: Labels | list[str], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], Labels]:
    """Return names and labels of labels, or of names."""
    if isinstance(marks, list):
        found = sorted(set(marks), key=natural)
        names = checked_classes(place, found if classes is None else classes)
        check_known(place, found, names)
        labels = {name: label for label, name in enumerate(names)}
        return names, np.array([labels[mark] for mark in marks], np.int64)
    numbers = map(str, range(int(marks.max()) + 1))
    names = checked_classes(place, numbers if classes is None else classes)
    if marks.max() >= len(names):
        raise DataError(
            f"{place}: labels must be below {len(names)}, the number of classes, got {marks.max()}"
        )
    return names, marks


def _load(
    paths: Sequence[Path], *, test: bool, shape: Sequence[int] | None
) -> tuple[Values, Labels | list[str]]:
    """Read pictures as they are stored, and their labels or names of classes."""
    path, part = paths[0], "test" if test else "train"
    if path.suffix == ".csv":
        return _read_csv(path, shape)
    if len(paths) == 2:
        x, y = _read_array(path, 3), _read_array(paths[1], 1)
    elif path.is_dir():
        x, y = idx_part(path, "t10k" if test else "train")
    else:
        with zipfile.ZipFile(path) as archive:
            x = npz_values(path, archive, f"x_{part}")
            y = npz_labels(path, archive, f"y_{part}")
    check_values(str(path), x)
    if y.dtype.kind not in "iu" or y.max(initial=0) >= MAX_CLASSES:  # uint64 would wrap
        raise DataError(f"{paths[-1]}: labels must be integers below {MAX_CLASSES}, got {y.dtype}")
    y = y.astype(np.int64)
    check_labels(str(paths[-1]), y, len(x))
    return x, y


def _read_array(path: Path, axes: int) -> Array:
    return read_npy(path) if path.suffix == ".npy" else read_idx(path, axes)


def _read_csv(path: Path, shape: Sequence[int] | None) -> tuple[Values, list[str]]:
    """Read a class and whole numbers from 0 to 255 from each line."""
    if shape is None or math.prod(shape) > _MAX_VALUES or path.stat().st_size > MAX_PART_BYTES:
        raise DataError(
            f"{path}: needs the shape of a picture, such as shape = [28, 28], with at most "
            f"{_MAX_VALUES} values, and must have at most {MAX_PART_BYTES} bytes"
        )
    count = math.prod(shape)
    marks, rows = [], []
    for number, line in enumerate(_lines(path, 256 + 16 * count), 1):
        mark, _, values = line.strip().partition(",")
        if number == 1 and any(letter.isalpha() for letter in values):
            continue  # a heading
        try:
            row = bytes(map(int, values.split(",")))
        except ValueError:
            row = b""
        if len(row) != count:
            raise DataError(
                f"{path}: line {number} must be a class and {count} whole numbers from 0 to 255; "
                "keep others in an .npz file"
            )
        marks.append(mark.strip())
        rows.append(row)
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), count), marks


def _lines(path: Path, longest: int) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        while line := file.readline(longest):
            yield line


def _channels_last(
    place: Path, stored: Values, shape: Sequence[int] | None, channels: Channels
) -> Values:
    """Return ``(pictures, height, width)`` or ``(pictures, height, width, channels)``."""
    kept = stored.shape[1:] if shape is None else tuple(shape)
    axis = 0 if channels == "first" else -1
    fits = len(kept) == 2 or (len(kept) == 3 and kept[axis] in {1, 3})
    fits = fits and (stored.ndim == 2 or kept == stored.shape[1:])  # rows are not cut otherwise
    if not fits or math.prod(kept) != math.prod(stored.shape[1:]):
        form = "channels, height, width" if channels == "first" else "height, width, channels"
        raise DataError(
            f"{place}: a picture must be (height, width) or ({form}) with 1 or 3 channels, got "
            f"{stored.shape[1:]}{f' and shape {list(kept)}' if shape else ''}; give channels = "
            "'first' or 'last', or another shape"
        )
    pictures = stored.reshape(len(stored), *kept)
    return pictures if len(kept) == 2 or axis else np.moveaxis(pictures, 1, 3)
