"""CIFAR-10 and CIFAR-100 in their published Python pickles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.arrays import Labels, Values
from supsup_runtime.data.pickles import AGAIN, read_pickle
from supsup_runtime.errors import DataError

_SHAPE = (3, 32, 32)
"""Of a picture, as a row of a file holds it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A published data set: its archive, the files in it, keys in these, normalisation."""

    name: str
    folder: str
    url: str
    md5: str
    size: int
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files."""
        return (*self.train, self.test, self.meta)


_ROOT = "https://www.cs.toronto.edu/~kriz"
KINDS = (
    Kind(
        *("cifar10", "cifar-10-batches-py", f"{_ROOT}/cifar-10-python.tar.gz"),
        *("c58f30108f718f92721af3b95e74349a", 170_498_071),
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        *("test_batch", "batches.meta", "labels", "label_names"),
        *((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    Kind(
        *("cifar100", "cifar-100-python", f"{_ROOT}/cifar-100-python.tar.gz"),
        *("eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
        ("train",),
        *("test", "meta", "fine_labels", "fine_label_names"),
        *((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
)


def kind_of(folder: Path) -> Kind | None:
    """Return which data set a folder holds, by its test and meta files; None for others and IDX."""
    if any(folder.glob("train-images*")):
        return None
    wanted = ((kind, (folder / kind.meta, folder / kind.test)) for kind in KINDS)
    return next((kind for kind, paths in wanted if all(path.is_file() for path in paths)), None)


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
    return DataError(f"{path}: {rule}; {AGAIN} with supsup-data download")
