"""Labelled pictures that are read when asked for, and how a part of them is held out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from supsup_runtime.arrays import Array, Labels
from supsup_runtime.data.own.pictures import Look
from supsup_runtime.data.reading import reading
from supsup_runtime.errors import DataError

T = TypeVar("T")
Skipped = dict[str, str]
"""Pictures that cannot be read: messages by name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Labelled pictures in one place.

    Attributes:
        place: For messages.
        classes: Names of the classes, by label.
        labels: ``int64 (pictures,)``.
        dtype: ``uint8`` or ``float32``, of the values.
        name: Returns the name of a picture, by its row.
        looker: Returns what returns the look of a picture.
        reader: Opens the pictures and returns what reads one: ``(height, width)`` or ``(height,
            width, 1 or 3)``.
        hasher: Opens the pictures and returns the SHA-256 of one, of its file or its values.
    """

    place: str
    classes: tuple[str, ...]
    labels: Labels
    dtype: str
    name: Callable[[int], str]
    looker: Callable[[], Callable[[int], Look]]
    reader: Callable[[], Callable[[int], Array]]
    hasher: Callable[[], Callable[[int], bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Pictures for training or for the test: `rows` of a source, in order."""

    source: Source
    rows: Labels

    def counts(self, rows: Labels | list[int] | None = None) -> list[int]:
        """Return the number of pictures by class, of all or of these rows."""
        labels = self.source.labels[self.rows if rows is None else rows]
        counted: list[int] = np.bincount(labels, minlength=len(self.source.classes)).tolist()
        return counted

    def each(
        self, opened: Callable[[], Callable[[int], T]], skipped: Skipped | None
    ) -> Iterator[tuple[int, T]]:
        """Yield row and value of each picture; those that cannot be read go into `skipped`.

        Raises:
            DataError: If one cannot be read and `skipped` is None.
        """
        place = Path(self.source.place)
        with reading(place):
            read = opened()
        for row in self.rows.tolist():
            try:
                with reading(place):
                    value = read(row)
            except DataError as error:
                if skipped is None:
                    raise DataError(f"{error}; or leave such out (--skip-unreadable)") from error
                skipped[self.source.name(row)] = str(error)
            else:
                yield row, value


def everything(source: Source) -> Part:
    """Return all pictures of a source."""
    return Part(source, np.arange(len(source.labels)))


def held_out(source: Source, fraction: float, seed: int) -> tuple[Part, Part]:
    """Divide the pictures of each class into training and test (docs/DATA.md).

    Raises:
        DataError: If a class has fewer than two.
    """
    chosen = np.zeros(len(source.labels), np.bool_)
    for label, name in enumerate(source.classes):
        rows = np.flatnonzero(source.labels == label)
        if len(rows) < 2:
            raise DataError(
                f"{source.place}: class {name!r} must have at least 2 pictures, one of them for "
                f"the test, got {len(rows)}"
            )
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        chosen[rows[np.random.RandomState(seed).permutation(len(rows))[:count]]] = True
    return Part(source, np.flatnonzero(~chosen)), Part(source, np.flatnonzero(chosen))


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key by which ``task-2`` comes before ``task-10``."""
    pieces = re.findall(r"([^0-9]*)([0-9]*)", name[:200])
    return [(text, int(digits or -1)) for text, digits in pieces], name


def checked_classes(place: object, names: Iterable[str]) -> tuple[str, ...]:
    """Return class names, or raise `DataError` unless there are two and all differ."""
    classes = tuple(names)
    for name in classes:
        if not name.isprintable() or not 1 <= len(name) <= 200:
            raise DataError(
                f"{place}: class names must be 1 to 200 printable characters, got {name!r:.80}"
            )
    for earlier, name in zip(sorted(classes), sorted(classes)[1:], strict=False):
        if earlier == name:
            raise DataError(f"{place}: class names must differ, got {name!r} twice")
    if len(classes) < 2:
        raise DataError(f"{place}: must have at least 2 classes, got {len(classes)}")
    return classes


def check_known(place: object, found: Iterable[str], classes: tuple[str, ...]) -> None:
    """Raise `DataError` if a class that was found is not one of `classes`."""
    strange = sorted(set(found) - set(classes), key=natural)
    if strange:
        raise DataError(
            f"{place}: class {strange[0]!r:.80} must be one of {', '.join(classes):.200}"
        )
