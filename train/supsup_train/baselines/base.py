"""The base class of baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from supsup_runtime.arrays import Floats
from supsup_runtime.data.streams import TaskData
from supsup_train.baselines.layers import Parts
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.masks.learning import (
    check_learned,
    descend,
    logits_of,
    make_optimizer,
    task_seed,
)
from supsup_train.masks.train_task import Labelled, fit, tested
from supsup_train.networks.create_bank import tensors_of
from supsup_train.resume import Progress

State = dict[str, Floats]


class Baseline(ABC):
    """A baseline that learns one task after another.

    Attributes:
        recipe: Training settings.
        parts: The network.
        module: The network as the method changes it, with shared weights and the last task's state.
        state: Names of the state tensors: the method's, and what tasks have with masks, too, such
            as the running statistics of batch normalisation.
        shares: Whether the first task changes the shared weights.
        in_sequence: Whether every task changes the shared weights.
    """

    def __init__(
        self, recipe: BaselineRecipe, parts: Parts, module: nn.Module, names: list[str]
    ) -> None:
        """Draw the shared weights; `names` are those of the method's state."""
        self.recipe = recipe
        self.parts = parts
        self.module = module
        self.state = [*names, *parts.kept]
        self.shares = recipe.method in {"batche", "heads"}
        self.in_sequence = recipe.method in {"psp", "sequence"}
        self._names = names
        self._kept: dict[str, dict[str, Tensor]] = {}  # by task
        self._new = self._copies(parts.kept)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in {*self.state, *parts.masked})
        self.draw(self.shared(), self.generator("shared weights"))

    @abstractmethod
    def start(self, name: str) -> None:
        """Set the method's own state to the initial state of a task; without gradient."""

    def begin(self, name: str) -> None:
        """Set the module's state to the initial state of a task; of a learned one, in sequence."""
        with torch.no_grad():
            self.start(name)
            kept = self._kept.get(name, self._new)
            for key, tensor in self._tensors(kept).items():
                tensor.copy_(kept[key])

    def draw(self, weights: dict[str, Tensor], generator: torch.Generator) -> None:
        """Draw weights in place; scales, of one dimension, are ones."""
        with torch.no_grad():
            for value in weights.values():
                if value.ndim == 1:
                    value.fill_(1)
                else:
                    self.draw_weight(value, generator)

    def draw_weight(self, weight: Tensor, generator: torch.Generator) -> None:
        """Draw from Kaiming's normal ``N(0, 2 / fan_in)``."""
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)

    def learn(self, data: TaskData, *, first: bool, progress: Progress | None = None) -> State:
        """Learn one task and return its state; refuse losses and state that are not finite."""
        self.begin(data.name)
        phase = self.recipe.phase(first=first)
        learned = [value for value in self._tensors(self.state).values() if value.requires_grad]
        if self.in_sequence or (self.shares and first):
            learned += self.shared().values()
        optimizer = make_optimizer(phase, learned)

        def step(place: str, x: Tensor, y: Tensor) -> float:
            loss = cross_entropy(logits_of(place, self.module, x), y)
            return descend(place, loss, optimizer)

        self.module.train()
        fit(step, data, phase, self.generator(f"batches of {data.name}"), progress)
        self.module.eval()
        check_learned(data.name, optimizer)
        if self.in_sequence:
            self._kept[data.name] = self._copies(self.parts.kept)
        return self.own()

    def accuracy(self, classes: int, images: Labelled) -> float:
        """Return the accuracy on images of a task of so many classes."""
        return tested(self.module, classes, images)["accuracy"]

    def _tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        tensors = tensors_of(self.module)
        return {name: tensors[name] for name in names}

    def _copies(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._tensors(names).items()}

    def method_tensors(self) -> dict[str, Tensor]:
        """Return the state tensors that are the method's."""
        return self._tensors(self._names)

    def shared(self) -> dict[str, Tensor]:
        """Return the shared weights."""
        return self._tensors(key for key in self.parts.masked if key not in self.state)

    def own(self) -> State:
        """Return a copy of the last task's state."""
        return {key: value.numpy() for key, value in self._copies(self.state).items()}

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """Return the network for the bank and the names of its state."""
        return self.module, self.state

    def to_bank(self, state: State) -> State:
        """Convert a task's state for the bank."""
        return state

    def generator(self, what: str) -> torch.Generator:
        """Return a generator that depends on the seed and `what` only."""
        return torch.Generator().manual_seed(task_seed(self.recipe.seed, what))
