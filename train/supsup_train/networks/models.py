"""Named networks, without biases and with non-affine normalisation, as in the paper."""

from __future__ import annotations

import importlib.util
import math
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from supsup_runtime.arrays import check_kind, check_sequence, checked_whole, shown
from supsup_runtime.bank.weights import MAX_SEED
from supsup_runtime.errors import InputError
from supsup_train.networks.bnnet import BnNet
from supsup_train.networks.resnets import RESNETS

_CONV = re.compile(r"conv((?:-[1-9]\d*)*)")
_VGG = re.compile(r"vgg((?:-[1-9]\d*)+)")
_SMALL_SIDE = 8
_LAYERS = re.compile(r"(mlp|lenet|fc|bnnet)((?:-[1-9]\d*)+)")


class Mlp(nn.Module):
    """A network of fully connected layers without biases, with ReLU between them.

    Args:
        sizes: Inputs, units of each hidden layer, outputs.
    """

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, sizes[0])`` to logits ``float32 (batch, sizes[-1])``."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


class Cnn(nn.Module):
    """A small residual network: strided convolutions, batch normalisation, global pooling.

    Args:
        channels: Channels of the input images.
        outputs: Number of logits.
        width: Channels of the first convolution; the second has twice as many.
    """

    def __init__(self, channels: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width, affine=False)
        self.conv = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width, affine=False)
        self.shortcut = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)
        self.head = nn.Linear(2 * width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, channels, height, width)`` to ``float32 (batch, outputs)``."""
        x = torch.relu(self.norm1(self.stem(x)))
        x = torch.relu(self.norm2(self.conv(x)) + self.shortcut(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Conv(nn.Module):
    """Strided convolutions, each normalised over all of a row's channels, then a linear layer.

    Rows are independent and there is no state, so that one image at a time is as in training.

    Args:
        input_shape: ``(channels, height, width)``.
        widths: Channels of each convolution, which halves height and width. The first has 5 x 5
            weights, the others 3 x 3.
        outputs: Number of logits.
    """

    def __init__(self, input_shape: tuple[int, ...], widths: list[int], outputs: int) -> None:
        super().__init__()
        channels, *sides = input_shape
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, width, side, stride=2, padding=side // 2, bias=False)
            for before, width, side in zip(
                [channels, *widths], widths, [5] + [3] * (len(widths) - 1), strict=False
            )
        )
        left = math.prod(-(-side // 2 ** len(widths)) for side in sides)
        self.head = nn.Linear(widths[-1] * left, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, *input_shape)`` to ``float32 (batch, outputs)``."""
        for convolution in self.convolutions:
            x = torch.relu(group_norm(convolution(x), 1))
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Vgg(nn.Module):
    """Convolutions of 3 x 3 (Simonyan and Zisserman, 2015) with batch normalisation, then a layer.

    Slower than `Conv`, and more accurate. Max pooling halves height and width after each
    convolution while the smaller is above 8, and after the last.

    Args:
        input_shape: ``(channels, height, width)``.
        widths: Channels of each convolution.
        outputs: Number of logits.
    """

    def __init__(self, input_shape: tuple[int, ...], widths: list[int], outputs: int) -> None:
        super().__init__()
        channels, *sides = input_shape
        layers: list[nn.Module] = []
        for place, (before, width) in enumerate(pairwise([channels, *widths]), start=1):
            convolution = nn.Conv2d(before, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width, affine=False), nn.ReLU()]
            if min(sides) > (1 if place == len(widths) else _SMALL_SIDE):
                layers.append(nn.MaxPool2d(2))
                sides = [side // 2 for side in sides]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(widths[-1] * math.prod(sides), outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, *input_shape)`` to ``float32 (batch, outputs)``."""
        logits: Tensor = self.head(self.features(x))
        return logits


def suited_widths(input_shape: tuple[int, ...]) -> list[int]:
    """Return the widths of ``conv``: as many convolutions as leave about 4 x 4 positions."""
    count = round(math.log2(max(min(input_shape[1:]) / 4, 2)))
    return [32, *[64] * (min(count, 6) - 1)]


def wants_images(name: str) -> bool:
    """Return whether a named model takes ``(channels, height, width)`` instead of flat inputs."""
    named = name == "cnn" or name in RESNETS
    return named or _CONV.fullmatch(name) is not None or _VGG.fullmatch(name) is not None


def make_model(
    name: str, *, input_shape: tuple[int, ...], outputs: int, weight_seed: int = 0
) -> nn.Module:
    """Make a network by name.

    Args:
        name: ``lenet-300-100``, ``fc-1024-1024``, any ``mlp-WIDTH-WIDTH...``, ``cnn``, or, with
            masked units, any ``bnnet-WIDTH-WIDTH...`` (the paper's is ``bnnet-2048-2048``). Of
            `Conv`, ``conv-WIDTH-WIDTH...``, or ``conv`` for widths that suit the input. Of `Vgg`,
            ``vgg-WIDTH-WIDTH...``. Of `ResNet`, ``gem-resnet18`` or ``resnet-50``.
        input_shape: ``(features,)``, or ``(channels, height, width)`` for ``cnn``, ``conv``,
            ``vgg`` and residual networks.
        outputs: Number of logits.
        weight_seed: Seed of the fixed layers of a ``bnnet``, in ``[0, 2**64)``.

    Returns:
        The module: `Mlp`, `Cnn`, `Conv`, `Vgg`, `ResNet` or a BNNet.

    Raises:
        InputError: If the name is unknown or goes with another `input_shape`, or the network does
            not fit in memory.
    """
    check_kind("model:", name, str, "text")
    check_sequence("input_shape:", input_shape)
    checked_whole("input_shape: the number of sizes", len(input_shape), 1)
    input_shape = tuple(checked_whole("input_shape:", size, 1) for size in input_shape)
    outputs = checked_whole("outputs:", outputs, 1)
    weight_seed = checked_whole("weight_seed:", weight_seed, 0, MAX_SEED)
    if wants_images(name) != (len(input_shape) == 3):
        wanted = "(channels, height, width)" if wants_images(name) else "(features,)"
        raise InputError(f"model: {name:.80} takes inputs {wanted}, got shape {input_shape}")
    match, conv, vgg = (form.fullmatch(name) for form in (_LAYERS, _CONV, _VGG))
    try:
        if match:
            sizes = [input_shape[0], *_widths(match), outputs]
            return BnNet(sizes, weight_seed=weight_seed) if match[1] == "bnnet" else Mlp(sizes)
        if name == "cnn":
            return Cnn(input_shape[0], outputs)
        if name in RESNETS:
            return RESNETS[name](input_shape[0], outputs)
        if conv:
            return Conv(input_shape, _widths(conv) or suited_widths(input_shape), outputs)
        if vgg:
            return Vgg(input_shape, _widths(vgg), outputs)
    except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:  # of torch
        raise InputError(
            f"model: {name:.80} with {outputs} outputs does not fit in memory; make it smaller"
        ) from error
    raise InputError(
        "model: must be lenet-300-100, fc-1024-1024, mlp-WIDTH-WIDTH..., bnnet-WIDTH-WIDTH..., "
        f"conv, conv-WIDTH-WIDTH..., vgg-WIDTH-WIDTH..., cnn, {' or '.join(RESNETS)}, got "
        f"{shown(name)}; for your own module use --module FILE.py:FUNCTION"
    )


def _widths(name: re.Match[str]) -> list[int]:
    """Return the widths that end a name."""
    return [int(width) for width in name[name.lastindex or 0].split("-")[1:]]


@contextmanager
def _one_line(spec: str) -> Iterator[None]:
    """Say in one line where the user's code fails."""
    try:
        yield
    except Exception as error:  # the user's code may raise any
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"module: {spec}: {at.filename}:{at.lineno}: {reason:.300}") from error


def load_module(spec: str, *, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Call the ``FILE.py:FUNCTION`` of `spec` as ``f(input_shape, outputs)``."""
    file, _, function = spec.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise InputError(f"module: expected FILE.py:FUNCTION, got {spec!r}; no file {file!r}")
    loaded = importlib.util.spec_from_file_location(path.stem, path)
    if loaded is None or loaded.loader is None:
        raise InputError(f"module: {file} must be a Python file")
    code = importlib.util.module_from_spec(loaded)
    with _one_line(spec):
        loaded.loader.exec_module(code)
    make: Callable[..., object] | None = getattr(code, function, None)
    if not callable(make):
        raise InputError(f"module: {file} has no function {function!r}; give FILE.py:FUNCTION")
    with _one_line(spec):
        module = make(input_shape, outputs)
    if not isinstance(module, nn.Module):
        raise InputError(f"module: {spec} must return an nn.Module, got {type(module).__name__}")
    return module
