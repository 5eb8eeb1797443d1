"""What all baselines have in common: a network, what a task has of its own in it, and a fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import chain
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.masks.state import make_optimizer, task_seed
from supsup_train.masks.train_task import Progress, batch_rows

__all__ = ["Baseline", "State", "accuracy", "draw_kaiming"]

State = dict[str, npt.NDArray[np.float32]]
_ROWS = 1000


class Baseline(ABC):
    """A baseline in the making: `learn` one task after the other.

    A subclass makes the network, and says what a task begins with and what is learned.

    Attributes:
        recipe: How it is learned.
        module: The network; it holds the weights that tasks share, and the last task's own.
        state: Names of the tensors in it that every task has its own of.
        shares: The first task changes what tasks share, so that the bank begins with it.
        in_sequence: Every task changes what tasks share, so that the bank ends with the last.
    """

    shares: ClassVar[bool] = False
    in_sequence: ClassVar[bool] = False

    def __init__(self, recipe: BaselineRecipe, module: nn.Module, state: list[str]) -> None:
        self.recipe = recipe
        self.module = module
        self.state = state
        self.draw(self.shared(), self.generator("shared weights"))

    @abstractmethod
    def begin(self, name: str) -> None:
        """Put into the module what a task begins with."""

    @abstractmethod
    def learned(self, *, first: bool) -> list[Tensor]:
        """What the first task, or a later one, learns."""

    def draw(self, weights: dict[str, Tensor], generator: torch.Generator) -> None:
        """Draw, in place, the weights that tasks share."""
        draw_kaiming(weights, generator)

    def learn(self, data: TaskData, *, first: bool, progress: Progress | None = None) -> State:
        """Learn one task.

        Args:
            data: Its training part is used.
            first: Whether it is the first of all.
            progress: Called after every step with the step's number and the batch's loss.

        Returns:
            What the task has of its own, ``float32`` by name.

        Raises:
            InputError: If the loss stops being finite.
        """
        self.begin(data.name)
        phase = self.recipe.phase(first=first)
        optimizer = make_optimizer(phase, self.learned(first=first))
        x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
        batches = batch_rows(len(x), phase, self.generator(f"batches of {data.name}"))
        for step, rows in enumerate(batches, start=1):
            loss = cross_entropy(self.module(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            if progress is not None:
                progress(step, loss.item())
        if not torch.isfinite(loss):
            raise InputError(
                f"task {data.name!r}: the last loss is {loss.item()}, it must be finite; "
                "lower the learning rate"
            )
        return self.own()

    def own(self) -> State:
        """What the module holds of the last task's own."""
        tensors = self.tensors()
        return {key: tensors[key].detach().numpy().copy() for key in self.state}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the module by name."""
        return dict(chain(self.module.named_parameters(), self.module.named_buffers()))

    def shared(self) -> dict[str, Tensor]:
        """Those that tasks share."""
        return {key: value for key, value in self.tensors().items() if key not in self.state}

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """The network as a bank holds it, and the names of its state."""
        return self.module, self.state

    def to_bank(self, state: State) -> State:
        """A task's own as a bank holds it."""
        return state

    def generator(self, what: str) -> torch.Generator:
        """Random numbers of `what`, whatever was drawn before."""
        return torch.Generator().manual_seed(task_seed(self.recipe.seed, what))


def draw_kaiming(tensors: dict[str, Tensor], generator: torch.Generator) -> None:
    """Draw weights, in place, from Kaiming's normal: ``N(0, 2 / fan_in)``."""
    with torch.no_grad():
        for value in tensors.values():
            nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)


def accuracy(module: nn.Module, data: TaskData) -> float:
    """Fraction of the test images whose largest real output is the label."""
    x, y = torch.from_numpy(data.test_x), torch.from_numpy(data.test_y)
    right = 0
    with torch.no_grad():
        for part, labels in zip(x.split(_ROWS), y.split(_ROWS), strict=True):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            logits = module(part)[:, : len(data.labels)]
            right += int((logits.argmax(1) == labels).sum())
    return right / len(x)
