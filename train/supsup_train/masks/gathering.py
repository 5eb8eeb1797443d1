"""Where negatives come from: a task's own pictures, other tasks, a memory, files."""

from __future__ import annotations

import math
from hashlib import sha256

import numpy as np
import torch

from supsup_runtime.arrays import Floats
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.stored_images import store_images, stored_images
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.own import Tasks
from supsup_runtime.data.own.unlabelled import read_pictures
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import task_seed
from supsup_train.masks.negatives import CHANGES, TaskNegatives
from supsup_train.masks.recipe import Recipe

_OTHERS, _MOST_VALUES = 400, 1 << 26
"""Images of each other task, and values of all together: 256 MiB."""


class Negatives:
    """Images that a recipe's tasks are trained against.

    With ``memory`` each task depends on those before it, and images of it are stored beside the
    bank: add it to the bank before you learn the next.

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
        parts = recipe.negative_parts
        self._tasks, self._recipe = tasks, recipe
        self._picture = tasks.picture_shape or ()
        self._changes = tuple(part for part in parts if part in CHANGES)
        self._check(bank)
        self._bank = bank if "stored" in parts else None
        names = bank.task_names if self._bank else ()
        self._stored = {name: stored_images(bank, name) for name in names}
        paths = [part.partition(":")[2] for part in parts if part.startswith("file:")]
        self._files = {path: read_pictures(path) for path in paths}
        self._others: dict[str, Floats] = {}

    def gather(self) -> None:
        """Read the images of all tasks for ``others``, once; workers then need not."""
        tasks = self._tasks
        if "others" in self._recipe.negative_parts and not self._others:
            each = values_of_others(tasks) // (math.prod(tasks.input_shape) * tasks.num_tasks)
            for data in map(tasks.task, range(tasks.num_tasks)):
                self._others[data.name] = self._drawn(data, max(1, each))

    def of(self, data: TaskData) -> TaskNegatives:
        """Return the negatives of a task.

        Raises:
            InputError: If pictures of a file do not fit or are the task's own, or other tasks have
                no images but its own.
        """
        self.gather()
        there = self._bank.task_names if self._bank else ()
        earlier = {name: x for name in there if (x := self._stored.get(name)) is not None}
        pools = [self._of_file(path, data) for path in self._files]
        used: dict[str, None] = {}
        for named in (self._others, earlier):
            kept = {n: _without(x, data.train_x) for n, x in named.items() if n != data.name}
            kept = {name: x for name, x in kept.items() if len(x)}
            used |= dict.fromkeys(kept)
            pools += [np.concatenate([*kept.values()])] if kept else []
        if self._others and not used:
            raise InputError(
                f"task {data.name!r}: all images of other tasks are its own; as negatives they "
                "would cancel: leave out others, or one of the tasks"
            )
        return TaskNegatives(
            changes=self._changes,
            pools=tuple(pools),
            picture=self._picture,
            augment=self._recipe.augment,
            tasks=tuple(used),
        )

    def remember(self, task: TaskMasks, data: TaskData) -> None:
        """Store images of a task, with ``memory``; call this before you add it to the bank."""
        if self._bank is not None:
            self._stored[task.name] = images = self._drawn(data, self._recipe.memory)
            store_images(self._bank, task, images)

    def _check(self, bank: MaskBank) -> None:
        place, kinds = self._tasks.place, self._recipe.negatives
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
        if "others" in self._recipe.negative_parts and self._tasks.num_tasks < 2:
            raise InputError(
                f"negatives: others need another task, {place} has one; use turned, shuffled, "
                "memory or file:PATH"
            )

    def _drawn(self, data: TaskData, count: int) -> Floats:
        """Return at most `count` training images, always the same."""
        generator = torch.Generator().manual_seed(task_seed(self._recipe.seed, data.name))
        chosen = torch.randperm(len(data.train_x), generator=generator)[:count]
        images: Floats = data.train_x[chosen.numpy()]
        return images

    def _of_file(self, path: str, data: TaskData) -> Floats:
        place = f"negatives: {path}"
        try:
            index = self._tasks.task_names.index(data.name)
            x = self._tasks.prepare(index, self._files[path])
        except ValueError as error:  # also of our own
            raise InputError(f"{place}: {error}") from error
        if not np.isfinite(x).all():
            raise InputError(f"{place}: must be finite once prepared, got NaN or infinity")
        if own := len(x) - len(_without(x, data.train_x)):
            raise InputError(
                f"{place}: {own} of {len(x)} pictures are those of task {data.name!r}; as "
                "negatives they would cancel: remove them"
            )
        return x


def values_of_others(tasks: Tasks) -> int:
    """Return how many values the images of all tasks have that ``others`` are drawn from."""
    return min(_MOST_VALUES, _OTHERS * tasks.num_tasks * math.prod(tasks.input_shape))


def _without(images: Floats, own: Floats) -> Floats:
    """Return the images that are, byte by byte, none of a task's own."""
    marks = [sha256(row.tobytes()).digest() for row in images]
    shared = set(marks).intersection(sha256(row.tobytes()).digest() for row in own)
    kept: Floats = images[[mark not in shared for mark in marks]]
    return kept
