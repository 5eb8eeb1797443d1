"""One module: trained, exported, and compared with what was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

import supsup_train
from supsup_export import Request, export
from supsup_export.checking import MOVED, nudged
from supsup_runtime import MaskBank, Model, load
from supsup_runtime.arrays import Array
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.data import TaskData
from supsup_runtime.errors import SupSupError
from supsup_train.networks.create_bank import fixed_copy
from zoo.parts import REAL_OUTPUTS

Verdict = Literal["one-shot", "forward alone", "refused", "differs", "broke"]
TOLERANCE = 1e-5
"""Of logits, relative to the largest; of accuracy and of entropy, in nats."""
SCORE_TOLERANCE = 1e-4
"""Of scores, relative to the largest or half the norm of all terms: gradients in float32."""
_TASKS, _TRAIN, _TEST = 3, 48, 24
Tensors = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a module.

    Attributes:
        verdict: ``one-shot`` and ``forward alone`` equal what was trained; ``refused`` before
            training, in one line; ``differs`` and ``broke`` are faults.
        reason: Message of a refusal or fault, or of the gradient's refusal.
        logits: Largest difference of logits, relative to the largest.
        scores: Largest difference of task scores, likewise.
    """

    verdict: Verdict
    reason: str = ""
    logits: float | None = None
    scores: float | None = None


def attempt(make: Callable[[], nn.Module], input_shape: tuple[int, ...], folder: Path) -> Outcome:
    """Train masks for a module in `folder`, export them, and compare."""
    torch.manual_seed(1)
    module = make()
    try:
        bank, reason = _created(folder, module, input_shape)
        if bank is None:
            return Outcome(verdict="refused", reason=reason)
        with torch.random.fork_rng():
            return _compared(bank, module, folder, reason)
    except Exception as error:  # noqa: BLE001 - a fault is an outcome
        line = " ".join(str(error).split())[:300]
        return Outcome(verdict="broke", reason=f"{type(error).__name__}: {line}")


def _created(
    folder: Path, module: nn.Module, input_shape: tuple[int, ...]
) -> tuple[MaskBank | None, str]:
    reason = ""
    for number, gradient in enumerate((True, False)):
        try:
            path = folder / f"masks-{number}"
            made = supsup_train.create_bank(
                path,
                module,
                input_shape=input_shape,
                real_outputs=REAL_OUTPUTS,
                require_gradient=gradient,
            )
        except SupSupError as error:
            reason = str(error)
        else:
            return made, reason
    return None, reason


def _compared(bank: MaskBank, module: nn.Module, folder: Path, reason: str) -> Outcome:
    for index in range(_TASKS):
        recipe = supsup_train.Recipe(steps=4, batch_size=16, learning_rate=1e-2)
        bank.add(supsup_train.train_task(bank, module, _data(bank, index), recipe=recipe))
    path = folder / "out.onnx"
    one_shot = bank.gradient is not None
    export(bank, path, request=Request(outputs=None if one_shot else ("logits",)))
    model = load(path)
    faults, worst = [], 0.0
    for index, task in enumerate(bank):
        data = _data(bank, index)
        weights = _weights(bank, task.name)
        tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
        want = _logits(module, tensors, torch.from_numpy(data.test_x)).detach().numpy()
        got = model.logits(data.test_x, index)
        single = np.concatenate([model.logits(data.test_x[i : i + 1], index) for i in range(3)])
        worst = max(worst, _apart(got, want), _apart(single, want[:3]))
        logs = torch.from_numpy(got).log_softmax(1)
        entropy = float(-(logs.exp() * logs).sum(1).mean())
        right = (got[:, :REAL_OUTPUTS].argmax(1) == data.test_y).mean()
        for name, value in (("entropy", entropy), ("accuracy", float(right))):
            if not abs(value - task.training[name]) <= TOLERANCE:
                faults.append(f"{name} {task.training[name]:.6f} became {value:.6f}")
    if not worst <= TOLERANCE:
        faults.insert(0, f"logits differ by {worst:.1e}")
    scores = None
    if one_shot:
        scores, moved = _score_error(bank, module, model)
        if not scores <= SCORE_TOLERANCE + MOVED * moved:
            faults.append(f"scores differ by {scores:.1e}")
    verdict: Verdict = "one-shot" if one_shot else "forward alone"
    if faults:
        verdict, reason = "differs", "; ".join(faults[:3])
    return Outcome(verdict=verdict, reason=reason, logits=worst, scores=scores)


