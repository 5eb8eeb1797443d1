"""Residual networks of the paper, without biases and with non-affine batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

Blocks = Callable[[int, int, int], "Block"]
"""Maps channels of the input, width and stride to a block."""


def convolution(channels: int, width: int, side: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution of odd `side` that keeps height and width but for its stride."""
    return nn.Conv2d(channels, width, side, stride=stride, padding=side // 2, bias=False)


class Block(nn.Module):
    """Convolutions, each normalised, with ReLU between them and after the sum with a shortcut.

    The shortcut is the input or, if the shape changes, a normalised 1 x 1 convolution.
    """

    def __init__(self, *convolutions: nn.Conv2d) -> None:
        super().__init__()
        channels, width = convolutions[0].in_channels, convolutions[-1].out_channels
        self.width = width
        stride = max(each.stride[0] for each in convolutions)
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(norm(each.out_channels) for each in convolutions)
        self.shortcut = nn.Sequential()
        if stride > 1 or channels != width:
            self.shortcut.extend((convolution(channels, width, 1, stride), norm(width)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, channels, height, width)`` to the same with the block's width."""
        y = x
        for place, (layer, normed) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = normed(layer(torch.relu(y) if place else y))
        return torch.relu(y + self.shortcut(x))


def norm(width: int) -> nn.BatchNorm2d:
    """Return a batch normalisation whose statistics alone are of the task."""
    return nn.BatchNorm2d(width, affine=False)


def basic(channels: int, width: int, stride: int) -> Block:
    """Return a block of two 3 x 3 convolutions."""
    return Block(convolution(channels, width, 3, stride), convolution(width, width, 3))


def bottleneck(channels: int, width: int, stride: int) -> Block:
    """Return a block of 1 x 1, 3 x 3 and 1 x 1 convolutions, with 4 times the width at its end."""
    return Block(
        convolution(channels, width, 1),
        convolution(width, width, 3, stride),
        convolution(width, 4 * width, 1),
    )


class ResNet(nn.Module):
    """A stem, stages of blocks, the mean over all positions, and a linear layer.

    Every stage but the first halves height and width and has twice the width of the one before.

    Args:
        stem: Convolution of the input.
        pool: Follows the stem, normalised, and its ReLU.
        block: `basic` or `bottleneck`.
        depths: Blocks of each stage.
        outputs: Number of logits.
    """

    def __init__(
        self, stem: nn.Conv2d, pool: nn.Module, block: Blocks, depths: Sequence[int], outputs: int
    ) -> None:
        super().__init__()
        self.stem, self.norm, self.pool = stem, norm(stem.out_channels), pool
        blocks = list(_stages(block, depths, stem.out_channels))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(blocks[-1].width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, channels, height, width)`` to ``float32 (batch, outputs)``."""
        if self.training:  # a third faster on CPUs
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.blocks(self.pool(torch.relu(self.norm(self.stem(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _stages(block: Blocks, depths: Sequence[int], width: int) -> Iterator[Block]:
    channels = width
    for stage, depth in enumerate(depths):
        for place in range(depth):
            made = block(channels, width << stage, 2 if stage and not place else 1)
            channels = made.width
            yield made


def gem_resnet18(channels: int, outputs: int) -> ResNet:
    """Return the ResNet-18 of GEM (Lopez-Paz and Ranzato 2017), for pictures of 32 x 32."""
    return ResNet(convolution(channels, 20, 3), nn.Identity(), basic, (2, 2, 2, 2), outputs)


def resnet_50(channels: int, outputs: int) -> ResNet:
    """Return the ResNet-50 (He et al. 2016), for pictures of about 224 x 224."""
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return ResNet(convolution(channels, 64, 7, 2), pool, bottleneck, (3, 4, 6, 3), outputs)


RESNETS = {"gem-resnet18": gem_resnet18, "resnet-50": resnet_50}
"""By the names of `make_model`."""
