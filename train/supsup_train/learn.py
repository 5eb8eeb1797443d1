"""Learn the mask of one task: scores, a rule, the fixed weights, and an optimiser.

Nothing here depends on another task, so tasks can be learned in any order and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from supsup_runtime.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.network import Network
from supsup_runtime.streams import TaskData
from supsup_runtime.taskfile import TaskMasks, make_task
from supsup_train.network import check_module, fixed_copy, state_tensors
from supsup_train.rules import Rule

__all__ = ["OptimizerKind", "Recipe", "train_task"]

OptimizerKind = Literal["rmsprop", "adam", "sgd"]
Tensors = dict[str, Tensor]
Progress = Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a task is learned. The defaults are the paper's for PermutedMNIST.

    Attributes:
        rule: Scores to mask.
        steps: Batches.
        batch_size: Inputs a batch; all of them where there are fewer.
        optimizer: ``rmsprop``, ``adam``, or ``sgd`` with momentum 0.9.
        learning_rate: Constant.
        seed: Of scores and order of batches, together with the task's name.
    """

    rule: Rule = field(default_factory=Rule)
    steps: int = 1000
    batch_size: int = 128
    optimizer: OptimizerKind = "rmsprop"
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate: must be positive, got {self.learning_rate}")
        if self.optimizer not in get_args(OptimizerKind):
            raise InputError(
                f"optimizer: must be one of {list(get_args(OptimizerKind))}, got {self.optimizer!r}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Learning:
    """Everything a step needs; a step changes `scores`, trained state and running statistics."""

    module: nn.Module
    rule: Rule
    densities: dict[str, float]
    weights: Tensors
    scores: Tensors
    state: Tensors

    def masks(self) -> Tensors:
        return {
            name: self.rule.mask(scores, self.densities[name])
            for name, scores in self.scores.items()
        }

    def logits(self, x: Tensor) -> Tensor:
        masked = {
            name: self.rule.masked(weight, self.scores[name], self.densities[name])
            for name, weight in self.weights.items()
        }
        logits: Tensor = functional_call(self.module, {**masked, **self.state}, (x,))
        return logits


def train_task(
    bank: MaskBank,
    module: nn.Module,
    data: TaskData,
    *,
    recipe: Recipe | None = None,
    record: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> TaskMasks:
    """Learn one task's masks and state; the bank is not changed, add the result with `bank.add`.

    Args:
        bank: Made with `create_bank` of the same module.
        module: The network; its own weights are neither used nor changed.
        data: The task's name, label names and arrays: inputs ``float32 (images, *input_shape)``,
            labels ``int64 (images,)`` in ``[0, real_outputs)``. The test part may be empty;
            otherwise its accuracy goes into the task's training record.
        recipe: How to learn.
        record: Further JSON values for the training record.
        progress: Called after every step with the step's number and the batch's loss.

    Raises:
        InputError: If the data or the module do not fit the bank's network, or the loss stops
            being finite.
    """
    recipe = recipe or Recipe()
    _check_data(data.name, data.train_x, data.train_y, bank.network)
    if len(data.test_x):
        _check_data(f"{data.name} (test)", data.test_x, data.test_y, bank.network)
    generator = torch.Generator().manual_seed(_task_seed(recipe.seed, data.name))
    learning = _begin(bank.network, module, recipe.rule, generator)
    _fit(learning, data, recipe, generator, progress)
    with torch.no_grad():
        masks = learning.masks()
    training: dict[str, Any] = {"recipe": asdict(recipe), **(record or {})}
    if len(data.test_x):
        training["accuracy"] = _accuracy(learning, bank.network.real_outputs, data)
    return make_task(
        data.name,
        {name: mask.bool().numpy() for name, mask in masks.items()},
        state={name: value.detach().numpy() for name, value in learning.state.items()},
        labels=data.labels,
        training=training,
    )


def _begin(
    network: Network, module: nn.Module, rule: Rule, generator: torch.Generator
) -> _Learning:
    fixed = fixed_copy(module)
    check_module(fixed, network)
    names = [parameter.name for parameter in network.parameters]
    densities = rule.densities([parameter.shape for parameter in network.parameters])
    return _Learning(
        module=fixed,
        rule=rule,
        densities=dict(zip(names, densities, strict=True)),
        weights=dict(zip(names, map(torch.from_numpy, network.weights()), strict=True)),
        scores=_initial_scores(network, generator),
        state=state_tensors(fixed, network),
    )


def _fit(
    learning: _Learning,
    data: TaskData,
    recipe: Recipe,
    generator: torch.Generator,
    progress: Progress | None,
) -> None:
    parameters = dict(learning.module.named_parameters())
    trained = [v.requires_grad_() for name, v in learning.state.items() if name in parameters]
    optimizer = _optimizer(recipe, [*learning.scores.values(), *trained])
    inputs, targets = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    learning.module.train()
    for step, rows in enumerate(_batches(len(inputs), recipe, generator), start=1):
        loss = cross_entropy(learning.logits(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        if progress is not None:
            progress(step, loss.item())
    learning.module.eval()
    if not torch.isfinite(loss):
        raise InputError(
            f"task {data.name!r}: the last loss is {loss.item()}, it must be finite; "
            "lower the learning rate"
        )


def _accuracy(learning: _Learning, real_outputs: int, data: TaskData) -> float:
    """Fraction of the test images whose largest real output is the label."""
    inputs = torch.from_numpy(data.test_x)
    targets = torch.from_numpy(data.test_y)
    right = 0
    with torch.no_grad():
        for rows in torch.arange(len(inputs)).split(1000):  # type: ignore[no-untyped-call]  # torch
            logits = learning.logits(inputs[rows])[:, :real_outputs]
            right += int((logits.argmax(1) == targets[rows]).sum())
    return right / len(inputs)


def _initial_scores(network: Network, generator: torch.Generator) -> Tensors:
    """``U(-1, 1) / sqrt(fan_in)``: Kaiming's uniform with ``a = sqrt(5)``."""
    scores = {}
    for parameter in network.parameters:
        bound = 1 / np.sqrt(np.prod(parameter.shape[1:]))
        values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        scores[parameter.name] = values.requires_grad_()
    return scores


def _optimizer(recipe: Recipe, tensors: list[Tensor]) -> torch.optim.Optimizer:
    rate = recipe.learning_rate
    if recipe.optimizer == "adam":
        return torch.optim.Adam(tensors, lr=rate)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(tensors, lr=rate, momentum=0.9)
    return torch.optim.RMSprop(tensors, lr=rate)


def _batches(count: int, recipe: Recipe, generator: torch.Generator) -> Iterator[Tensor]:
    """Row indices of each step: shuffled epochs, an incomplete last batch left out."""
    size = min(recipe.batch_size, count)
    done = 0
    while done < recipe.steps:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            if done == recipe.steps:
                return
            yield order[start : start + size]
            done += 1


def _task_seed(seed: int, name: str) -> int:
    """A seed of the task's own, whatever the order in which tasks are learned."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch seeds are signed


def _check_data(
    place: str, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], network: Network
) -> None:
    shape = ", ".join(map(str, network.input_shape))
    if x.dtype != np.float32 or x.shape[1:] != network.input_shape or len(x) == 0:
        raise InputError(
            f"task {place}: x must be float32 (images, {shape}) with at least one image, "
            f"got {x.dtype} {x.shape}"
        )
    if not np.isfinite([x.min(), x.max()]).all():
        raise InputError(f"task {place}: x must be finite, got NaN or infinity")
    if y.dtype != np.int64 or y.shape != (len(x),):
        raise InputError(f"task {place}: y must be int64 ({len(x)},), got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= network.real_outputs:
        raise InputError(
            f"task {place}: labels must be in [0, {network.real_outputs}), "
            f"got {y.min()} to {y.max()}"
        )
