"""Small networks of every kind that `supsup_train.programs.programs` exports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from supsup_train.networks.models import Cnn, Mlp


class Pooled(nn.Module):
    """Grouped, depthwise and dilated convolutions, and all kinds of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, stride=2, groups=4)
        self.depthwise = nn.Conv2d(12, 24, 3, padding=2, dilation=2, groups=12)
        self.max_pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.avg_pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.head = nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.stem(x)), 2)
        x = self.max_pool(functional.silu(self.grouped(x)))
        x = self.avg_pool(torch.tanh(self.depthwise(x)))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Smooth(nn.Module):
    """LayerNorm and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 16)
        self.norm = nn.LayerNorm(16)
        self.second = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.norm(self.first(x)))
        x = x + functional.gelu(self.second(x), approximate="tanh")
        logits: Tensor = self.head(x)
        return logits


class Transformer(nn.Module):
    """A transformer block with `nn.MultiheadAttention`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        seen, _ = self.attention(x, x, x, need_weights=False)
        logits: Tensor = self.head(self.norm(x + seen).mean(1))
        return logits


class Attention(nn.Module):
    """`scaled_dot_product_attention`, causal and then with a mask."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(5, 3 * 8)
        self.head = nn.Linear(8, 6)
        self.register_buffer("mask", torch.eye(4, dtype=torch.bool).logical_not())

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.project(x).chunk(3, -1)
        )
        value = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        value = functional.scaled_dot_product_attention(query, key, value, self.mask)
        logits: Tensor = self.head(value.transpose(1, 2).flatten(2)[:, -1])
        return logits


class Recurrent(nn.Module):
    """A GRU or LSTM over the steps of ``x``, with logits from the last hidden state."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], *, both_ways: bool = False) -> None:
        super().__init__()
        self.cell = kind(5, 6, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(12 if both_ways else 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.cell(x)
        logits: Tensor = self.head(hidden[:, -1])
        return logits


class Signal(nn.Module):
    """One-dimensional convolutions, one of them transposed, batch-normalised with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm1d(6)
        self.up = nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Linear(4 * 10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.down(x)))
        x = functional.max_pool1d(functional.leaky_relu(self.up(x)), 2)
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Tied(nn.Module):
    """A network with an unused parameter, ``spare``."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3, 2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x)
        return logits


class NoForward(nn.Module):
    """A forward pass with eigenvalues, which ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x) * torch.linalg.eigvalsh(self.head.weight)
        return logits


class NoGradient(nn.Module):
    """A determinant, whose gradient needs the inverse, which ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x) * torch.linalg.det(self.head.weight)
        return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How to make a network, and its arguments of `export_programs`."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    real_outputs: int
    outputs: int


NETWORKS: dict[str, Network] = {
    "lenet": Network(
        make=lambda: Mlp([784, 300, 100, 15]), input_shape=(784,), real_outputs=10, outputs=15
    ),
    "fc": Network(
        make=lambda: Mlp([784, 1024, 1024, 20]), input_shape=(784,), real_outputs=10, outputs=20
    ),
    "cnn": Network(
        make=lambda: Cnn(3, 9, width=8), input_shape=(3, 12, 12), real_outputs=5, outputs=9
    ),
    "pooled": Network(make=Pooled, input_shape=(3, 33, 30), real_outputs=4, outputs=7),
    "smooth": Network(make=Smooth, input_shape=(10,), real_outputs=4, outputs=6),
    "transformer": Network(make=Transformer, input_shape=(4, 5), real_outputs=4, outputs=6),
    "attention": Network(make=Attention, input_shape=(4, 5), real_outputs=4, outputs=6),
    "gru": Network(make=lambda: Recurrent(nn.GRU), input_shape=(3, 5), real_outputs=3, outputs=5),
    "lstm": Network(
        make=lambda: Recurrent(nn.LSTM, both_ways=True),
        input_shape=(3, 5),
        real_outputs=3,
        outputs=5,
    ),
    "signal": Network(make=Signal, input_shape=(2, 20), real_outputs=3, outputs=5),
}


def make_network(name: str) -> nn.Module:
    """Make one of `NETWORKS`, with random tensors, running statistics and biases included."""
    torch.manual_seed(7)
    module = NETWORKS[name].make()
    for key, buffer in module.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_()
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return module
