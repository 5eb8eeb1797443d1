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
from supsup_runtime.errors import DataError, InputError
from supsup_train.masks.learning import task_seed
from supsup_train.masks.negatives import CHANGES, TaskNegatives
from supsup_train.masks.recipe import Recipe

_OTHERS, _MOST_VALUES = 400, 1 << 26
"""Images of each other task, and values of all together: 256 MiB."""


class Negatives:
    """Images that a recipe's tasks are trained against.

    With ``memory``, each task depends on those before it, and images of each are stored beside the
    bank: add it to the bank before you learn the next.

    Args:
        bank: Bank of the tasks.
        tasks: All tasks: a `Stream` or `OwnTasks`.
        recipe: Training settings with the kinds of negatives.

    Raises:
        InputError: If the network has no superfluous outputs, the tasks are no pictures, or there
            are no other tasks, and the recipe needs them.
        DataError: If a file of pictures cannot be read.
    """

    def __init__(self, bank: MaskBank, tasks: Tasks, recipe: Recipe) -> None:
        parts = recipe.negative_parts
        self._tasks, self._recipe = tasks, recipe
        self._bank = bank if "stored" in parts else None
        self._picture = tasks.picture_shape
        self._others: dict[str, Floats] = {}
        self._known: dict[str, Floats] = {}
        self._none = np.empty((0, *bank.network.input_shape), np.float32)
        changes = [part for part in parts if part in CHANGES]
        if parts and not bank.network.superfluous_outputs:
            raise InputError(
                f"negatives: {recipe.negatives!r:.80} need outputs beyond the classes, all "
                f"{bank.network.outputs} of the network are classes; make a bank with more "
                "(--outputs), or leave negatives out"
            )
        if changes and (self._picture is None or math.prod(self._picture[1:]) < 2):
            got = "features" if self._picture is None else "pictures of one pixel"
            raise InputError(
                f"negatives: {' and '.join(changes)} need pictures of at least two pixels, "
                f"{tasks.place} has {got}; use others, or file:PATH"
            )
        if "others" in parts and tasks.num_tasks < 2:
            raise InputError(
                f"negatives: others need another task, {tasks.place} has one; use turned, "
                "shuffled, memory or file:PATH"
            )
        files = [part.partition(":")[2] for part in parts if part.startswith("file:")]
        self._files = {path: read_pictures(path) for path in files}

    def gather(self) -> None:
        """Read the images of all tasks for ``others``; workers then need not."""
        if "others" not in self._recipe.negative_parts or self._others:
            return
        tasks = self._tasks
        values = math.prod(tasks.input_shape) * tasks.num_tasks
        most = min(_OTHERS, max(1, _MOST_VALUES // values))
        for index in range(tasks.num_tasks):
            data = tasks.task(index)
            self._others[data.name] = self._drawn(data, most)

    def of(self, data: TaskData) -> TaskNegatives:
        """Return the negatives of a task.

        Raises:
            InputError: If pictures of a file do not fit or are the task's own, or other tasks have
                no images but its own.
            BankError: If stored images are damaged, or of another bank.
        """
        parts = self._recipe.negative_parts
        pools: list[Floats] = [self._of_file(path, data) for path in self._files]
        earlier: dict[str, Floats] = {}
        if self._bank is not None:
            earlier = self._stored(self._bank)
        used: dict[str, None] = {}
        self.gather()
        for named in (self._others, earlier):
            kept = {n: _without(x, data.train_x) for n, x in named.items() if n != data.name}
            kept = {name: x for name, x in kept.items() if len(x)}
            if named is self._others and named and not kept:
                raise InputError(
                    f"task {data.name!r}: all images of other tasks are its own; as negatives they "
                    "would cancel: leave out others, or one of the tasks"
                )
            used |= dict.fromkeys(kept)
            pools += [np.concatenate([*kept.values()])] if kept else []
        return TaskNegatives(
            changes=tuple(part for part in parts if part in CHANGES),
            pools=tuple(pools),
            picture=self._picture or (),
            augment=self._recipe.augment,
            tasks=tuple(used),
        )

    def remember(self, task: TaskMasks, data: TaskData) -> None:
        """Store images of a task, with ``memory``; call this before you add it to the bank."""
        if self._bank is not None:
            store_images(self._bank, task, self._drawn(data, self._recipe.memory))

    def _drawn(self, data: TaskData, count: int) -> Floats:
        """Return at most `count` training images, always the same."""
        generator = torch.Generator().manual_seed(task_seed(self._recipe.seed, data.name))
        chosen = torch.randperm(len(data.train_x), generator=generator)[:count]
        images: Floats = data.train_x[chosen.numpy()]
        return images

    def _stored(self, bank: MaskBank) -> dict[str, Floats]:
        """Return the stored images of the bank's tasks; each file is read once."""
        for entry in bank.entries:
            if entry.sha256 not in self._known:
                images = stored_images(bank, entry.name)
                self._known[entry.sha256] = images if images is not None else self._none
        found = {entry.name: self._known[entry.sha256] for entry in bank.entries}
        return {name: images for name, images in found.items() if len(images)}

    def _of_file(self, path: str, data: TaskData) -> Floats:
        place = f"negatives: {path}"
        if data.name not in self._tasks.task_names:
            raise InputError(f"{place}: task {data.name!r} must be one of the tasks")
        try:
            x = self._tasks.prepare(self._tasks.task_names.index(data.name), self._files[path])
        except DataError as error:
            raise InputError(f"{place}: {error}") from error
        if not np.isfinite(x).all():
            raise InputError(f"{place}: prepared values must be finite, got NaN or infinity")
        own = len(x) - len(_without(x, data.train_x))
        if own:
            raise InputError(
                f"{place}: {own} of {len(x)} pictures are those of task {data.name!r}; as "
                "negatives they would cancel: remove them"
            )
        return x


def _without(images: Floats, own: Floats) -> Floats:
    """Return the images that are, byte by byte, none of a task's own."""
    marks = [_mark(row) for row in images]
    shared = set(marks).intersection(map(_mark, own))
    kept: Floats = images[[mark not in shared for mark in marks]]
    return kept


def _mark(row: Floats) -> bytes:
    return sha256(row.tobytes()).digest()
