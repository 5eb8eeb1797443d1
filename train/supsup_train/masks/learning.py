"""The training state of one task and its optimisation step."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from math import cos, isfinite, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from supsup_runtime.arrays import Floats
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.bank.task_tensors import rounded_state
from supsup_runtime.errors import InputError, SupSupError
from supsup_train.masks.negatives import TaskNegatives
from supsup_train.masks.own_statistics import own_statistics
from supsup_train.masks.recipe import Recipe, ScoreInit
from supsup_train.networks.create_bank import check_module, copy_for, tensors_of

Tensors = dict[str, Tensor]
ROWS = 4
"""Of the last batch, to see whether training changed what a bank does not store."""


class Learning:
    """Trains one task.

    Attributes:
        network: The network.
        module: A copy of its module, which tasks that are learned at once share.
        scores: ``float32 shape`` by parameter.
        state: Tensors by name; those that are parameters of the module are trained.
        weights: The fixed weights, ``float32 shape`` by parameter.
        densities: For top-k, the fraction of weights to keep, by parameter.
        seen: The first rows of the last batch.
        negatives: What is not the task's, or None.
        optimizer: Optimizer of scores and trained state.
    """

    def __init__(
        self,
        network: Network,
        module: nn.Module,
        recipe: Recipe,
        scores: Tensors,
        beside: Learning | None = None,
    ) -> None:
        """Copy the module, its state and the scores; what is fixed is shared with `beside`."""
        if beside is None:
            self.module = copy_for(network, module).train()
            self._untrained = copy_for(network, module).eval()
            check_module(self.module, network)
            names = [parameter.name for parameter in network.parameters]
            self.weights = dict(zip(names, map(torch.from_numpy, network.weights()), strict=True))
        else:
            self.module, self._untrained = beside.module, beside._untrained  # noqa: SLF001 - of the class
            self.weights = beside.weights
        self.seen: Tensor | None = None
        self.negatives: TaskNegatives | None = None
        self.network = network
        self._rule = recipe.rule
        densities = recipe.rule.densities([parameter.shape for parameter in network.parameters])
        self.densities = dict(zip(self.weights, densities, strict=True))
        self.scores = {name: value.clone().requires_grad_() for name, value in scores.items()}
        tensors, parameters = tensors_of(self.module), dict(self.module.named_parameters())
        self.state = {each.name: tensors[each.name].detach().clone() for each in network.state}
        self._buffers = [name for name in self.state if name not in parameters]
        trained = [v.requires_grad_() for name, v in self.state.items() if name in parameters]
        # torch refuses no tensors, as of tasks that differ in running statistics alone
        learned = [*self.scores.values(), *trained] or [torch.zeros(0)]
        self.optimizer = make_optimizer(recipe, learned)
        self._schedule = make_schedule(recipe, self.optimizer)

    def masks(self) -> Tensors:
        """Return the current masks by name, ``float32`` zeros and ones."""
        return {
            name: self._rule.mask(scores, self.densities[name])
            for name, scores in self.scores.items()
        }

    def stored_state(self, place: str) -> dict[str, Floats]:
        """Return a copy of the state as the bank gives it back, ``float32 shape`` by name."""
        state = {key: value.detach().numpy().copy() for key, value in self.state.items()}
        return rounded_state(state, self.network, place)

    def to_task(
        self, name: str, training: Mapping[str, Any], *, labels: tuple[str, ...] = ()
    ) -> TaskMasks:
        """Return the task with its training record; refuse what is not finite or not stored."""
        check_learned(name, self.optimizer)
        self._check_stored(f"task {name!r}")
        with torch.no_grad():
            masks = {key: mask.bool().numpy() for key, mask in self.masks().items()}
        state = self.stored_state(f"task {name!r}")
        return make_task(name, masks, state=state, labels=labels, training=training)

    @torch.no_grad()
    def trained(self, place: str, device: str = "cpu") -> Callable[[Tensor], Tensor]:
        """Return what computes logits on a device, by the current masks and state as stored."""
        module, state = self.module.eval(), self.stored_state(place)
        own = {key: self.weights[key] * mask for key, mask in self.masks().items()}
        own |= {key: torch.from_numpy(value) for key, value in state.items()}
        values = {k: v.to(device) for k, v in {**tensors_of(module), **own}.items()}
        return lambda x: functional_call(module, dict(values), (x.to(device),))

    def step(self, place: str, x: Tensor, y: Tensor) -> float:
        """Train on one batch and return its loss; `place` starts error messages.

        Rows of `x` after those of `y` are negatives.
        """
        logits = logits_of(place, partial(self._run, self.module, own=len(y)), x, len(y))
        loss = descend(place, loss_of(logits, y, self.network.real_outputs), self.optimizer)
        if self._schedule is not None:
            self._schedule.step()
        is_first, self.seen = self.seen is None, x[: min(ROWS, len(y))]
        if is_first:
            self._check_stored(place)
        return loss

    @torch.no_grad()
    def check_own(self, place: str, own: Tensor) -> None:
        """Refuse a module in which negatives change logits or state of a task's own images."""
        kept, found = self.state, []
        module = copy.deepcopy(self.module)
        for factor in (0.0, 2.0):
            self.state = {name: value.clone() for name, value in kept.items()}
            x = torch.cat([own, factor * own[:2] + factor])
            with torch.random.fork_rng(devices=[]):  # the same dropout
                logits = logits_of(place, partial(self._run, module, own=len(own)), x, len(own))
            found.append({"logits": logits[: len(own)], **self.state})
        self.state = kept
        for name, one in found[0].items():
            tolerance = 1e-5 * float(one.abs().max())
            if not torch.allclose(found[1][name], one, rtol=0, atol=tolerance, equal_nan=True):
                raise InputError(
                    f"{place}: negatives in a batch change {name!r} of its other images, by more "
                    "than nn.BatchNorm does; use that, or no negatives (--negatives none)"
                )

    def _run(self, module: nn.Module, x: Tensor, own: int | None = None) -> Tensor:
        masked = {
            name: self._rule.masked(weight, self.scores[name], self.densities[name])
            for name, weight in self.weights.items()
        }
        values = {**masked, **self.state}
        with own_statistics(len(x) if own is None else own, len(x)):
            logits: Tensor = functional_call(module, values, (x,))  # puts buffers into `values`
        self.state |= {name: values[name].detach() for name in self._buffers}
        return logits

    @torch.no_grad()
    def _check_stored(self, place: str) -> None:
        """Refuse a module in which training changes more than masks and state."""
        if self.seen is None:
            return
        was_training = self.module.training
        got = self._run(self.module.eval(), self.seen)
        self.module.train(was_training)
        wanted = self._run(self._untrained, self.seen)
        tolerance = 1e-5 * float(wanted.abs().max())  # the same operators on the same rows
        if not torch.allclose(got, wanted, rtol=0, atol=tolerance, equal_nan=True):
            before, after = dict(self._untrained.named_buffers()), dict(self.module.named_buffers())
            changed = [n for n in after if n not in self.state and not after[n].equal(before[n])]
            raise InputError(
                f"{place}: training changes what the bank does not store, such as "
                f"{changed or 'attributes'}; keep it in float32 buffers named in state="
            )


