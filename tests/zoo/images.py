"""Networks of the zoo over images ``(3, 16, 16)``, each small and of its kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.parts import (
    OUTPUTS,
    Apply,
    ChannelsLast,
    Joined,
    Residual,
    Scale,
    SelfAttention,
    Squeeze,
    Tokens,
    conv,
    head,
    mean_head,
    mlp,
)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 12),
        nn.Tanh(),
        nn.Linear(12, OUTPUTS),
    )


def vgg() -> nn.Module:
    stages = [conv(3, 8), conv(8, 8), nn.MaxPool2d(2), conv(8, 12), conv(12, 12), nn.MaxPool2d(2)]
    classes = [nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, OUTPUTS)]
    return nn.Sequential(*stages, *classes)


def resnet() -> nn.Module:
    def block(before: int, after: int, stride: int) -> nn.Module:
        short = conv(before, after, 1, stride=stride, act=None) if stride > 1 else None
        body = conv(before, after, stride=stride), conv(after, after, act=None)
        return nn.Sequential(Residual(*body, shortcut=short), nn.ReLU())

    pool = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(conv(3, 8), pool, block(8, 8, 1), block(8, 12, 2), head(12))


def wide_resnet() -> nn.Module:
    def before(channels: int, after: int) -> nn.Module:
        norm = nn.BatchNorm2d(channels, affine=False)
        return nn.Sequential(norm, nn.ReLU(), nn.Conv2d(channels, after, 3, padding=1, bias=False))

    blocks = [Residual(before(12, 12), nn.Dropout(0.3), before(12, 12)) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), *blocks, head(12))


def resnext() -> nn.Module:
    body = conv(12, 8, 1), conv(8, 8, groups=4), conv(8, 12, 1, act=None)
    return nn.Sequential(conv(3, 12, stride=2), Residual(*body), nn.ReLU(), head(12))


def mobilenet_v1() -> nn.Module:
    layers = [conv(3, 8, stride=2), conv(8, 8, groups=8), conv(8, 12, 1)]
    return nn.Sequential(*layers, conv(12, 12, stride=2, groups=12), conv(12, 16, 1), head(16))


def _inverted(
    channels: int, act: type[nn.Module], *, squeeze: Callable[[Tensor], Tensor] | None
) -> nn.Module:
    wide = 3 * channels
    gate = [Squeeze(wide, squeeze)] if squeeze else []
    depthwise = conv(wide, wide, groups=wide, act=act)
    return Residual(
        conv(channels, wide, 1, act=act), depthwise, *gate, conv(wide, channels, 1, act=None)
    )


def mobilenet_v2() -> nn.Module:
    blocks = [_inverted(8, nn.ReLU6, squeeze=None) for _ in range(2)]
    return nn.Sequential(conv(3, 8, stride=2), *blocks, head(8))


def mobilenet_v3() -> nn.Module:
    blocks = [_inverted(8, nn.Hardswish, squeeze=functional.hardsigmoid) for _ in range(2)]
    return nn.Sequential(conv(3, 8, stride=2, act=nn.Hardswish), *blocks, head(8))


class _Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv(6, 6, 1), conv(6, 6, groups=6, act=None), conv(6, 6, 1))

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        joined = torch.cat([kept, self.branch(changed)], 1)
        batch, channels, height, width = joined.shape
        pairs = joined.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return pairs.reshape(batch, channels, height, width)


def shufflenet() -> nn.Module:
    return nn.Sequential(conv(3, 12, stride=2), _Shuffle(), _Shuffle(), head(12))


def squeezenet() -> nn.Module:
    def fire(before: int) -> nn.Module:
        wide = Joined(nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1))
        return nn.Sequential(nn.Conv2d(before, 4, 1), nn.ReLU(), wide, nn.ReLU())

    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    last = nn.Conv2d(12, OUTPUTS, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pool, fire(8), fire(12), *last)


def densenet() -> nn.Module:
    def grow(before: int) -> nn.Module:
        norm = nn.BatchNorm2d(before, affine=False)
        body = nn.Conv2d(before, 4, 3, padding=1, bias=False)
        return Joined(nn.Identity(), nn.Sequential(norm, nn.ReLU(), body))

    pool = nn.AvgPool2d(2)
    return nn.Sequential(conv(3, 8), grow(8), grow(12), conv(16, 8, 1), pool, grow(8), head(12))


def efficientnet() -> nn.Module:
    blocks = [_inverted(8, nn.SiLU, squeeze=torch.sigmoid) for _ in range(2)]
    return nn.Sequential(conv(3, 8, stride=2, act=nn.SiLU), *blocks, head(8))


def convnext() -> nn.Module:
    def block(channels: int) -> nn.Module:
        depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        rest = nn.LayerNorm(channels), mlp(channels, 4 * channels), Scale(channels)
        return Residual(depthwise, ChannelsLast(*rest))

    stem = nn.Conv2d(3, 8, 4, 4), ChannelsLast(nn.LayerNorm(8))
    down = ChannelsLast(nn.LayerNorm(8)), nn.Conv2d(8, 12, 2, 2)
    return nn.Sequential(*stem, block(8), block(8), *down, block(12), head(12))


class _CrossCovariance(nn.Module):
    """Attention among channels instead of tokens, as in XCiT."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.project, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), 2
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.project(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 4, 1)
        query, key, value = parts.unbind(0)
        query, key = functional.normalize(query, dim=-1), functional.normalize(key, dim=-1)
        weights = (query @ key.transpose(-2, -1) * self.temperature).softmax(-1)
        out: Tensor = self.out((weights @ value).permute(0, 3, 1, 2).reshape(batch, tokens, width))
        return out


