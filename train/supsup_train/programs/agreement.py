"""Checks, before training, that the programs compute what the module learns and answers.

Torch runs the module and the traced programs on a few rows, with random weights and with what two
training steps leave behind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from supsup_runtime.errors import SupSupError

REPLACE = "replace it in the module"
FORWARD_ALONE = (
    f"{REPLACE}, or pass require_gradient=False to write a bank with the forward program alone"
)
_ROWS = 4
# Rounding relative to the largest value: of the same operators on another number of rows, and of a
# backward pass by other operators. To it comes what 128 roundings of the input change; in a
# gradient, up to a limit, as much as in any: those that switch a unit of a deep network are few.
_LOGITS, _GRADIENTS, _MOVED, _SWITCHED = 2.0**-17, 2.0**-15, 2.0**-17, 2.0**-5


class ProgramError(SupSupError, ValueError):
    """Raised if a network cannot be exported; the message names the operator and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A copy of a module after two training steps, in eval mode, and its inputs.

    Attributes:
        module: The copy.
        x: ``float32 (rows, *input_shape)`` in [0, 0.9).
        moved: `x` with other roundings.
        free: Masked parameters, with random weights, and state as the steps left it.
        changed: Names of the other buffers that the steps changed, batch counters aside.
    """

    module: nn.Module
    x: Tensor
    moved: Tensor
    free: dict[str, Tensor]
    changed: list[str]

    def logits(self, x: Tensor, **other: Tensor) -> Tensor:
        """Run the module."""
        logits: Tensor = functional_call(self.module, {**self.free, **other}, (x,))
        return logits


def make_trial(module: nn.Module, input_shape: tuple[int, ...], free: Iterable[str]) -> Trial:
    """Take two training steps with a copy of the module, without learning."""
    trained = copy.deepcopy(module).train()
    own, buffers = dict(trained.named_parameters()), dict(trained.named_buffers())
    before = {name: value.detach().clone() for name, value in {**own, **buffers}.items()}
    inputs = {name: before[name].clone() for name in free}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        for name, value in inputs.items():
            if name in own and value.ndim > 1:  # zeros of the module would hide a difference
                nn.init.kaiming_normal_(value)
            value.requires_grad_(name in own)
        x = 0.9 * torch.rand(_ROWS, *input_shape)
        for step in range(2):
            torch.set_grad_enabled(step == 0)  # a buffer may keep the first step's graph
            logits = functional_call(trained, inputs, (x,))  # puts new buffers into `inputs`
            if not isinstance(logits, Tensor):
                kind = type(logits).__name__
                raise ProgramError(f"network: must return the logits alone in training, got {kind}")
            if logits.requires_grad:
                torch.autograd.backward(logits.sum())  # fails for operators without backward
    inputs = {name: value.detach() for name, value in inputs.items()}
    changed = [
        name
        for name, value in trained.named_buffers()
        if name not in inputs and not is_count(name) and not _same(value, before[name])
    ]
    moved = x + _MOVED * x.flip(0)
    return Trial(module=trained.eval(), x=x, moved=moved, free=inputs, changed=changed)


def is_count(name: str) -> bool:
    """Return whether a buffer only counts training batches."""
    return name.endswith("num_batches_tracked")


@torch.no_grad()
def check_logits(trial: Trial, program: Callable[..., Tensor], constants: list[Tensor]) -> None:
    """Refuse a module that answers otherwise than its program, or a row otherwise than alone."""
    x, last = trial.x, trial.x[-1:]
    many, again = trial.logits(x), trial.logits(x)
    alone = torch.cat([trial.logits(row) for row in torch.split(x, 1)])
    rounding = _LOGITS * _largest(many)
    tolerance = rounding + _largest(trial.logits(trial.moved) - many)
    tensors = [*trial.free.values(), *constants]
    reason = ""
    if not _same(again, many, rounding):
        reason = "the logits in eval mode differ from call to call; compute them from x with torch"
    elif not _same(alone, many, tolerance):
        reason = (
            "the logits of a row alone differ from those of the same row in a batch; replace "
            "statistics of the batch (as of BatchNorm with track_running_stats=False) and branches "
            "on its size"
        )
    elif not (
        _same(program(x, *tensors), many, tolerance)
        and _same(program(last, *tensors), alone[-1:], tolerance)
    ):
        reason = (
            "training changes what a bank does not store, such as "
            f"{trial.changed or 'attributes'}; keep it in float32 buffers named in state="
        )
    if reason:
        raise ProgramError(f"network: {reason}")


def check_gradients(
    trial: Trial,
    program: Callable[..., tuple[Tensor, ...]],
    constants: list[Tensor],
    cotangents: Callable[[Tensor], list[Tensor]],
) -> None:
    """Refuse a module whose gradients by autograd are not those of its program.

    Args:
        trial: The module.
        program: Maps ``x``, free tensors and constants to the gradients of the free tensors, for
            each cotangent.
        constants: Tensors that are not free, and literals.
        cotangents: Maps logits ``z`` to ``dO / dz`` of each objective.
    """
    own = dict(trial.module.named_parameters())
    learned = {name: value for name, value in trial.free.items() if name in own}
    found = program(trial.x, *trial.free.values(), *constants)
    names = [*trial.free] * (len(found) // len(trial.free))
    got = [value for name, value in zip(names, found, strict=True) if name in learned]
    wanted, near = (_gradients(trial, rows, learned, cotangents) for rows in (trial.x, trial.moved))
    sizes = [*map(_largest, wanted)]
    noise = _LOGITS * max(sizes, default=0)
    moves = [_largest(moved - theirs) for moved, theirs in zip(near, wanted, strict=True)]
    shares = [move / size for move, size in zip(moves, sizes, strict=True) if size > noise]
    switched = min(max(shares, default=0.0), _SWITCHED)
    for ours, theirs, move, size in zip(got, wanted, moves, sizes, strict=True):
        tolerance = noise + _GRADIENTS * size + max(move, switched * size)
        if not _same(ours, theirs, tolerance):
            _refuse("the program's gradient differs from that of autograd")


def _gradients(
    trial: Trial,
    x: Tensor,
    learned: dict[str, Tensor],
    cotangents: Callable[[Tensor], list[Tensor]],
) -> list[Tensor]:
    free = {name: value.detach().requires_grad_() for name, value in learned.items()}
    with torch.enable_grad(), _NoHooks():
        logits = trial.logits(x, **free)
    waiting: list[Any] = [logits.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [each for each, _ in node.next_functions]
            if isinstance(node, torch.autograd.function.BackwardCFunction):
                _refuse(f"custom autograd function {type(node).__name__.removesuffix('Backward')}")
    return [
        gradient
        for each in cotangents(logits.detach()) * bool(free)
        for gradient in torch.autograd.grad(
            logits, [*free.values()], each, retain_graph=True, materialize_grads=True
        )
    ]


class _NoHooks(TorchFunctionMode):
    """Refuses hooks on the gradients of tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's
        if func is Tensor.register_hook:
            _refuse("register_hook of a tensor")
        return func(*args, **(kwargs or {}))


def _refuse(what: str) -> NoReturn:
    raise ProgramError(f"network: {what} cannot be exported for one-shot; {FORWARD_ALONE}")


def _largest(values: Tensor) -> float:
    return float(values.nan_to_num(0, 0, 0).abs().max()) if values.numel() else 0.0


def _same(one: Tensor, two: Tensor, tolerance: float = 0.0) -> bool:
    alike = one.shape == two.shape and one.dtype == two.dtype
    return alike and torch.allclose(one, two, rtol=0, atol=tolerance, equal_nan=True)
