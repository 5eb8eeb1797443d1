"""Operators of the zoo that are layers or take images, with the shape of one input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.parts import Apply

ROWS, IMAGE, VOLUME = (4, 6), (3, 6, 6), (2, 4, 4, 4)
Layers = dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]


class _First(nn.Module):
    """The first output of a layer that returns several, given the same input several times."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(*[x] * self.times)
        first: Tensor = found[0] if isinstance(found, tuple) else found
        return first


class _Cell(nn.Module):
    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell(x[:, 0])
        state = self.cell(x[:, 1], state)
        hidden: Tensor = state[0] if isinstance(state, tuple) else state
        return hidden


def _words(layer: nn.Module) -> nn.Module:
    return nn.Sequential(Apply(lambda h: (h.flatten(1) * 4).abs().long().clamp(max=9)), layer)


def _sampled(h: Tensor, **options: object) -> Tensor:
    grid = torch.tanh(h.permute(0, 2, 3, 1)[..., :2])
    return functional.grid_sample(h, grid, align_corners=False, **options)  # type: ignore[arg-type]


def _affine(h: Tensor) -> Tensor:
    grid = functional.affine_grid(h[:, :2, 0, :3], [h.shape[0], 1, 4, 4], align_corners=False)
    return grid.flatten(1)


def _unpooled(h: Tensor) -> Tensor:
    peaks, places = functional.max_pool2d(h, 2, return_indices=True)
    return functional.max_unpool2d(peaks, places, [2, 2])


_IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "affine_grid": _affine,
    "adaptive_avg_pool2d": lambda h: functional.adaptive_avg_pool2d(h, (4, 3)),
    "adaptive_max_pool2d": lambda h: functional.adaptive_max_pool2d(h, (4, 3)),
    "adaptive_max_pool2d (1)": lambda h: functional.adaptive_max_pool2d(h, 1),
    "avg_pool2d": lambda h: functional.avg_pool2d(h, 3, 2, 1),
    "avg_pool2d (divisor)": lambda h: functional.avg_pool2d(h, 2, divisor_override=3),
    "avg_pool2d (ceil)": lambda h: functional.avg_pool2d(h, 4, 4, ceil_mode=True),
    "dropout2d left on": lambda h: functional.dropout2d(h, training=True),
    "fold": lambda h: functional.fold(functional.unfold(h, 2), 6, 2),
    "grid_sample": _sampled,
    "grid_sample (border)": partial(_sampled, padding_mode="border"),
    "grid_sample (nearest)": partial(_sampled, mode="nearest"),
    "interpolate (area)": lambda h: functional.interpolate(h, (3, 3), mode="area"),
    "interpolate (bicubic)": lambda h: functional.interpolate(h, scale_factor=2, mode="bicubic"),
    "interpolate (bilinear)": lambda h: functional.interpolate(h, scale_factor=2, mode="bilinear"),
    "interpolate (bilinear, corners)": lambda h: functional.interpolate(
        h, (9, 11), mode="bilinear", align_corners=True
    ),
    "interpolate (antialias)": lambda h: functional.interpolate(
        h, (3, 4), mode="bilinear", antialias=True
    ),
    "interpolate (nearest)": lambda h: functional.interpolate(h, scale_factor=2),
    "interpolate (nearest, size)": lambda h: functional.interpolate(h, (9, 4)),
    "interpolate (nearest-exact)": lambda h: functional.interpolate(
        h, (9, 4), mode="nearest-exact"
    ),
    "local_response_norm": lambda h: functional.local_response_norm(h, 3),
    "lp_pool2d": lambda h: functional.lp_pool2d(h.abs() + 0.1, 2, 2),
    "max_pool2d": lambda h: functional.max_pool2d(h, 3, 2, 1),
    "max_pool2d (ceil)": lambda h: functional.max_pool2d(h, 4, 4, ceil_mode=True),
    "max_pool2d (dilated)": lambda h: functional.max_pool2d(h, 2, 1, dilation=2),
    "max_unpool2d": _unpooled,
    "pad2d (reflect)": lambda h: functional.pad(h, (1, 2, 3, 1), mode="reflect"),
    "pad2d (circular)": lambda h: functional.pad(h, (1, 2, 3, 1), mode="circular"),
    "pixel_shuffle": lambda h: functional.pixel_shuffle(h.reshape(h.shape[0], 12, 3, 3), 2),
    "pixel_unshuffle": lambda h: functional.pixel_unshuffle(h, 2),
    "unfold": lambda h: functional.unfold(h, 3, stride=2, padding=1),
}
_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "adaptive_avg_pool1d": lambda h: functional.adaptive_avg_pool1d(h, 4),
    "adaptive_max_pool1d": lambda h: functional.adaptive_max_pool1d(h, 4),
    "avg_pool1d": lambda h: functional.avg_pool1d(h, 2),
    "interpolate (linear)": lambda h: functional.interpolate(h, 9, mode="linear"),
    "max_pool1d": lambda h: functional.max_pool1d(h, 3, 2),
}
_VOLUMES: dict[str, Callable[[Tensor], Tensor]] = {
    "adaptive_avg_pool3d": lambda h: functional.adaptive_avg_pool3d(h, (3, 2, 2)),
    "adaptive_max_pool3d": lambda h: functional.adaptive_max_pool3d(h, 2),
    "avg_pool3d": lambda h: functional.avg_pool3d(h, 2),
    "interpolate (trilinear)": lambda h: functional.interpolate(
        h, scale_factor=2, mode="trilinear"
    ),
    "max_pool3d": lambda h: functional.max_pool3d(h, 2),
}


