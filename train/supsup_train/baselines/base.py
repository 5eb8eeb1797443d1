"""The base class of baselines."""

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
    """A baseline that learns one task after another.

    Attributes:
        recipe: Training settings.
        module: The network, with shared weights and the last task's state.
        state: Names of the state tensors.
        shares: Whether the first task changes the shared weights.
        in_sequence: Whether every task changes the shared weights.
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
        """Set the module's state to the initial state of a task."""

    def draw(self, weights: dict[str, Tensor], generator: torch.Generator) -> None:
        """Draw weights in place from Kaiming's normal ``N(0, 2 / fan_in)``."""
        with torch.no_grad():
            for value in weights.values():
                nn.init.kaiming_normal_(value, nonlinearity="relu", generator=generator)

    def learn(self, data: TaskData, *, first: bool, progress: Progress | None = None) -> State:
        """Learn one task and return its state; refuse losses and state that are not finite."""
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
        """Return the accuracy on the test images."""
        return tested(self.module, len(data.labels), data)["accuracy"]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the module by name."""
        return tensors_of(self.module)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the state tensors."""
        tensors = self.tensors()
        return {key: tensors[key] for key in self.state}

    def shared(self) -> dict[str, Tensor]:
        """Return the shared tensors."""
        return {key: value for key, value in self.tensors().items() if key not in self.state}

    def own(self) -> State:
        """Return a copy of the last task's state."""
        return {key: value.detach().numpy().copy() for key, value in self.own_tensors().items()}

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """Return the network for the bank and the names of its state."""
        return self.module, self.state

    def to_bank(self, state: State) -> State:
        """Convert a task's state for the bank."""
        return state

    def generator(self, what: str) -> torch.Generator:
        """Return a generator that depends on the seed and `what` only."""
        return torch.Generator().manual_seed(task_seed(self.recipe.seed, what))
