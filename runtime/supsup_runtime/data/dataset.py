"""A data set in memory, with its normalisation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from supsup_runtime.arrays import Labels, Values, check_kind, check_number
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import Moment

Part = tuple[Values, Labels]
"""Images as stored, and their labels."""
MAX_CLASSES = 100_000
"""Classes of one data set."""
_LARGEST = 1e30  # mean, std, scale and their inverses fit float32
_RANGE = f"[{1 / _LARGEST:g}, {_LARGEST:g}]"
_IN_RANGE = f"within {_RANGE} (if all training values are equal, pass a std of your own)"


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: of a cached property
class Dataset:
    """Labelled images or feature vectors as stored, with their normalisation.

    A network sees ``x = (value / scale - mean) / std``, computed in float32 in this order.

    Attributes:
        name: Name in messages and records: ``digits``, or the path as given.
        train_x: Finite ``uint8`` or ``float32``, ``(images, height, width)``, ``(images, height,
            width, channels)`` or ``(images, features)``.
        train_y: ``int64 (images,)`` in ``[0, num_classes)``; every class occurs.
        test_x: Like `train_x`, any number of images.
        test_y: ``int64 (images,)`` in ``[0, num_classes)``.
        mean: Of ``value / scale``, within ``+-1e30``; of pictures in RGB also three, by channel.
        std: Of ``value / scale``, within ``[1e-30, 1e30]``; as many as `mean`.
        scale: Value that counts as 1, within ``[1e-30, 1e30]``.
        class_names: By label; empty stands for the labels as numbers.

    Raises:
        DataError: If a value breaks these rules.
    """

    name: str
    train_x: Values
    train_y: Labels
    test_x: Values
    test_y: Labels
    mean: Moment
    std: Moment
    scale: float
    class_names: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of arrays and normalisation."""
        digest = hashlib.sha256(f"{self.scale} {self.mean} {self.std}".encode())
        for array in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.tobytes())
        if self.class_names != _numbered(self.num_classes):
            digest.update("\n".join(self.class_names).encode())
        return digest.hexdigest()

    def __post_init__(self) -> None:
        for part, x, y in (
            ("training", self.train_x, self.train_y),
            ("test", self.test_x, self.test_y),
        ):
            for kind, array in (("images", x), ("labels", y)):
                place = f"{self.name}: {part} {kind}"
                check_kind(place, array, np.ndarray, "an array", error=DataError)
            check_labels(f"{self.name}: {part} labels", y, len(x) if x.ndim else 0)
            check_values(f"{self.name}: {part} images", x)
        _check_classes(self.name, self.train_y, self.test_y)
        train = (self.train_x.dtype, self.train_x.shape[1:])
        test = (self.test_x.dtype, self.test_x.shape[1:])
        if train != test:
            raise DataError(
                f"{self.name}: test images must each be {train[0]} {train[1]}, like the training "
                f"images, got {test[0]} {test[1]}"
            )
        self._check_moments()
        place = f"{self.name}: class_names"
        check_kind(place, self.class_names, tuple, "a tuple of texts", error=DataError)
        for name in self.class_names:
            check_kind(place, name, str, "texts", error=DataError)
        names = self.class_names or _numbered(self.num_classes)
        if len(names) != self.num_classes:
            raise DataError(
                f"{self.name}: training labels must use each of the {len(names)} class_names, got "
                f"{self.num_classes} classes"
            )
        object.__setattr__(self, "class_names", names)  # of a frozen dataclass

    def _check_moments(self) -> None:
        channels = self.train_x.shape[3] if self.train_x.ndim == 4 else 1
        several = {isinstance(self.mean, tuple), isinstance(self.std, tuple)}
        counts = {len(value) for value in (self.mean, self.std) if isinstance(value, tuple)}
        if len(several) > 1 or counts - {channels}:
            raise DataError(
                f"{self.name}: mean and std must be one number each, or one for each of the "
                f"{channels} channels"
            )
        for what, least, rule in (
            ("mean", -_LARGEST, f"within +-{_LARGEST:g}"),
            ("std", 1 / _LARGEST, _IN_RANGE),
            ("scale", 1 / _LARGEST, _IN_RANGE),
        ):
            value = getattr(self, what)
            for each in value if isinstance(value, tuple) else (value,):
                fine = partial(_between, least)
                check_number(f"{self.name}: {what}", each, fine, rule, error=DataError)

    @property
    def num_classes(self) -> int:
        """Number of classes: the largest training label plus one."""
        return int(self.train_y.max()) + 1


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _between(least: float, value: float) -> bool:
    return least <= value <= _LARGEST


def check_values(place: str, x: Values) -> None:
    """Raise `DataError` unless values are as a `Dataset` has them."""
    if x.dtype not in (np.uint8, np.float32) or x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise DataError(
            f"{place}: must be uint8 or float32 (images, height, width), (images, height, width, "
            f"channels) or (images, features), no dimension 0, got {x.dtype} {x.shape}"
        )
    if x.dtype == np.float32 and not (np.isfinite(x.min()) and np.isfinite(x.max())):
        raise DataError(f"{place}: must be finite, got NaN or infinity; clean the data first")


def check_labels(place: str, y: Labels, num_images: int) -> None:
    """Raise `DataError` unless labels are as a `Dataset` has them."""
    if y.dtype != np.int64 or y.shape != (num_images,):
        raise DataError(
            f"{place}: must be int64 ({num_images},), one for each image, got {y.dtype} {y.shape}"
        )
    if y.min() < 0 or y.max() >= MAX_CLASSES:
        raise DataError(
            f"{place}: must be in [0, {MAX_CLASSES}), got {y.min()} to {y.max()}; "
            "number the classes from 0"
        )


def _check_classes(name: str, train_y: Labels, test_y: Labels) -> None:
    counts = np.bincount(train_y)
    if 0 in counts:
        raise DataError(
            f"{name}: training labels must use every class from 0 to {len(counts) - 1}, but "
            f"class {int(np.argmin(counts))} has no image; number the classes from 0 without gaps"
        )
    if test_y.max() >= len(counts):
        raise DataError(
            f"{name}: test labels must be below {len(counts)}, the number of training classes, "
            f"got {test_y.max()}"
        )
