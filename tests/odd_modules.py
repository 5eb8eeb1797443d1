"""Modules that train or answer in ways of their own, and a task for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.streams import TaskData


class Body(nn.Module):
    """Two layers with a function of the module and the hidden values between them."""

    mean: Any
    aside: Any
    steps: Any
    late: Any
    calls: Any
    start: Any

    def __init__(self, between: Callable[[Any, Tensor], Any], **own: object) -> None:
        super().__init__()
        self.first, self.between = nn.Linear(4, 16, bias=False), between
        self.head = nn.Linear(16, 3, bias=False)
        for name, value in own.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.between(self, self.first(x))))
        return logits


class Sign(torch.autograd.Function):
    """A straight-through activation."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return x.sign()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: ARG004 - as above
        return gradient


def sign(_module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    return Sign.apply(h)  # type: ignore[no-untyped-call]  # torch leaves it untyped


class Plain:
    """An attribute that torch does not know."""

    mean: ClassVar[object] = 0.0


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape) + 0.1 * torch.randn(shape))


def normed(**options: bool) -> nn.Module:
    layers = [nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, affine=False, **options)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 3, bias=False))


def hooked(_module: Body, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]  # torch
    return h


def moving(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        with torch.no_grad():
            module.mean.mul_(0.9).add_(0.1 * h.mean(0))
    return h - module.mean


def replaced(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        module.mean = 0.9 * module.mean + 0.1 * h.mean(0)
    return h - module.mean


def kept_aside(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        module.aside.mean = h.mean(0).detach()
    return h - module.aside.mean


def counted(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        module.steps += 1
    return h + 0.1 * module.steps


def late(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training and next(module.calls) >= 4:
        module.late += 1
    return h + module.late


def folder(path: Path, module: nn.Module, **options: Any) -> MaskBank:
    options = {"input_shape": (4,), "real_outputs": 2, **options}
    return st.create_bank(path / "bank", module, **options)


def noisy() -> TaskData:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    x = (rng.standard_normal((300, 4)) + y[:, None]).astype(np.float32)
    return TaskData(
        name="noisy",
        labels=("low", "high"),
        train_x=x[:100],
        train_y=y[:100],
        test_x=x[100:],
        test_y=y[100:],
    )


def trained(bank: MaskBank, module: nn.Module, **options: Any) -> TaskMasks:
    options = {"steps": 30, "learning_rate": 1e-2, "batch_size": 32, **options}
    return st.train_task(bank, module, noisy(), recipe=st.Recipe(**options))


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        module: nn.Module = weight_norm(nn.Linear(4, 3))
    return module


class Look(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.look, self.head = nn.Embedding(9, 8), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.look(x.clamp(0, 8).long()).flatten(1))
        return logits


class Steps(nn.Module):
    """A recurrent network, or its cell with an initial state of its own."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.head, self.start = part, nn.Linear(8, 3), table(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.part, nn.GRUCell):
            hidden = self.part(x, self.start.expand(x.shape[0], 8))
        else:
            hidden = self.part(x[:, :, None])[0][:, -1]
        logits: Tensor = self.head(hidden)
        return logits


class Tokens(nn.Module):
    """A transformer block with a class token, tables of positions, a temperature and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(1, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.token, self.places, self.temperature = table(1, 1, 8), table(1, 5, 8), table(1, 1)
        self.numbers, self.norm, self.scale = nn.Embedding(5, 8), nn.LayerNorm((5, 8)), table(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.enter(x[:, :, None])], 1)
        x = self.norm(x + self.places + self.numbers(torch.arange(5))) * self.temperature
        x = x + self.attention(x, x, x, need_weights=False)[0] * self.scale
        logits: Tensor = self.head(x[:, 0])
        return logits
