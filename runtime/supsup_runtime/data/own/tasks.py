"""Own tasks, which stand wherever a `Stream` of tasks stands."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from supsup_runtime.arrays import Array, Floats, Labels, check_flag
from supsup_runtime.data.own.description import described
from supsup_runtime.data.own.opening import opened
from supsup_runtime.data.own.parts import Part, Skipped
from supsup_runtime.data.own.pictures import Look
from supsup_runtime.data.reading import MAX_PART_BYTES, reading
from supsup_runtime.data.streams import LAYOUTS, Layout, Stream, TaskData
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import Mode, Preprocessing

Tasks: TypeAlias = "Stream | OwnTasks"
"""What training and evaluation take."""
_OPTIONS = {"size": "size = 32 (--size 32)", "mode": "mode = 'rgb' (--mode rgb)"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnTasks:
    """Tasks that `read_tasks` found, in the order of the file or of the folders' names.

    Attributes:
        place: The file or folder, for messages.
        task_names: Names of the tasks; all differ.
        parts: Pictures for training and for the test, by task.
        preprocessing: From their pictures to the network's inputs.
        layout: ``image`` or ``flat``; see `input_shape`.
        skipped: What was left out so far, by task: messages by name of the picture. None refuses
            pictures that cannot be read.
    """

    place: str
    task_names: tuple[str, ...]
    parts: tuple[tuple[Part, Part], ...]
    preprocessing: Preprocessing
    layout: Layout
    skipped: dict[str, Skipped] | None
    kind: Literal["own", "split"] = "own"

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.task_names)

    @property
    def task_labels(self) -> tuple[tuple[str, ...], ...]:
        """Class names by task, 2 or more."""
        return tuple(train.source.classes for train, _ in self.parts)

    @property
    def real_outputs(self) -> int:
        """Most classes of a task."""
        return max(map(len, self.task_labels))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(channels, height, width)``, or ``(values,)`` if the layout is flat."""
        shape = self.preprocessing.output_shape
        return shape if self.layout == "image" else (math.prod(shape),)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """``(channels, height, width)``, as which flat inputs are pictures."""
        return self.preprocessing.output_shape

    def origin(self, index: int) -> dict[str, str]:
        """Return a task's origin for its training record: ``data``, its `fingerprint`."""
        return {"data": self.fingerprint(index), "stream": self.kind}

    def task(self, index: int, *, train: bool = True) -> TaskData:
        """Read and prepare one task, in new arrays.

        Args:
            index: In ``[0, num_tasks)``.
            train: False leaves out the training part, at no cost.

        Raises:
            DataError: If `index` is out of range, or a picture cannot be read (with `skipped`: if
                all of a class cannot).
        """
        learned, tested = self._parts(index)
        if not train:
            learned = Part(learned.source, learned.rows[:0])
        train_x, train_y = self._prepared(index, learned)
        test_x, test_y = self._prepared(index, tested)
        return TaskData(
            name=self.task_names[index],
            labels=self.task_labels[index],
            train_x=train_x,
            train_y=train_y,
            test_x=test_x,
            test_y=test_y,
        )

    def prepare(self, index: int, pictures: Sequence[Array]) -> Floats:
        """Prepare other pictures as a task's, ``(n, *input_shape)``; refuse what cannot be."""
        kinds = {part.source.dtype for part in self._parts(index)}
        if others := [each.dtype for each in pictures if each.dtype.name not in kinds]:
            wanted = " or ".join(sorted(kinds))
            raise DataError(f"pictures must be {wanted}, as the tasks', got {others[0]}")
        return self.preprocessing.apply(pictures).reshape(-1, *self.input_shape)

    def pictures(
        self, index: int, *, test: bool = True, as_stored: bool = False
    ) -> Iterator[tuple[str, Array]]:
        """Read the pictures of a task one by one, in the order of `task`.

        Args:
            index: In ``[0, num_tasks)``.
            test: Whether those of the test or of training.
            as_stored: Do not turn floats into ``uint8``.

        Yields:
            Name, such as the file's path, and ``uint8 (height, width)`` or ``(height, width, 1 or
            3)`` of any size; floats times ``255 / scale``, cut to 0 and 255.

        Raises:
            DataError: See `task`.
        """
        part = self._parts(index)[test]
        factor = 255 / self.preprocessing.scale
        for row, picture in part.each(part.source.reader, self._skipped(index)):
            whole = as_stored or picture.dtype == np.uint8
            shown = picture if whole else (picture * factor).clip(0, 255).round().astype(np.uint8)
            yield part.source.name(row), shown

    def fingerprint(self, index: int) -> str:
        """Return the hexadecimal SHA-256 of a task's data and settings.

        It covers preprocessing, class names, and for training and test in order: the label of each
        picture and the bytes of its file, or of its values in an array. Names and paths of files
        and other tasks do not count.

        Raises:
            DataError: If `index` is out of range, or a file cannot be read.
        """
        parts = self._parts(index)
        settings = [self.task_labels[index], self.preprocessing.to_dict()]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for part in parts:
            digest.update(part.source.labels[part.rows].astype("<i8").tobytes())
            unreadable: Skipped | None = None if self.skipped is None else {}
            for _, own in part.each(part.source.hasher, unreadable):
                digest.update(own)
        return digest.hexdigest()

    def _parts(self, index: int) -> tuple[Part, Part]:
        if not 0 <= index < self.num_tasks:
            raise DataError(f"own tasks: index must be in [0, {self.num_tasks}), got {index}")
        return self.parts[index]

    def _skipped(self, index: int) -> Skipped | None:
        return None if self.skipped is None else self.skipped[self.task_names[index]]

    def _prepared(self, index: int, part: Part) -> tuple[Floats, Labels]:
        x = np.empty((len(part.rows), *self.preprocessing.output_shape), np.float32)
        rows: list[int] = []
        if len(x):
            with np.errstate(all="ignore"):  # refused below
                for row, picture in part.each(part.source.reader, self._skipped(index)):
                    x[len(rows)] = self.preprocessing.apply(picture)[0]
                    rows.append(row)
        x, place = x[: len(rows)], part.source.place
        if not np.isfinite(x).all():
            raise DataError(f"{place}: values are too large for scale, mean and std")
        for name, had, left in zip(
            part.source.classes, part.counts(), part.counts(rows), strict=True
        ):
            if had and not left:
                raise DataError(f"{place}: no picture of class {name!r} can be read")
        return x.reshape(-1, *self.input_shape), part.source.labels[rows]


