"""Pictures that are not a task's, made of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def turned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each picture by 90, 180 or 270 degrees, or by 180 if it is not square.

    Args:
        x: ``(batch, channels, height, width)``.
        generator: Source of randomness.

    Returns:
        The same shape.
    """
    half = x.flip(2, 3)
    if x.shape[2] != x.shape[3]:
        return half
    quarters = torch.randint(3, (len(x), 1, 1, 1), generator=generator)
    quarter = x.transpose(2, 3).flip(2)
    return torch.where(quarters == 0, quarter, torch.where(quarters == 1, half, quarter.flip(2, 3)))


def shuffled(x: Tensor, generator: torch.Generator) -> Tensor:
    """Put the patches of each picture into another, random order.

    A patch's sides are a quarter of the picture's, rounded down, at least 1. What they leave over
    at the right and the bottom stays.

    Args:
        x: ``(batch, channels, height, width)``, of at least two pixels.
        generator: Source of randomness.

    Returns:
        The same shape.
    """
    batch, channels, *sides = x.shape
    high, wide = (max(1, side // 4) for side in sides)
    down, across = sides[0] // high, sides[1] // wide
    kept = x[:, :, : down * high, : across * wide]
    patches = kept.reshape(batch, channels, down, high, across, wide).transpose(3, 4).flatten(2, 3)
    order = torch.rand(batch, down * across, generator=generator).argsort(1)
    same = (order == torch.arange(down * across)).all(1, keepdim=True)
    order = torch.where(same, order.roll(1, 1), order)
    moved = patches[torch.arange(batch)[:, None], :, order].transpose(1, 2)
    y = x.clone()
    grid = moved.reshape(batch, channels, down, across, high, wide)
    y[:, :, : down * high, : across * wide] = grid.transpose(3, 4).reshape(kept.shape)
    return y