def initial_scores(
    network: Network, generator: torch.Generator, kind: ScoreInit = "uniform"
) -> Tensors:
    """Return zeros, or draws from ``U(-1, 1) / sqrt(fan_in)``: Kaiming's with ``a = sqrt(5)``."""
    if kind == "zeros":
        return {parameter.name: torch.zeros(parameter.shape) for parameter in network.parameters}
    scores = {}
    for parameter in network.parameters:
        bound = score_bound(parameter.shape)
        values = torch.empty(parameter.shape)
        scores[parameter.name] = values.uniform_(-bound, bound, generator=generator)
    return scores


def score_bound(shape: tuple[int, ...]) -> float:
    """Return ``1 / sqrt(fan_in)`` of a weight ``(out, in, ...)``."""
    return float(1 / np.sqrt(np.prod(shape[1:])))


def logits_of(
    place: str, forward: Callable[[Tensor], Tensor], x: Tensor, own: int | None = None
) -> Tensor:
    """Return the logits of a training batch; any error of a module is an InputError."""
    try:
        return forward(x)
    except SupSupError:
        raise
    except Exception as error:  # a module may raise any
        reason, remedy = str(error).strip().partition("\n")[0], "mend the module"
        if (len(x) if own is None else own) == 1:
            reason, remedy = f"from a batch of 1: {reason}", "use a larger batch"
        raise InputError(f"{place}: the module cannot learn {reason}; {remedy}") from error


def loss_of(logits: Tensor, labels: Tensor, real_outputs: int) -> Tensor:
    """Return the loss of a batch: the cross entropy of images, plus that of negatives.

    Negatives are the rows after those of the labels. Theirs is the mean of ``-log`` of the
    probability of the outputs from `real_outputs` on: ``logsumexp(z) - logsumexp(z[superfluous])``.
    """
    loss = cross_entropy(logits[: len(labels)], labels)
    if len(logits) > len(labels):
        z = logits[len(labels) :]
        loss = loss + (z.logsumexp(1) - z[:, real_outputs:].logsumexp(1)).mean()
    return loss


def descend(place: str, loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Take an optimizer step on the loss of a batch, if finite, and return it."""
    value = loss.item()
    if not isfinite(value):
        raise InputError(f"{place}: the loss must be finite, got {value}; lower the learning rate")
    optimizer.zero_grad()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        optimizer.step()
    except RuntimeError as error:  # of a rate beyond float32
        raise InputError(f"{place}: cannot learn: {error}; lower the learning rate") from error
    return value


def check_learned(name: str, optimizer: torch.optim.Optimizer) -> None:
    """Refuse learned tensors that are not finite, which a loss may not show."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise InputError(
            f"task {name!r}: learned values must be finite, got NaN or infinity after the last "
            "step; lower the learning rate"
        )


def make_optimizer(recipe: Recipe, tensors: list[Tensor]) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(tensors, lr=rate, weight_decay=decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(tensors, lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.RMSprop(tensors, lr=rate, weight_decay=decay)


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """Make the learning rate schedule of a recipe; None if it is constant."""
    warmup, cosine = recipe.warmup, recipe.schedule == "cosine"
    if not warmup:  # torch's cosine rounds otherwise, and earlier masks must come out again
        return CosineAnnealingLR(optimizer, T_max=recipe.steps) if cosine else None

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + cos(pi * (step - warmup) / (recipe.steps - warmup))) / 2 if cosine else 1.0

    return LambdaLR(optimizer, factor)


def task_seed(seed: int, name: str) -> int:
    """Derive the seed of a task, independent of the order of tasks."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch seeds are signed
