"""Networks of the zoo: those over images, and more."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.images import IMAGES
from zoo.parts import OUTPUTS, Apply, Joined, Residual, SelfAttention, Squeeze, conv, head, mlp

PICTURE, STEPS, WORDS, FLAT = (3, 16, 16), (8, 5), (10,), (12,)


class _Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bottom = conv(3, 6), conv(6, 8), conv(8, 8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.joined, self.head = conv(16, 8), head(14)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(functional.max_pool2d(first, 2))
        bottom = self.bottom(functional.max_pool2d(second, 2))
        up = self.joined(torch.cat([self.up(bottom), second], 1))
        up = functional.interpolate(up, scale_factor=2, mode="nearest")
        logits: Tensor = self.head(torch.cat([up, first], 1))
        return logits


def inception() -> nn.Module:
    def block(channels: int) -> nn.Module:
        small, large = nn.Sequential(conv(channels, 4, 1), conv(4, 4)), conv(channels, 4, 5)
        return Joined(
            conv(channels, 4, 1),
            small,
            large,
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(channels, 4, 1)),
        )

    return nn.Sequential(conv(3, 8, stride=2), block(8), nn.MaxPool2d(3, 2, 1), block(16), head(16))


def ghostnet() -> nn.Module:
    def ghost(before: int, after: int) -> nn.Module:
        half = after // 2
        cheap = Joined(nn.Identity(), conv(half, half, groups=half))
        return nn.Sequential(conv(before, half, 1), cheap)

    block = Residual(ghost(8, 16), Squeeze(16, functional.hardsigmoid), ghost(16, 8))
    return nn.Sequential(conv(3, 8, stride=2), block, head(8))


def regnet() -> nn.Module:
    def block(before: int, after: int) -> nn.Module:
        body = conv(before, after, 1), conv(after, after, stride=2, groups=after // 4)
        end = Squeeze(after), conv(after, after, 1, act=None)
        return Residual(*body, *end, shortcut=conv(before, after, 1, stride=2, act=None))

    return nn.Sequential(conv(3, 8), block(8, 8), nn.ReLU(), block(8, 16), nn.ReLU(), head(16))


class _Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-4)
        return functional.conv2d(x, weight / self.weight[0].numel() ** 0.5, self.bias, padding=1)


def nfnet() -> nn.Module:
    act = Apply(lambda x: functional.gelu(x) * 1.7)
    block = Residual(act, _Standardised(8, 8, 3), act, _Standardised(8, 8, 3), Squeeze(8))
    return nn.Sequential(_Standardised(3, 8, 3), block, nn.AvgPool2d(2), act, head(8))


def senet() -> nn.Module:
    block = Residual(conv(8, 8), conv(8, 8, act=None), Squeeze(8))
    return nn.Sequential(conv(3, 8, stride=2), block, nn.ReLU(), head(8))


class _Cbam(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        mean, peak = functional.adaptive_avg_pool2d(x, 1), functional.adaptive_max_pool2d(x, 1)
        gate = self.shared(mean.flatten(1)) + self.shared(peak.flatten(1))
        x = x * torch.sigmoid(gate)[:, :, None, None]
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.spatial(seen))


def cbam() -> nn.Module:
    return nn.Sequential(conv(3, 8, stride=2), Residual(conv(8, 8), _Cbam(8)), nn.ReLU(), head(8))


class _Recurrent(nn.Module):
    def __init__(self, cell: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(width, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cell(x)[0][:, -1])
        return logits


def tcn() -> nn.Module:
    def block(dilation: int) -> nn.Module:
        pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
        return Residual(pad, nn.Conv1d(8, 8, 3, dilation=dilation), nn.ReLU())

    first = Apply(lambda x: x.transpose(1, 2)), nn.Conv1d(5, 8, 1)
    last = Apply(lambda x: x[:, :, -1]), nn.Linear(8, OUTPUTS)
    return nn.Sequential(*first, block(1), block(2), block(4), *last)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(
        nn.Linear(5, 8), encoder, Apply(lambda x: x.mean(1)), nn.Linear(8, OUTPUTS)
    )


def conformer() -> nn.Module:
    def half(width: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(width), mlp(width, 16), Apply(lambda x: x / 2))

    def swap() -> nn.Module:
        return Apply(lambda x: x.transpose(1, 2))

    middle = nn.Conv1d(8, 16, 1), nn.GLU(1), nn.Conv1d(8, 8, 3, padding=1, groups=8)
    end = nn.BatchNorm1d(8, affine=False), nn.SiLU(), nn.Conv1d(8, 8, 1)
    parts = Residual(half(8)), Residual(nn.LayerNorm(8), SelfAttention(8))
    mixing = Residual(nn.LayerNorm(8), swap(), *middle, *end, swap())
    last = nn.LayerNorm(8), Apply(lambda x: x.mean(1)), nn.Linear(8, OUTPUTS)
    return nn.Sequential(nn.Linear(5, 8), *parts, mixing, Residual(half(8)), *last)


def _words(x: Tensor) -> Tensor:
    return (x.abs() * 8).long().clamp(max=19)


def bag_of_words() -> nn.Module:
    bag = nn.EmbeddingBag(20, 8, mode="mean")
    return nn.Sequential(Apply(_words), bag, nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, OUTPUTS))


def text_cnn() -> nn.Module:
    def width(size: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(6, 4, size), nn.ReLU(), nn.AdaptiveMaxPool1d(1))

    first = Apply(_words), nn.Embedding(20, 6), Apply(lambda x: x.transpose(1, 2))
    return nn.Sequential(
        *first, Joined(width(2), width(3), width(4)), nn.Flatten(), nn.Linear(12, OUTPUTS)
    )


class _Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(12, 6), nn.Linear(12, 5)
        self.both = nn.Bilinear(6, 5, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.both(torch.tanh(self.left(x)), torch.tanh(self.right(x)))
        return logits


def _squash(x: Tensor) -> Tensor:
    square = x.square().sum(-1, keepdim=True)
    return x * square / ((1 + square) * torch.sqrt(square + 1e-8))


class _Capsules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.primary = nn.Conv2d(3, 16, 5, 4)
        self.votes = nn.Parameter(torch.randn(36, OUTPUTS, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        capsules = _squash(self.primary(x).view(x.shape[0], 4, 4, -1).flatten(2).transpose(1, 2))
        capsules = capsules.reshape(x.shape[0], -1, 4)[:, :36]
        votes = torch.einsum("bic,ijcd->bijd", capsules, self.votes[: capsules.shape[1]])
        routes = torch.zeros_like(votes[..., 0])
        for _ in range(2):
            out = _squash((routes.softmax(2).unsqueeze(-1) * votes).sum(1))
            routes = routes + (votes * out.unsqueeze(1)).sum(-1)
        lengths: Tensor = out.square().sum(-1).sqrt() * 4
        return lengths


class _Kan(nn.Module):
    """Sums of splines of each input, over radial bases."""

    grid: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-2, 2, 6))
        self.base, self.splines = nn.Linear(before, after), nn.Linear(6 * before, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        bases = torch.exp(-((x.unsqueeze(-1) - self.grid) * 1.25).square()).flatten(1)
        total: Tensor = self.base(functional.silu(x)) + self.splines(bases)
        return total


def _fourier(x: Tensor) -> Tensor:
    mixed: Tensor = torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real / 8
    return mixed


def fnet() -> nn.Module:
    def block() -> nn.Module:
        hidden = Residual(nn.LayerNorm(8), mlp(8, 16))
        return nn.Sequential(Residual(nn.LayerNorm(8), Apply(_fourier)), hidden)

    last = nn.LayerNorm(8), Apply(lambda x: x.mean(1)), nn.Linear(8, OUTPUTS)
    return nn.Sequential(nn.Linear(5, 8), block(), block(), *last)


class _SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(conv(3, 6, stride=4), nn.Flatten(), nn.Linear(96, 6))
        self.body = nn.Sequential(conv(3, 8, stride=2), head(8))

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.tensor([1.0, 0, 0, 0, 1, 0]) + 0.2 * torch.tanh(self.turn(x))
        grid = functional.affine_grid(turned.view(-1, 2, 3), [x.shape[0], 3, 16, 16], False)
        logits: Tensor = self.body(functional.grid_sample(x, grid, align_corners=False))
        return logits


def prelu() -> nn.Module:
    return nn.Sequential(conv(3, 8, stride=2, act=None), nn.PReLU(8), conv(8, 8), head(8))


def normalised(norm: Callable[[int], nn.Module]) -> nn.Module:
    first, second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(first, norm(8), nn.ReLU(), Residual(second, norm(8), nn.ReLU()), head(8))


def maxout() -> nn.Module:
    def layer(before: int, after: int) -> nn.Module:
        return nn.Sequential(nn.Linear(before, 3 * after), Apply(_largest))

    return nn.Sequential(layer(12, 10), layer(10, 10), nn.Linear(10, OUTPUTS))


def _largest(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, 3).amax(2)


class _MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(12, 3)
        self.experts = nn.ModuleList([mlp(12, 16) for _ in range(3)])
        self.head = nn.Linear(12, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(1).unsqueeze(-1)
        seen = torch.stack([expert(x) for expert in self.experts], 1)
        logits: Tensor = self.head((shares * seen).sum(1))
        return logits


class _Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(3 * layer(x))
        logits: Tensor = self.head(x)
        return logits


def weight_normed() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm
    return nn.Sequential(normed(nn.Linear(12, 16)), nn.ReLU(), normed(nn.Linear(16, OUTPUTS)))


class _Retention(nn.Module):
    """Linear attention with decay, as a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(5, 8) for _ in range(3))
        self.head = nn.Linear(8, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1])
        apart = (steps[:, None] - steps).clamp(min=0)
        decay = torch.where(steps[:, None] >= steps, 0.9**apart, 0.0)
        scores = self.query(x) @ self.key(x).mT * decay / math.sqrt(8)
        logits: Tensor = self.head(functional.layer_norm(scores @ self.value(x), (8,))[:, -1])
        return logits