def read_tasks(
    source: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    mode: Mode | None = None,
    layout: Layout = "image",
    skip_unreadable: bool = False,
) -> OwnTasks:
    """Find own tasks; their pictures are read when asked for.

    Args:
        source: A ``tasks.toml``, or a folder with a folder for each task (docs/DATA.md).
        size: Height and width of the network's inputs, or the side of a square. None takes that
            of the file, or of all pictures.
        mode: ``gray`` or ``rgb``; None as for `size`.
        layout: Of the inputs: ``image`` or ``flat``.
        skip_unreadable: Leave out pictures that cannot be read, instead of refusing.

    Raises:
        DataError: If the file or folder breaks the rules, data are missing or do not fit, or
            pictures differ and no size or mode is given.
    """
    with reading(Path(source)):
        settings, sections = described(Path(source))
        parts = {section.name: opened(section) for section in sections}
    options = {"size": size, "mode": mode, "layout": layout, "skip_unreadable": skip_unreadable}
    return made(str(source), parts, settings, **options)  # type: ignore[arg-type]  # checked there


def made(
    place: str,
    parts: dict[str, tuple[Part, Part]],
    settings: dict[str, Any],
    *,
    size: int | tuple[int, int] | None = None,
    mode: Mode | None = None,
    layout: Layout = "image",
    skip_unreadable: bool = False,
) -> OwnTasks:
    """Make tasks of their parts by name; see `read_tasks`. `settings` are those of the file."""
    check_flag("skip_unreadable", skip_unreadable, error=DataError)
    if layout not in LAYOUTS:
        raise DataError(f"{place}: layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    for key, value in (("size", size), ("mode", mode)):
        if value is not None and _sides(settings.setdefault(key, value)) != _sides(value):
            raise DataError(f"{place}: has a {key} of its own, got another, {value!r:.80}")
    skipped: dict[str, Skipped] | None = {name: {} for name in parts} if skip_unreadable else None
    preprocessing = _preprocessing(place, settings, parts, skipped)
    for name, pair in parts.items():
        for part in pair:
            bytes_each = (
                math.prod(preprocessing.output_shape) * np.dtype(part.source.dtype).itemsize
            )
            most = MAX_PART_BYTES // bytes_each
            if len(part.rows) > most:
                raise DataError(
                    f"{place}: task {name!r}: at most {most} pictures of that size fit into "
                    f"{MAX_PART_BYTES} bytes, got {len(part.rows)}; give a smaller size"
                )
    return OwnTasks(
        place=place,
        task_names=tuple(parts),
        parts=tuple(parts.values()),
        preprocessing=preprocessing,
        layout=layout,
        skipped=skipped,
    )


def _sides(value: object) -> object:
    """Return a size as JSON has it; anything else as it is."""
    if isinstance(value, tuple):
        return list(value)
    return [value, value] if isinstance(value, int) else value


def _preprocessing(
    place: str,
    settings: dict[str, Any],
    parts: dict[str, tuple[Part, Part]],
    skipped: dict[str, Skipped] | None,
) -> Preprocessing:
    dtypes = {part.source.dtype for pair in parts.values() for part in pair}
    if "scale" not in settings and len(dtypes) > 1:
        raise DataError(
            f"{place}: pictures must be all uint8 or all float32, got both; save them alike, or "
            "give the scale of all, the value that counts as 1"
        )
    scale = 255.0 if dtypes == {"uint8"} else 1.0
    wanted = [key for key in _OPTIONS if key not in settings]
    if wanted:
        looks: dict[Look, str] = {}
        for name, pair in parts.items():
            for part in pair:
                for _, look in part.each(
                    part.source.looker, None if skipped is None else skipped[name]
                ):
                    looks.setdefault(look, name)
        settings |= _common(place, wanted, looks)
    values = {"mean": None, "std": None, "scale": scale, **settings}
    try:
        return Preprocessing.from_dict({**values, "size": _sides(settings["size"])})
    except ValueError as error:  # InputError, or a number that is too long for its message
        raise DataError(f"{place}: {error}") from error


def _common(place: str, wanted: list[str], looks: dict[Look, str]) -> dict[str, Any]:
    """Return size and mode that all pictures have, or refuse and show the choices."""
    if not looks:
        raise DataError(f"{place}: no picture can be read")
    common: dict[str, Any] = {}
    choices, options = [], []
    for key in wanted:
        tasks: dict[Any, str] = {}
        for look, name in looks.items():
            tasks.setdefault(getattr(look, key), name)
        common[key], *others = tasks
        if others:
            texts = [f"{_text(value)} (task {name!r})" for value, name in tasks.items()]
            choices.append(f"{key} {', '.join(texts[:4])}{', ...' * (len(texts) > 4)}")
            options.append(_OPTIONS[key])
    if choices:
        raise DataError(
            f"{place}: pictures differ: {'; '.join(choices)}; choose for all, such as "
            f"{' and '.join(options)}"
        )
    return common


def _text(value: str | tuple[int, int]) -> str:
    return value if isinstance(value, str) else f"{value[0]} x {value[1]}"
