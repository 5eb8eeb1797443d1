"""What the networks of the zoo are built of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

OUTPUTS = 7
REAL_OUTPUTS = 4


class Apply(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """``x + branch(x)``, or ``shortcut(x) + branch(x)``."""

    def __init__(self, *branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.shortcut(x) + self.branch(x)
        return total


class Joined(nn.Module):
    """Branches side by side, concatenated along an axis."""

    def __init__(self, *branches: nn.Module, axis: int = 1) -> None:
        super().__init__()
        self.branches, self.axis = nn.ModuleList(branches), axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], self.axis)


class Scale(nn.Module):
    """A learnt factor per channel, as LayerScale has."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full(shape, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ChannelsLast(nn.Module):
    """Layers over the last axis, of images with channels first."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.layers(x.permute(0, 2, 3, 1))
        return last.permute(0, 3, 1, 2)


class Squeeze(nn.Module):
    """Squeeze and excitation: a gate per channel from the mean of the image."""

    def __init__(self, channels: int, gate: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.relu(self.down(functional.adaptive_avg_pool2d(x, 1)))
        return x * self.gate(self.up(seen))


class Tokens(nn.Module):
    """Patches of an image as tokens, with a class token and positions if `positions`."""

    def __init__(self, width: int, patch: int = 4, *, positions: int = 0) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        if positions:
            self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.1)
            self.positions = nn.Parameter(torch.randn(1, positions + 1, width) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.patches(x).flatten(2).transpose(1, 2)
        if hasattr(self, "cls"):
            tokens = torch.cat([self.cls.expand(x.shape[0], -1, -1), tokens], 1) + self.positions
        return tokens


class SelfAttention(nn.Module):
    """Multi-head attention among tokens, written out."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = (
            self.project(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(seen.transpose(1, 2).reshape(batch, tokens, width))
        return out


def conv(
    before: int,
    after: int,
    size: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution that keeps the size, batch normalisation and an activation."""
    made = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(after, affine=False), *([act()] if act else []))


def head(channels: int) -> nn.Sequential:
    """The mean over an image, and logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, OUTPUTS))


def mlp(width: int, hidden: int) -> nn.Sequential:
    """The hidden layer of a transformer."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def mean_head(width: int) -> nn.Sequential:
    """The mean over tokens ``(batch, tokens, width)``, and logits."""
    return nn.Sequential(nn.LayerNorm(width), Apply(lambda x: x.mean(1)), nn.Linear(width, OUTPUTS))