class _SplitDepthwise(nn.Module):
    """The encoder of EdgeNeXt: depthwise convolutions over splits, then attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.convolution = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.norm, self.attention = nn.LayerNorm(width), _CrossCovariance(width)
        self.gamma, self.mlp = Scale(width), mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, x.shape[1] // 2, 1)
        y = torch.cat([first, self.convolution(second + first)], 1)
        tokens = y.flatten(2).permute(0, 2, 1)
        tokens = tokens + self.gamma(self.attention(self.norm(tokens)))
        y = tokens.reshape(x.shape[0], *x.shape[2:], -1)
        y = self.mlp(self.norm(y)).permute(0, 3, 1, 2)
        total: Tensor = x + y
        return total


def edgenext() -> nn.Module:
    stem = nn.Conv2d(3, 8, 4, 4), ChannelsLast(nn.LayerNorm(8))
    return nn.Sequential(*stem, _SplitDepthwise(8), _SplitDepthwise(8), head(8))


def _encoder(width: int, mixing: nn.Module) -> nn.Module:
    hidden = Residual(nn.LayerNorm(width), mlp(width, 2 * width))
    return nn.Sequential(Residual(nn.LayerNorm(width), mixing), hidden)


def vit() -> nn.Module:
    blocks = [_encoder(12, SelfAttention(12, 3)) for _ in range(2)]
    last = nn.LayerNorm(12), Apply(lambda x: x[:, 0]), nn.Linear(12, OUTPUTS)
    return nn.Sequential(Tokens(12, positions=16), *blocks, *last)


class _Deit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 12) * 0.1)
        self.teacher = nn.Parameter(torch.randn(1, 1, 12) * 0.1)
        self.positions = nn.Parameter(torch.randn(1, 18, 12) * 0.1)
        self.blocks = nn.Sequential(*[_encoder(12, SelfAttention(12, 3)) for _ in range(2)])
        self.head, self.head_teacher = nn.Linear(12, OUTPUTS), nn.Linear(12, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        both = [each.expand(x.shape[0], -1, -1) for each in (self.cls, self.teacher)]
        y = self.blocks(torch.cat([*both, tokens], 1) + self.positions)
        mean: Tensor = (self.head(y[:, 0]) + self.head_teacher(y[:, 1])) / 2
        return mean


class _Window(nn.Module):
    """Attention within windows of 2 by 2, shifted by `shift`, with a bias by relative position."""

    index: Tensor
    mask: Tensor

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.project, self.out = (
            shift,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.table = nn.Parameter(torch.randn(9, 2) * 0.1)
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij"))
        apart = place.flatten(1)[:, :, None] - place.flatten(1)[:, None] + 1
        self.register_buffer("index", apart[0] * 3 + apart[1])
        region = torch.zeros(4, 4)
        if shift:
            region[-1], region[:, -1] = 1, region[:, -1] + 2
        region = region.view(2, 2, 2, 2).transpose(1, 2).reshape(4, 4)
        self.register_buffer("mask", (region[:, None] != region[:, :, None]) * -100.0)

    def forward(self, x: Tensor) -> Tensor:
        batch, side, _, width = x.shape
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = x.view(batch, side // 2, 2, side // 2, 2, width).transpose(2, 3)
        parts = self.project(windows.reshape(-1, 4, width)).view(-1, 4, 3, 2, width // 2)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-2, -1) / 2 + self.table[self.index].permute(2, 0, 1)
        scores = (scores.view(batch, -1, 2, 4, 4) + self.mask[:, None]).view(-1, 2, 4, 4)
        seen = (scores.softmax(-1) @ value).transpose(1, 2).reshape(-1, 4, width)
        seen = self.out(seen).view(batch, side // 2, side // 2, 2, 2, width).transpose(2, 3)
        return torch.roll(seen.reshape(batch, side, side, width), (self.shift,) * 2, (1, 2))


class _Merge(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        merged: Tensor = self.reduce(self.norm(torch.cat(parts, -1)))
        return merged


def swin() -> nn.Module:
    patches = nn.Conv2d(3, 8, 4, 4), Apply(lambda x: x.permute(0, 2, 3, 1))
    blocks = _encoder(8, _Window(8, 0)), _encoder(8, _Window(8, 1)), _Merge(8)
    return nn.Sequential(*patches, *blocks, nn.Flatten(1, 2), mean_head(16))


def poolformer() -> nn.Module:
    def block(width: int) -> nn.Module:
        pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        mixing = Residual(nn.GroupNorm(1, width), Apply(lambda x: pool(x) - x), Scale(width, 1, 1))
        hidden = nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1)
        return nn.Sequential(mixing, Residual(nn.GroupNorm(1, width), *hidden, Scale(width, 1, 1)))

    stem = nn.Conv2d(3, 8, 7, 4, 2)
    down = nn.Conv2d(8, 12, 3, 2, 1)
    return nn.Sequential(stem, block(8), block(8), down, block(12), nn.GroupNorm(1, 12), head(12))


def _transposed(*layers: nn.Module) -> nn.Sequential:
    def swap() -> nn.Module:
        return Apply(lambda x: x.transpose(1, 2))

    return nn.Sequential(swap(), *layers, swap())


def mixer() -> nn.Module:
    blocks = [_encoder(12, _transposed(mlp(16, 24))) for _ in range(2)]
    return nn.Sequential(Tokens(12), *blocks, mean_head(12))


class _SpatialGate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Conv1d(16, 16, 1)
        nn.init.ones_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = x.chunk(2, -1)
        gated: Tensor = kept * self.mix(self.norm(gate))
        return gated


def gmlp() -> nn.Module:
    def block() -> nn.Module:
        inner = nn.Linear(12, 24), nn.GELU(), _SpatialGate(12), nn.Linear(12, 12)
        return Residual(nn.LayerNorm(12), *inner)

    return nn.Sequential(Tokens(12), block(), block(), mean_head(12))


class _Affine(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = (
            nn.Parameter(torch.ones(1, 1, width)),
            nn.Parameter(torch.zeros(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


def resmlp() -> nn.Module:
    def block() -> nn.Module:
        mixing = Residual(_Affine(12), _transposed(nn.Linear(16, 16)), Scale(12))
        return nn.Sequential(mixing, Residual(_Affine(12), mlp(12, 24), Scale(12)))

    return nn.Sequential(Tokens(12), block(), block(), _Affine(12), mean_head(12))


IMAGES = {
    "LeNet": lenet,
    "VGG": vgg,
    "ResNet": resnet,
    "Wide ResNet": wide_resnet,
    "ResNeXt": resnext,
    "MobileNet v1": mobilenet_v1,
    "MobileNet v2": mobilenet_v2,
    "MobileNet v3": mobilenet_v3,
    "ShuffleNet": shufflenet,
    "SqueezeNet": squeezenet,
    "DenseNet": densenet,
    "EfficientNet": efficientnet,
    "ConvNeXt": convnext,
    "EdgeNeXt": edgenext,
    "ViT": vit,
    "DeiT": _Deit,
    "Swin": swin,
    "PoolFormer": poolformer,
    "MLP-Mixer": mixer,
    "gMLP": gmlp,
    "ResMLP": resmlp,
}
