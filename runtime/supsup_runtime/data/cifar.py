"""CIFAR-10 and CIFAR-100 in their published Python pickles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.arrays import Labels, Values
from supsup_runtime.data.pickles import read_pickle
from supsup_runtime.errors import DataError

_SHAPE = (3, 32, 32)
"""Of a picture, as a row of a file holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A published data set.

    Attributes:
        name: As the commands have it.
        train: Files of the training part.
        test: File of the test part.
        meta: File of the names.
        labels: Key of the labels.
        names: Key of their names.
        mean: Of the training part's channels.
        std: As `mean`.
    """

    name: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


KINDS = (
    Kind(
        name="cifar10",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels="labels",
        names="label_names",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    Kind(
        name="cifar100",
        train=("train",),
        test="test",
        meta="meta",
        labels="fine_labels",
        names="fine_label_names",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
)


def kind_of(folder: Path) -> Kind | None:
    """Return which data set a folder holds, or a part of it; None if it is another folder."""
    for kind in KINDS:
        if any((folder / name).is_file() for name in (kind.meta, *kind.train)):
            return kind
    return None


def read_cifar(
    folder: Path, kind: Kind
) -> tuple[tuple[Values, Labels], tuple[Values, Labels], tuple[str, ...]]:
    """Return training part, test part and names of the classes.

    Images are ``uint8 (images, 32, 32, 3)``, labels ``int64 (images,)``.

    Raises:
        DataError: If a file is missing, too large, or not one of this data set.
    """
    meta = folder / kind.meta
    found = _value(meta, read_pickle(meta), kind.names, list)
    names = tuple(each.decode("latin-1") if isinstance(each, bytes) else each for each in found)
    if not names or not all(isinstance(each, str) and each.isprintable() for each in names):
        raise _wrong(meta, f"{kind.names} must be printable names")
    parts = [_part(folder / name, kind, len(names)) for name in kind.train]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    return (images, labels), _part(folder / kind.test, kind, len(names)), names


def _part(path: Path, kind: Kind, num_classes: int) -> tuple[Values, Labels]:
    table = read_pickle(path)
    rows = _value(path, table, "data", np.ndarray)
    labels = _value(path, table, kind.labels, list)
    if not labels or rows.shape != (len(labels), math.prod(_SHAPE)):
        raise _wrong(
            path,
            f"data must be ({len(labels)}, {math.prod(_SHAPE)}), a row for each of the "
            f"{kind.labels}, got {rows.shape}",
        )
    if not all(type(label) is int and 0 <= label < num_classes for label in labels):
        raise _wrong(path, f"{kind.labels} must be whole numbers in [0, {num_classes})")
    pictures = rows.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(pictures), np.array(labels, np.int64)


def _value(path: Path, table: dict[str, Any], key: str, kind: type) -> Any:  # noqa: ANN401 - of `kind`
    if not isinstance(table.get(key), kind):
        shown = "a list" if kind is list else "an array"
        raise _wrong(path, f"must have {key} as {shown}, got {', '.join(table):.100}")
    return table[key]


def _wrong(path: Path, rule: str) -> DataError:
    return DataError(f"{path}: {rule}; download it again with supsup-data download")
