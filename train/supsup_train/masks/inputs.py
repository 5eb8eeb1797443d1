"""Images of the tasks that are learned: each its own, or those of a permuted stream, shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from supsup_runtime.data.own import Tasks
from supsup_runtime.data.streams import Stream, TaskData
from supsup_train.masks.device import Device
from supsup_train.masks.negatives import TaskNegatives
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import Labelled, batch_rows, batches, seen
from supsup_train.workers.work import Unit

Draw = tuple[int, torch.Generator, TaskNegatives | None]
"""Number of a task, its random numbers, and what is drawn beside its images."""
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

    def batches(self, draws: Sequence[Draw], recipe: Recipe) -> Batches:
        """Yield the batches of some tasks; each draws its own, as when it is learned alone."""

    def tested(self, number: int) -> tuple[Labelled, Labelled]:
        """Return what `seen` does of a task."""


def inputs_of(tasks: Tasks, unit: Unit, recipe: Recipe, device: Device) -> Inputs:
    """Make the images of the tasks of these indices."""
    if isinstance(tasks, Stream) and shares_images(tasks, recipe, device):
        return _Shared(tasks, unit, device.name)
    return _Own([tasks.task(index) for index in unit])


def shares_images(tasks: Tasks, recipe: Recipe, device: Device) -> bool:
    """Return whether tasks need no images of their own; one by one they learn faster with them."""
    plain = recipe.augment == recipe.negatives == "none"
    return tasks.kind == "permuted" and plain and not device.is_plain


class _Own:
    """Each task has images of its own, on the CPU."""

    def __init__(self, data: Sequence[TaskData]) -> None:
        self.data = self.checked = data

    def groups(self, recipe: Recipe) -> list[list[int]]:
        by_size: dict[int, list[int]] = {}
        for number, each in enumerate(self.data):
            by_size.setdefault(min(recipe.batch_size, len(each.train_x)), []).append(number)
        return list(by_size.values())

    def batches(self, draws: Sequence[Draw], recipe: Recipe) -> Batches:
        each = [batches(self.data[n], recipe, draw, others) for n, draw, others in draws]
        for parts in zip(*each, strict=True):
            xs, ys = zip(*parts, strict=True)
            yield torch.stack(xs), torch.stack(ys)

    def tested(self, number: int) -> tuple[Labelled, Labelled]:
        return seen(self.data[number])


class _Shared:
    """Tasks of a permuted stream see the same images, held flat on a device, in their orders."""

    def __init__(self, stream: Stream, unit: Unit, device: str) -> None:
        plain = stream.unpermuted()
        self.checked = [plain]
        names, labels = stream.task_names, stream.task_labels
        self.data = [replace(plain, name=names[index], labels=labels[index]) for index in unit]
        parts = ((plain.train_x, plain.train_y), *seen(plain))
        self._train, self._sample, self._test = (
            (torch.from_numpy(x).flatten(1).to(device), torch.from_numpy(y).to(device))
            for x, y in parts
        )
        orders = np.stack([stream.order(index) for index in unit])
        self._orders, self._shape = torch.from_numpy(orders).to(device), stream.input_shape

    def groups(self, recipe: Recipe) -> list[list[int]]:  # noqa: ARG002 - all have as many images
        return [[*range(len(self.data))]]

    def batches(self, draws: Sequence[Draw], recipe: Recipe) -> Batches:
        (x, y), order = self._train, self._orders[[n for n, *_ in draws], None]
        each = [batch_rows(len(x), recipe, generator) for _, generator, _ in draws]
        for parts in zip(*each, strict=True):
            rows = torch.stack(parts).to(order.device)
            plain = x[rows]
            permuted = plain.gather(2, order.expand(plain.shape))
            yield permuted.view(*rows.shape, *self._shape), y[rows]

    def tested(self, number: int) -> tuple[Labelled, Labelled]:
        def permuted(x: Tensor, y: Tensor) -> Labelled:
            return x.index_select(1, self._orders[number]).view(-1, *self._shape), y

        return permuted(*self._sample), permuted(*self._test)
