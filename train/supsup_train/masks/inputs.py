"""Images of tasks that are learned at once: each its own, or those of a permuted stream, shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from supsup_runtime.data.own import Tasks
from supsup_runtime.data.streams import Stream, TaskData
from supsup_train.masks.device import Device
from supsup_train.masks.learning import Learning
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import Tested, batch_rows, batches, seen
from supsup_train.workers.work import Unit

Begun = tuple[Learning, torch.Generator]
"""Training state of a task, and its random numbers."""
Batches = Iterator[tuple[Tensor, Tensor]]
"""Inputs ``(tasks, batch, ...)`` and labels of each step."""


class Inputs(Protocol):
    """Images of some tasks."""

    @property
    def data(self) -> Sequence[TaskData]:
        """The tasks, as `begin_task` takes them."""

    @property
    def checked(self) -> Sequence[TaskData]:
        """Those whose images must be checked."""

    def groups(self, recipe: Recipe) -> list[list[int]]:
        """Return the numbers of tasks whose batches are of the same size."""

    def batches(self, numbers: Sequence[int], begun: Sequence[Begun], recipe: Recipe) -> Batches:
        """Yield the batches of these tasks; each draws its own, as when it is learned alone."""

    def tested(self, number: int) -> tuple[Tested, Tested]:
        """Return training images, at most 1000, and test images of a task."""


def inputs_of(tasks: Tasks, unit: Unit, recipe: Recipe, device: Device) -> Inputs:
    """Make the images of the tasks of these indices."""
    if shares_images(tasks, recipe) and not device.is_plain:
        return _Shared(tasks, unit, device.name)  # type: ignore[arg-type]  # a permuted Stream
    return _Own([tasks.task(index) for index in unit])


def shares_images(tasks: Tasks, recipe: Recipe) -> bool:
    """Return whether tasks learned at once need no images of their own."""
    return tasks.kind == "permuted" and recipe.augment == recipe.negatives == "none"


class _Own:
    """Each task has images of its own, on the CPU."""

    def __init__(self, data: Sequence[TaskData]) -> None:
        self.data = self.checked = data

    def groups(self, recipe: Recipe) -> list[list[int]]:
        by_size: dict[int, list[int]] = {}
        for number, each in enumerate(self.data):
            by_size.setdefault(min(recipe.batch_size, len(each.train_x)), []).append(number)
        return list(by_size.values())

    def batches(self, numbers: Sequence[int], begun: Sequence[Begun], recipe: Recipe) -> Batches:
        each = []
        for number in numbers:
            learning, generator = begun[number]
            each.append(batches(self.data[number], recipe, generator, learning.negatives))
        for parts in zip(*each, strict=True):
            xs, ys = zip(*parts, strict=True)
            yield torch.stack(xs), torch.stack(ys)

    def tested(self, number: int) -> tuple[Tested, Tested]:
        return seen(self.data[number]), self.data[number]


@dataclass(frozen=True, slots=True)
class _Test:
    test_x: Tensor
    test_y: Tensor


class _Shared:
    """Tasks of a permuted stream see the same images, flat and on the device, in their orders."""

    def __init__(self, stream: Stream, unit: Unit, device: str) -> None:
        plain = stream.unpermuted()
        self.checked = [plain]
        names, labels = stream.task_names, stream.task_labels
        self.data = [replace(plain, name=names[index], labels=labels[index]) for index in unit]
        sample = seen(plain)
        self._train, self._seen, self._test = (
            _Test(torch.from_numpy(x).flatten(1).to(device), torch.from_numpy(y).to(device))
            for x, y in (
                (plain.train_x, plain.train_y),
                (sample.test_x, sample.test_y),
                (plain.test_x, plain.test_y),
            )
        )
        orders = np.stack([stream.order(index) for index in unit])
        self._orders, self._shape = torch.from_numpy(orders).to(device), stream.input_shape

    def groups(self, recipe: Recipe) -> list[list[int]]:  # noqa: ARG002 - all have as many images
        return [[*range(len(self.data))]]

    def batches(self, numbers: Sequence[int], begun: Sequence[Begun], recipe: Recipe) -> Batches:
        images = self._train
        order = self._orders[list(numbers), None]  # (tasks, 1, values)
        count = len(images.test_x)
        each = [batch_rows(count, recipe, begun[number][1]) for number in numbers]
        for parts in zip(*each, strict=True):
            rows = torch.stack(parts).to(order.device)
            x = images.test_x[rows[..., None], order]
            yield x.view(*rows.shape, *self._shape), images.test_y[rows]

    def tested(self, number: int) -> tuple[Tested, Tested]:
        order = self._orders[number]
        found = [
            _Test(part.test_x[:, order].view(-1, *self._shape), part.test_y)
            for part in (self._seen, self._test)
        ]
        return found[0], found[1]
