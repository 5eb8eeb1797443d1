"""Learn several tasks of one network at once, on a GPU or the CPU, by batched products."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from supsup_runtime.errors import InputError
from supsup_train.masks.device import Device
from supsup_train.masks.inputs import Batches, Inputs
from supsup_train.masks.learning import (
    ROWS,
    Learning,
    Tensors,
    loss_of,
    make_optimizer,
    make_schedule,
)
from supsup_train.masks.own_statistics import own_statistics
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import seeded
from supsup_train.resume import Progress

Begun = tuple[Learning, torch.Generator]
"""Training state of a task, and its random numbers."""
_EVERY = 100
"""Steps between looks at the losses, which wait for the device."""


def fit_together(
    begun: Mapping[int, Begun],
    inputs: Inputs,
    recipe: Recipe,
    device: Device,
    progress: Sequence[Progress],
) -> None:
    """Learn tasks at once; each draws its own batches, as one by one.

    Scores and state of each learning are those learned, at the end. The `progress` of each task
    gets its losses, those of `_EVERY` steps at a time.

    Raises:
        InputError: If a loss is not finite.
    """
    for numbers in inputs.groups(recipe):
        names = [inputs.data[number].name for number in numbers]
        draws = [(n, begun[n][1], begun[n][0].negatives) for n in numbers]
        steps = inputs.batches(draws, recipe)
        with warnings.catch_warnings(), seeded(recipe, names[0]):
            # an operator that vmap runs task by task
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            group = _Group([begun[n][0] for n in numbers], recipe, device)
            group.learn(names, steps, [progress[n] for n in numbers])


class _Group:
    """The scores and state of some tasks, stacked on a device."""

    def __init__(self, learnings: list[Learning], recipe: Recipe, device: Device) -> None:
        self._learnings, self._device = learnings, device
        first = learnings[0]
        self._module: nn.Module = first.module.to(device.name)
        self._rule, self._densities = recipe.rule, first.densities
        self._real_outputs = first.network.real_outputs
        self._weights = {key: value.to(device.name) for key, value in first.weights.items()}
        self.scores = self._stacked([each.scores for each in learnings])
        self.state = self._stacked([each.state for each in learnings])
        trained = [v for k, v in self.state.items() if first.state[k].requires_grad]
        learned = [*self.scores.values(), *trained]
        for value in learned:
            value.requires_grad_()
        self._optimizer = make_optimizer(recipe, learned or [torch.zeros(0)])
        self._schedule = make_schedule(recipe, self._optimizer)

    def learn(
        self,
        names: Sequence[str],
        batches: Batches,
        progress: Sequence[Progress],
    ) -> None:
        """Take a step with each batch."""
        waiting: list[Tensor] = []
        number = 0
        for number, (x, y) in enumerate(batches, start=1):
            self._seen = x[:, :ROWS]
            waiting.append(self._step(x.to(self._device.name), y.to(self._device.name)))
            if len(waiting) == _EVERY:
                self._look(names, number, waiting, progress)
        self._look(names, number, waiting, progress)
        self._give_back()

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        losses, state = vmap(self._loss, randomness="different")(self.scores, self.state, x, y)
        self._optimizer.zero_grad()
        if losses.requires_grad:
            losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimizer.step()
        if self._schedule is not None:
            self._schedule.step()
        for key, value in state.items():
            if not self.state[key].requires_grad:
                self.state[key] = value.detach()
        return losses.detach()

    def _loss(
        self, scores: Tensors, state: Tensors, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensors]:
        """Return the loss of one task, and its state with new running statistics."""
        masked = {
            name: self._rule.masked(weight, scores[name], self._densities[name])
            for name, weight in self._weights.items()
        }
        values = {**masked, **state}
        kind = getattr(torch, self._device.precision)
        device = self._device.name.partition(":")[0]
        precise = torch.autocast(device, dtype=kind, enabled=kind != torch.float32)
        with precise, own_statistics(len(y), len(x)):
            logits = functional_call(self._module, values, (x,))
        loss = loss_of(logits.float(), y, self._real_outputs)
        return loss, {name: values[name] for name in state}

    def _look(
        self,
        names: Sequence[str],
        number: int,
        waiting: list[Tensor],
        progress: Sequence[Progress],
    ) -> None:
        """Refuse losses ``(tasks,)`` that are not finite, and report them."""
        for step, losses in enumerate(waiting, start=number + 1 - len(waiting)):
            for name, loss, show in zip(names, losses.tolist(), progress, strict=True):
                if not isfinite(loss):
                    raise InputError(
                        f"task {name!r}, step {step}: the loss must be finite, got {loss}; lower "
                        "the learning rate"
                    )
                show(step, loss)
        waiting.clear()

    def _give_back(self) -> None:
        self._module.to("cpu")
        for number, learning in enumerate(self._learnings):
            # by these rows, what training must not have changed is checked
            learning.seen = self._seen[number].cpu()
            for mine, stacked in ((learning.scores, self.scores), (learning.state, self.state)):
                for key, value in stacked.items():
                    mine[key].detach().copy_(value[number].detach())

    def _stacked(self, parts: Sequence[Mapping[str, Tensor]]) -> Tensors:
        return {
            key: torch.stack([part[key].detach() for part in parts]).to(self._device.name)
            for key in parts[0]
        }