def _data(bank: MaskBank, index: int) -> TaskData:
    rng = np.random.default_rng(index)
    x = rng.standard_normal((_TRAIN + _TEST, *bank.network.input_shape)).astype(np.float32)
    y = rng.integers(0, REAL_OUTPUTS, len(x))
    return TaskData(
        name=f"task-{index}",
        labels=tuple("abcd"),
        train_x=x[:_TRAIN],
        train_y=y[:_TRAIN],
        test_x=x[_TRAIN:],
        test_y=y[_TRAIN:],
    )


def _apart(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def _weights(bank: MaskBank, name: str) -> Tensors:
    """Return a task's tensors by name: masked weights and state."""
    task = bank.task(name)
    found = dict(task.state)
    for parameter, weight in zip(bank.network.parameters, bank.network.weights(), strict=True):
        found[parameter.name] = weight * unpack_mask(task.masks[parameter.name], parameter.shape)
    return found


def _logits(module: nn.Module, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    logits: Tensor = functional_call(fixed_copy(module).eval(), tensors, (x,))
    return logits


def _normalised(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.batch_norm` of the evaluation, with gradients by the statistics."""
    del training, momentum
    assert mean is not None
    assert var is not None
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = (x - mean.view(shape)) / (var.view(shape) + eps).sqrt()
    y = y * weight.view(shape) if weight is not None else y
    return y + bias.view(shape) if bias is not None else y


def _per_instance(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`functional.instance_norm` of the evaluation, with gradients by the statistics."""
    if use_input_stats:
        return torch.instance_norm(
            x, weight, bias, mean, var, use_input_stats, momentum, eps, cudnn_enabled=False
        )
    return _normalised(x, mean, var, weight, bias, eps=eps)


def _score_error(bank: MaskBank, module: nn.Module, model: Model) -> tuple[float, float]:
    """Compare one-shot's scores with autograd's, and these with those of nudged inputs."""
    x = _data(bank, 0).test_x[:5]
    tasks = [_weights(bank, task.name) for task in bank]
    mixed: Tensors = {
        name: np.asarray(np.mean([task[name] for task in tasks], 0, np.float32))
        for name in tasks[0]
    }
    want, scale = _scores(module, tasks, {"x": x, **mixed})
    moved, _ = _scores(module, tasks, nudged({"x": x, **mixed}))
    got = model.infer_task(x, method="one-shot").scores
    return np.abs(got - want).max() / scale, np.abs(moved - want).max() / scale


def _scores(module: nn.Module, tasks: list[Tensors], at: dict[str, Array]) -> tuple[Array, float]:
    """Return the scores of tasks by autograd, and their scale."""
    mixed = {key: torch.from_numpy(value).requires_grad_() for key, value in at.items()}
    x = mixed.pop("x").detach()
    with (
        mock.patch("torch.nn.functional.batch_norm", _normalised),
        mock.patch("torch.nn.functional.instance_norm", _per_instance),
    ):
        logits = _logits(module, mixed, x)
    stopped = torch.cat([logits[:, :REAL_OUTPUTS].detach(), logits[:, REAL_OUTPUTS:]], 1)
    slopes = torch.autograd.grad(
        stopped.logsumexp(1).mean(), [*mixed.values()], materialize_grads=True
    )
    pairs = list(zip(mixed, slopes, strict=True))
    terms = [[torch.from_numpy(task[key]) * slope for key, slope in pairs] for task in tasks]
    scores = np.array([-sum(float(each.sum()) for each in own) for own in terms])
    squares = max(sum(float(each.square().sum()) for each in own) for own in terms)
    return scores, max(np.abs(scores).max(), 0.5 * squares**0.5) or 1.0