def _apply(functions: dict[str, Callable[[Tensor], Tensor]], shape: tuple[int, ...]) -> Layers:
    return {name: (partial(Apply, function), shape) for name, function in functions.items()}


def _normed(layer: nn.Module) -> nn.Module:
    normed: nn.Module = nn.utils.parametrizations.weight_norm(layer)
    return normed


LAYERS: Layers = {
    **_apply(_IMAGES, IMAGE),
    **_apply(_ROWS, ROWS),
    **_apply(_VOLUMES, VOLUME),
    "AlphaDropout": (nn.AlphaDropout, ROWS),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), ROWS),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), IMAGE),
    "BatchNorm2d (batch alone)": (lambda: nn.BatchNorm2d(3, track_running_stats=False), IMAGE),
    "Bilinear": (lambda: _First(nn.Bilinear(6, 6, 5), 2), ROWS),
    "Conv1d": (lambda: nn.Conv1d(4, 5, 3), ROWS),
    "Conv1d (circular)": (lambda: nn.Conv1d(4, 5, 3, padding=1, padding_mode="circular"), ROWS),
    "Conv1d (same)": (lambda: nn.Conv1d(4, 5, 4, padding="same"), ROWS),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, 2, 1), IMAGE),
    "Conv2d (depthwise)": (lambda: nn.Conv2d(3, 6, 3, groups=3), IMAGE),
    "Conv2d (dilated)": (lambda: nn.Conv2d(3, 4, 2, dilation=2), IMAGE),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), VOLUME),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 3, 3, 2), ROWS),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), IMAGE),
    "ConvTranspose2d (groups)": (lambda: nn.ConvTranspose2d(3, 6, 2, groups=3), IMAGE),
    "Dropout": (nn.Dropout, ROWS),
    "Dropout2d": (nn.Dropout2d, IMAGE),
    "Embedding": (lambda: _words(nn.Embedding(10, 3)), ROWS),
    "EmbeddingBag (max)": (lambda: _words(nn.EmbeddingBag(10, 5, mode="max")), ROWS),
    "EmbeddingBag (mean)": (lambda: _words(nn.EmbeddingBag(10, 5)), ROWS),
    "EmbeddingBag (sum)": (lambda: _words(nn.EmbeddingBag(10, 5, mode="sum")), ROWS),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), ROWS),
    "GRU": (lambda: _First(nn.GRU(6, 4, batch_first=True)), ROWS),
    "GRUCell": (lambda: _Cell(nn.GRUCell(6, 5)), ROWS),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4), ROWS),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), IMAGE),
    "InstanceNorm1d (running)": (lambda: nn.InstanceNorm1d(4, track_running_stats=True), ROWS),
    "LayerNorm": (lambda: nn.LayerNorm(6), ROWS),
    "LayerNorm (2 axes)": (lambda: nn.LayerNorm((4, 6)), ROWS),
    "LSTM": (lambda: _First(nn.LSTM(6, 4, batch_first=True)), ROWS),
    "LSTM (projected)": (lambda: _First(nn.LSTM(6, 4, proj_size=2, batch_first=True)), ROWS),
    "LSTMCell": (lambda: _Cell(nn.LSTMCell(6, 5)), ROWS),
    "MultiheadAttention": (
        lambda: _First(nn.MultiheadAttention(6, 2, batch_first=True), 3),
        ROWS,
    ),
    "PReLU": (lambda: nn.PReLU(4), ROWS),
    "RMSNorm": (lambda: nn.RMSNorm(6), ROWS),
    "RNN": (lambda: _First(nn.RNN(6, 4, batch_first=True)), ROWS),
    "RNN (relu)": (lambda: _First(nn.RNN(6, 4, batch_first=True, nonlinearity="relu")), ROWS),
    "RNNCell": (lambda: _Cell(nn.RNNCell(6, 5)), ROWS),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), ROWS),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 5)), ROWS),
    "weight_norm": (lambda: _normed(nn.Linear(6, 5)), ROWS),
    "weight_norm (convolution)": (lambda: _normed(nn.Conv2d(3, 4, 3)), IMAGE),
    "TransformerDecoderLayer": (
        lambda: _First(nn.TransformerDecoderLayer(6, 2, 8, batch_first=True), 2),
        ROWS,
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
        ROWS,
    ),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), IMAGE),
}
