"""Random changes of a batch of pictures, as tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from supsup_runtime.errors import InputError

_PADDING = 4
_AREA = (0.08, 1.0)
_LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))


def augmented(x: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Change each picture of a batch at random.

    Args:
        x: ``float32 (batch, channels, height, width)``.
        kind: Changes, joined by a comma. ``crop``: 4 zeros are added on each side, then a window of
            the former size is cut out. ``resized``: 8 to 100 % of the picture, its sides in a ratio
            of 3/4 to 4/3 of the picture's and at most as long, becomes the picture, by bilinear
            sampling. ``flip``: half of the pictures are mirrored left to right.
        generator: Source of randomness.

    Returns:
        The same shape.
    """
    for change in kind.split(","):
        if change != "none":
            x = _CHANGES[change](x, generator)
    return x


def check_augmented(place: str, kind: str, input_shape: tuple[int, ...]) -> None:
    """Refuse to change what is no picture."""
    if kind != "none" and len(input_shape) != 3:
        raise InputError(
            f"{place}: augment {kind!r} needs inputs (channels, height, width), got shape "
            f"{input_shape}; use a model of pictures, or leave it out"
        )


def _crop(x: Tensor, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    windows = pad(x, [_PADDING] * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * _PADDING + 1, (2, len(x)), generator=generator)
    return windows[torch.arange(len(x)), :, top, left]


def _resized(x: Tensor, generator: torch.Generator) -> Tensor:
    area, ratio, across, down = torch.rand(4, len(x), generator=generator)
    area, ratio = _between(area, *_AREA), _between(ratio, *_LOG_RATIO).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    moves = torch.zeros(len(x), 2, 3)  # the picture's sides are from -1 to 1
    for axis, side, place in ((0, width, across), (1, height, down)):
        moves[:, axis, axis], moves[:, axis, 2] = side, _between(place, side - 1, 1 - side)
    grid = affine_grid(moves, list(x.shape), align_corners=False)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


def _between(share: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    return low + share * (high - low)


def _flip(x: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, x.flip(3), x)


_CHANGES = {"crop": _crop, "resized": _resized, "flip": _flip}
