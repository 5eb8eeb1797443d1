"""Learn several tasks of one network at once, on a GPU or the CPU, by batched products."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from supsup_runtime.arrays import check_choice, check_kind, checked_whole
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError, SupSupError
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
from supsup_train.masks.train_task import batches, seeded
from supsup_train.resume import Progress

Precision = Literal["float32", "bfloat16"]
_DEVICE = re.compile(r"cpu|cuda(:\d{1,3})?")
_EVERY = 100
"""Steps between looks at the losses, which wait for the device."""
MAX_TASKS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What computes the learning of masks.

    Attributes:
        name: ``cpu``, ``cuda`` or ``cuda:N``.
        tasks: Tasks learned at once. Masks differ in few bits from those of one by one, because
            batched products round otherwise.
        precision: Of products; ``bfloat16`` is mixed precision: scores and optimizer stay
            ``float32``. A bank may mix devices and precisions; records of tasks tell them.

    Raises:
        InputError: If a setting is out of range.
    """

    name: str = "cpu"
    tasks: int = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_kind("device:", self.name, str, "a name")
        if not _DEVICE.fullmatch(self.name):
            raise InputError(f"device: must be cpu, cuda or cuda:N, got {self.name!r:.80}")
        checked_whole("tasks at once:", self.tasks, 1, MAX_TASKS)
        check_choice("precision:", self.precision, get_args(Precision))

    @property
    def is_plain(self) -> bool:
        """Whether tasks are learned one by one on the CPU, in float32."""
        return self == Device()

    def record(self) -> dict[str, Any]:
        """Return what the training record says of the device; nothing of the plain one."""
        if self.is_plain:
            return {}
        return {"device": self.name, "precision": self.precision, "tasks_at_once": self.tasks}

    def check(self) -> None:
        """Raise `InputError` unless PyTorch has the device."""
        if self.name == "cpu":
            return
        count, number = torch.cuda.device_count(), int(self.name.partition(":")[2] or 0)
        if number >= count:
            found = "no CUDA device" if not count else f"cuda:0 to cuda:{count - 1}"
            raise InputError(
                f"device: {self.name} must be one that PyTorch {torch.__version__} can use, found "
                f"{found}; use cpu, or install a PyTorch and a driver for CUDA"
            )


def fit_together(
    begun: Sequence[tuple[Learning, torch.Generator]],
    data: Sequence[TaskData],
    recipe: Recipe,
    device: Device,
    progress: Sequence[Progress],
) -> None:
    """Learn tasks at once; each draws its own batches, as one by one.

    Scores and state of each learning are those learned, at the end. The `progress` of each task
    gets its losses, those of `_EVERY` steps at a time.

    Raises:
        InputError: If a loss is not finite, the module cannot learn tasks at once, or the device
            fails.
    """
    by_size: dict[int, list[int]] = {}
    for number, each in enumerate(data):
        by_size.setdefault(min(recipe.batch_size, len(each.train_x)), []).append(number)
    for numbers in by_size.values():
        names = [data[number].name for number in numbers]
        place = f"tasks {names[0]!r} to {names[-1]!r}" if names[1:] else f"task {names[0]!r}"
        steps = _batches([data[n] for n in numbers], [begun[n] for n in numbers], recipe)
        try:
            with warnings.catch_warnings(), seeded(recipe, names[0]):
                # an operator that vmap runs task by task
                warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                group = _Group([begun[n][0] for n in numbers], recipe, device)
                group.learn(names, steps, [progress[n] for n in numbers])
        except SupSupError:
            raise
        except Exception as error:  # of torch: no memory, no device, vmap's refusals; of a module
            reason = str(error).strip().partition("\n")[0]
            remedy = "learn fewer at once (--vectorise), or --device cpu"
            if device.name == "cpu":
                remedy = "learn them one by one, without --vectorise and --precision"
            raise InputError(
                f"{place}: cannot be learned at once on {device.name}: {reason:.300}; the same "
                f"command resumes: {remedy}"
            ) from error


def _batches(
    data: Sequence[TaskData], begun: Sequence[tuple[Learning, torch.Generator]], recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs ``(tasks, batch, ...)`` and labels of each step."""
    each = [
        batches(of, recipe, generator, learning.negatives)
        for of, (learning, generator) in zip(data, begun, strict=True)
    ]
    for parts in zip(*each, strict=True):
        xs, ys = zip(*parts, strict=True)
        yield torch.stack(xs), torch.stack(ys)


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
        batches: Iterator[tuple[Tensor, Tensor]],
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
            name: self._rule.masked_at_once(weight, scores[name], self._densities[name])
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
            learning.seen = self._seen[number]  # what training must not have changed is checked
            for mine, stacked in ((learning.scores, self.scores), (learning.state, self.state)):
                for key, value in stacked.items():
                    mine[key].detach().copy_(value[number].detach())

    def _stacked(self, parts: Sequence[Mapping[str, Tensor]]) -> Tensors:
        return {
            key: torch.stack([part[key].detach() for part in parts]).to(self._device.name)
            for key in parts[0]
        }
