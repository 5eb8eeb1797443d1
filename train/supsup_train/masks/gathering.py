"""Where negatives come from: a task's own pictures, other tasks, a memory, files."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from supsup_runtime.arrays import Array, Floats, check_kind
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.stored_images import (
    MAX_BYTES,
    image_bytes,
    store_images,
    stored_images,
)
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.data.own.unlabelled import read_pictures
from supsup_runtime.data.streams import Stream, TaskData
from supsup_runtime.errors import FileError, InputError
from supsup_runtime.files import system_errors
from supsup_train.masks.learning import task_seed
from supsup_train.masks.negatives import CHANGES, TaskNegatives
from supsup_train.masks.recipe import Recipe

_OTHERS, _MOST_VALUES = 400, 1 << 26
"""Images of each other task; values of all together, of all stored, of a file: 256 MiB each."""


class Negatives:
    """Images that a recipe's tasks are trained against.

    With ``memory`` each task depends on those before it, and images of it are stored beside the
    bank: add it to the bank before you learn the next.

    Attributes:
        recipe: Training settings.
        network: Of the bank.
        origin: What a task's record says of files: ``negative_files``, digests of their pictures.

    Args:
        bank: Bank of the tasks.
        tasks: All tasks: a `Stream` or `OwnTasks`.
        recipe: Training settings with the kinds of negatives.

    Raises:
        InputError: If the network or the tasks do not go with these kinds.
        DataError: If a file of pictures cannot be read.
        BankError: If stored images are damaged, or of another bank.
    """

    def __init__(self, bank: MaskBank, tasks: Tasks, recipe: Recipe) -> None:
        check_kind("bank", bank, MaskBank, "a MaskBank, from create_bank")
        check_kind("tasks", tasks, (Stream, OwnTasks), "a Stream or OwnTasks")
        check_kind("recipe", recipe, Recipe, "a Recipe")
        parts = recipe.negative_parts
        self.recipe, self.network = recipe, bank.network
        self._tasks = tasks
        self._picture = tasks.picture_shape or ()
        self._changes = tuple(part for part in parts if part in CHANGES)
        self._bank = bank if "stored" in parts else None
        self._check(bank)
        there = image_bytes(bank) if self._bank else {}
        names = [name for name in bank.task_names if name in there]
        self._stored: dict[str, _Marked] = {}
        for name in names:
            if (images := stored_images(bank, name)) is not None:
                self._stored[name] = _Marked.of(images[: self._most(len(names), recipe.memory)])
        paths = [part.partition(":")[2] for part in parts if part.startswith("file:")]
        self._files = {path: read_pictures(path) for path in paths}
        digests = [_fingerprint(pictures) for pictures in self._files.values()]
        self.origin: dict[str, object] = {"negative_files": digests} if digests else {}
        self._others: _Marked | None = None
        self._owners = np.array([], str)

    def gather(self) -> None:
        """Read the images of all tasks for ``others``, once; workers then need not."""
        tasks = self._tasks
        if "others" in self.recipe.negative_parts and self._others is None:
            most = self._most(tasks.num_tasks, _OTHERS)
            drawn = [self._drawn(tasks.task(k), most) for k in range(tasks.num_tasks)]
            self._owners = np.repeat(tasks.task_names, [len(images) for images in drawn])
            self._others = _Marked.of(np.concatenate(drawn))  # one array, which workers map

    def of(self, data: TaskData) -> TaskNegatives:
        """Return the negatives of a task.

        Raises:
            InputError: If pictures of a file do not fit or are the task's own, or other tasks have
                no images but its own.
            FileError: If the disk has no room for the images of it that are to be stored.
        """
        self._check_room(data)
        self.gather()
        earlier = {n: x for n in self._learned() if (x := self._stored.get(n)) is not None}
        own: set[bytes] = set()
        if self._files or self._others or earlier:
            own = {*_marks_of(data.train_x), *_marks_of(data.test_x)}
        pools = [self._of_file(path, data, own) for path in self._files]
        used: dict[str, None] = {}
        if self._others is not None:
            kept = self._others.are_other(own) & (self._owners != data.name)
            used |= dict.fromkeys(self._owners[kept].tolist())
            pools += [self._others.images[kept]] if used else []
        most = self._most(max(1, len(earlier)), self.recipe.memory)
        found = {n: x.images[:most][x.are_other(own)[:most]] for n, x in earlier.items()}
        if remembered := {n: images for n, images in found.items() if len(images)}:
            used |= dict.fromkeys(remembered)
            pools.append(np.concatenate([*remembered.values()]))
        if self._others is not None and not used:
            raise InputError(
                f"task {data.name!r}: all images of other tasks are its own; as negatives they "
                "would cancel: leave out others, or one of the tasks"
            )
        return TaskNegatives(
            changes=self._changes,
            pools=tuple(pools),
            picture=self._picture,
            augment=self.recipe.augment,
            tasks=tuple(used),
        )

    def remember(self, task: TaskMasks, data: TaskData) -> None:
        """Store images of a task, with ``memory``; call this before you add it to the bank."""
        if self._bank is not None:
            images = self._drawn(data, self.recipe.memory)
            store_images(self._bank, task, images)
            self._stored[task.name] = _Marked.of(images)

    def _learned(self) -> tuple[str, ...]:
        return self._bank.task_names if self._bank else ()

    def _most(self, tasks: int, wanted: int) -> int:
        """Return how many images of each of so many tasks are kept in memory."""
        room: int = _MOST_VALUES // (math.prod(self._tasks.input_shape) * tasks)
        return max(1, min(wanted, room))

    def _check_room(self, data: TaskData) -> None:
        """Refuse to learn a task whose images the disk has no room for."""
        if self._bank is None:
            return
        needed = _bytes_of(min(self.recipe.memory, len(data.train_x)), self._tasks)
        with system_errors(self._bank.path, "read"):
            free = shutil.disk_usage(self._bank.path).free
        if needed > free:
            raise FileError(
                f"{self._bank.path}: the images of task {data.name!r:.80} need {needed:,} bytes, "
                f"{free:,} are free; make room, or take fewer (--memory)"
            )

    def _check(self, bank: MaskBank) -> None:
        place, kinds = self._tasks.place, self.recipe.negatives
        if kinds != "none" and not bank.network.superfluous_outputs:
            raise InputError(
                f"negatives: {kinds!r:.80} need outputs beyond the classes, the network has none; "
                "make a bank with more --outputs, or leave negatives out"
            )
        if self._changes and math.prod(self._picture[1:]) < 2:
            raise InputError(
                f"negatives: {' and '.join(self._changes)} need pictures of at least two pixels, "
                f"{place} has none; use others, or file:PATH"
            )
        if "others" in self.recipe.negative_parts and self._tasks.num_tasks < 2:
            raise InputError(
                f"negatives: others need another task, {place} has one; use turned, shuffled, "
                "memory or file:PATH"
            )

        if self._bank is not None and _bytes_of(self.recipe.memory, self._tasks) > MAX_BYTES:
            most = MAX_BYTES // _bytes_of(1, self._tasks)
            raise InputError(
                f"memory: images of a task may have {MAX_BYTES:,} bytes, {most} of this size, got "
                f"{self.recipe.memory} of them; store fewer"
            )

    def _drawn(self, data: TaskData, count: int) -> Floats:
        """Return at most `count` training images, always the same."""
        images: Floats = data.train_x[self._rows(data.name, len(data.train_x), count)]
        return images

    def _rows(self, name: str, count: int, most: int) -> npt.NDArray[np.int64]:
        """Return at most so many of `count` rows, in an order that the task's name decides."""
        generator = torch.Generator().manual_seed(task_seed(self.recipe.seed, name))
        return torch.randperm(count, generator=generator)[:most].numpy()

    def _of_file(self, path: str, data: TaskData, own: set[bytes]) -> Floats:
        place = f"negatives: {path}"
        if data.name not in self._tasks.task_names:
            raise InputError(
                f"{place}: prepared as those of {self._tasks.place}, of which {data.name!r:.80} is "
                "none; make the Negatives with the tasks that you learn"
            )
        try:
            index = self._tasks.task_names.index(data.name)
            pictures, most = self._files[path], self._most(1, _MOST_VALUES)
            rows = self._rows(data.name, len(pictures), most)
            x = self._tasks.prepare(index, [pictures[row] for row in np.sort(rows)])
        except ValueError as error:  # also of our own
            raise InputError(f"{place}: {error}") from error
        if not np.isfinite(x).all():
            raise InputError(f"{place}: must be finite once prepared, got NaN or infinity")
        if same := sum(mark in own for mark in _marks_of(x)):
            raise InputError(
                f"{place}: {same} of {len(x)} pictures are those of task {data.name!r}; as "
                "negatives they would cancel: remove them"
            )
        return x


def values_of_others(tasks: Tasks) -> int:
    """Return how many values the images of all tasks have that ``others`` are drawn from."""
    return min(_MOST_VALUES, _OTHERS * tasks.num_tasks * math.prod(tasks.input_shape))


class _Marked(NamedTuple):
    """Images with their digests."""

    images: Floats
    marks: list[bytes]

    @classmethod
    def of(cls, images: Floats) -> _Marked:
        return cls(images, _marks_of(images))

    def are_other(self, own: set[bytes]) -> npt.NDArray[np.bool_]:
        """Return of each image whether it is, byte by byte, none of a task's own."""
        return np.array([mark not in own for mark in self.marks], bool)


def _marks_of(images: Floats) -> list[bytes]:
    """Return a digest of each image."""
    return [sha256(row.tobytes()).digest() for row in images]


def _fingerprint(pictures: Iterable[Array]) -> str:
    """Return a digest of pictures, as they are before they are prepared."""
    found = sha256()
    for each in pictures:
        found.update(f"{each.dtype} {each.shape}".encode())
        found.update(each.tobytes())
    return found.hexdigest()[:16]


def _bytes_of(count: int, tasks: Tasks) -> int:
    return 4 * count * math.prod(tasks.input_shape) + 1024
