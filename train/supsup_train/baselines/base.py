"""What all baselines have in common: a network, what a task has of its own in it, and a fit."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Floats
from supsup_runtime.data.streams import TaskData
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.masks.learning import check_learned, descend, make_optimizer, task_seed
from supsup_train.masks.train_task import Progress, fit, tested
from supsup_train.networks.create_bank import tensors_of

State = dict[str, Floats]


class Baseline(ABC):
    """A baseline in the making: `learn` one task after the other.

    A subclass makes the network, and says what a task begins with.

    Attributes:
        recipe: How it is learned.
        module: The network; it holds the weights that tasks share, and the last task's own.
        state: Names of the tensors in it that every task has its own of.
        shares: The first task changes what tasks share, so that the bank begins with it.
        in_sequence: Every task changes what tasks share, so that the bank ends with the last.
    """

    def __init__(self, recipe: BaselineRecipe, module: nn.Module, state: list[str]) -> None:
        self.recipe = recipe
        self.module = module
        self.state = state
        self.shares = recipe.method in {"batche", "heads"}
        self.in_sequence = recipe.method in {"psp", "sequence"}
        self.draw(self.shared(), self.generator("shared weights"))

    @abstractmethod
    def begin(self, name: str) -> None:
        """Put into the module what a task begins with."""

    def draw(self, weights: dict[str, Tensor], generator: torch.Generator) -> None:
        """Draw weights, in place, from Kaiming's normal: ``N(0, 2 / fan_in)``."""
        with torch.no_grad():
            for value in weights.values():
                nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)

    def learn(self, data: TaskData, *, first: bool, progress: Progress | None = None) -> State:
        """Learn one task from its training part; the `first` of all may learn what is shared.

        Returns:
            What the task has of its own, ``float32`` by name.

        Raises:
            InputError: If a loss, or what was learned, is not finite.
        """
        self.begin(data.name)
        phase = self.recipe.phase(first=first)
        learned = [value for value in self.own_tensors().values() if value.requires_grad]
        if self.in_sequence or (self.shares and first):
            learned += self.shared().values()
        optimizer = make_optimizer(phase, learned)

        def step(place: str, x: Tensor, y: Tensor) -> float:
            return descend(place, self.module(x), y, optimizer)

        fit(step, data, phase, self.generator(f"batches of {data.name}"), progress)
        check_learned(data.name, optimizer)
        return self.own()

    def accuracy(self, data: TaskData) -> float:
        """Fraction of the test images whose largest real output is the label."""
        return tested(self.module, len(data.labels), data)["accuracy"]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the module by name."""
        return tensors_of(self.module)

    def own_tensors(self) -> dict[str, Tensor]:
        """Those that are the last task's own."""
        tensors = self.tensors()
        return {key: tensors[key] for key in self.state}

    def shared(self) -> dict[str, Tensor]:
        """Those that tasks share."""
        return {key: value for key, value in self.tensors().items() if key not in self.state}

    def own(self) -> State:
        """What the module holds of the last task's own, copied."""
        return {key: value.detach().numpy().copy() for key, value in self.own_tensors().items()}

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """The network as a bank holds it, and the names of its state."""
        return self.module, self.state

    def to_bank(self, state: State) -> State:
        """A task's own as a bank holds it."""
        return state

    def generator(self, what: str) -> torch.Generator:
        """Random numbers of `what`, whatever was drawn before."""
        return torch.Generator().manual_seed(task_seed(self.recipe.seed, what))