def highway() -> nn.Module:
    class Highway(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.new, self.gate = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            gate = torch.sigmoid(self.gate(x))
            return torch.lerp(x, torch.relu(self.new(x)), gate)

    return nn.Sequential(nn.Linear(12, 16), Highway(), Highway(), nn.Linear(16, OUTPUTS))


Make = Callable[[], nn.Module]

NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    **{name: (make, PICTURE) for name, make in IMAGES.items()},
    "U-Net": (_Unet, PICTURE),
    "Inception": (inception, PICTURE),
    "GhostNet": (ghostnet, PICTURE),
    "RegNet": (regnet, PICTURE),
    "NF-Net": (nfnet, PICTURE),
    "SE-Net": (senet, PICTURE),
    "CBAM": (cbam, PICTURE),
    "GRU": (lambda: _Recurrent(nn.GRU(5, 8, batch_first=True), 8), STEPS),
    "LSTM, 2 layers": (lambda: _Recurrent(nn.LSTM(5, 8, 2, batch_first=True), 8), STEPS),
    "LSTM, both ways": (
        lambda: _Recurrent(nn.LSTM(5, 6, batch_first=True, bidirectional=True), 12),
        STEPS,
    ),
    "RNN": (lambda: _Recurrent(nn.RNN(5, 8, batch_first=True), 8), STEPS),
    "GRU, 40 steps": (lambda: _Recurrent(nn.GRU(5, 8, batch_first=True), 8), (40, 5)),
    "TCN": (tcn, STEPS),
    "Transformer": (transformer, STEPS),
    "Conformer": (conformer, STEPS),
    "Retention": (_Retention, STEPS),
    "Embedding bag": (bag_of_words, WORDS),
    "Text CNN": (text_cnn, WORDS),
    "Bilinear": (_Bilinear, FLAT),
    "Capsules": (_Capsules, PICTURE),
    "KAN": (lambda: nn.Sequential(_Kan(12, 8), _Kan(8, OUTPUTS)), FLAT),
    "FNet": (fnet, STEPS),
    "Spatial transformer": (_SpatialTransformer, PICTURE),
    "PReLU": (prelu, PICTURE),
    "GroupNorm": (lambda: normalised(lambda width: nn.GroupNorm(4, width)), PICTURE),
    "InstanceNorm": (lambda: normalised(nn.InstanceNorm2d), PICTURE),
    "Maxout": (maxout, FLAT),
    "Mixture of experts": (_MixtureOfExperts, FLAT),
    "SIREN": (_Siren, FLAT),
    "weight_norm": (weight_normed, FLAT),
    "Highway": (highway, FLAT),
}
"""How to make a network, and the shape of its inputs."""
