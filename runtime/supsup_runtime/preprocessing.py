"""From pictures, as a camera gives them, to inputs of a network (docs/DATA.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from supsup_runtime.arrays import Array, Floats, Images
from supsup_runtime.errors import InputError

Mode = Literal["gray", "rgb"]
MODES: tuple[Mode, ...] = get_args(Mode)
CHANNELS: dict[Mode, int] = {"gray": 1, "rgb": 3}
Moment: TypeAlias = float | tuple[float, ...]
"""A mean or standard deviation: of all channels, or of each."""
GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
EPSILON = 1e-3
"""Added to the standard deviation of a picture, in units of `Preprocessing.scale`."""
MAX_SIDE = 1 << 15
"""Largest height or width, in pixels, of a picture and of the network's inputs."""
_LARGEST = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """The steps from a picture to the network's input, always in this order.

    1. Gray or RGB, by `mode`; a gray picture has three equal channels as RGB.
    2. Resize and centre crop to `size`: one scale for both axes, so that the picture covers the
       size; linear interpolation, over all pixels that a smaller picture leaves out.
    3. Channels first, divided by `scale`.
    4. ``(x - mean) / std`` with those of the picture, plus `EPSILON`; or with `mean` and `std`.

    Attributes:
        mode: ``gray`` (one channel) or ``rgb`` (three).
        size: Height and width in pixels, each in ``[1, MAX_SIDE]``.
        scale: Value that counts as 1, such as 255 for ``uint8``; above 0.
        mean: Mean of ``value / scale``, of RGB also three, one for each channel; None, with `std`,
            for that of each picture.
        std: Standard deviation of ``value / scale``, above 0; three if there are three means.

    Raises:
        InputError: If a value breaks these rules.
    """

    mode: Mode
    size: tuple[int, int]
    scale: float = 255.0
    mean: Moment | None = None
    std: Moment | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"preprocessing: mode must be one of {list(MODES)}, got {self.mode!r}")
        sides = [side for side in self.size if type(side) is int and 1 <= side <= MAX_SIDE]
        if len(sides) != 2 or len(self.size) != 2:
            raise InputError(
                f"preprocessing: size must be two integers in [1, {MAX_SIDE}], got {self.size!r}"
            )
        if (self.mean is None) != (self.std is None):
            raise InputError("preprocessing: mean and std must be given together, or neither")
        means, stds = _numbers(self.mean), _numbers(self.std)
        several = isinstance(self.mean, tuple), isinstance(self.std, tuple)
        fits = self.mode == "rgb" and all(several) and len(means) == len(stds) == CHANNELS["rgb"]
        if any(several) and not fits:
            raise InputError(
                "preprocessing: mean and std must be one number each, or of rgb three, got "
                f"{self.mean!s:.80} and {self.std!s:.80}"
            )
        for name, values in (("scale", (self.scale,)), ("std", stds)):
            if not all(1 / _LARGEST <= value <= _LARGEST for value in values):
                got = getattr(self, name)
                raise InputError(f"preprocessing: {name} must be positive and finite, got {got}")
        if not all(abs(value) <= _LARGEST for value in means):
            raise InputError(f"preprocessing: mean must be finite, got {self.mean}")

    @property
    def takes_bytes(self) -> bool:
        """Whether ``uint8`` makes sense; not with a scale of 1, which is that of floats."""
        return self.scale > 1

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape of a prepared picture: ``(channels, height, width)``."""
        return (CHANNELS[self.mode], *self.size)

    def apply(self, pictures: Array | Sequence[Array]) -> Images:
        """Prepare pictures.

        Args:
            pictures: ``uint8`` or float, finite: one picture ``(height, width)`` or ``(height,
                width, channels)``, a batch ``(batch, height, width, channels)``, of one or three
                channels and any size; or a sequence of single pictures of different sizes.

        Returns:
            ``float32 (batch, *output_shape)``.

        Raises:
            InputError: If dtype or shape differ, or memory does not suffice.
        """
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # of pictures that are not finite
                return self._applied(pictures)
        except MemoryError as error:
            raise InputError("pictures: they do not fit in memory; take fewer") from error

    def _applied(self, pictures: Array | Sequence[Array]) -> Images:
        if isinstance(pictures, np.ndarray):
            return self._prepared(batched(pictures))
        if not isinstance(pictures, Sequence) or not pictures:
            raise InputError(
                f"pictures must be an array or a list of arrays, got {type(pictures).__name__}"
            )
        return np.concatenate([self._prepared(batched(each)) for each in pictures])

    def _prepared(self, x: Array) -> Images:
        batch, height, width, channels = x.shape
        rows, columns = sampling((height, width), self.size)
        x = rows @ x.reshape(batch, height, width * channels).astype(np.float32)
        x = x.reshape(batch, len(rows), width, channels).transpose(0, 3, 1, 2) @ columns.T
        x = np.broadcast_to(x, (batch, 3, *self.size))
        if self.mode == "gray":  # of fewer pixels than before resizing, else the same
            x = np.einsum("bchw,c->bhw", x, np.array(GRAY, np.float32))[:, None]
        return self.normalised(np.ascontiguousarray(x))

    def normalised(self, x: Floats) -> Images:
        """Apply scale, mean and standard deviation to ``float32 (batch, channels, ...)``."""
        x = x / np.float32(self.scale)
        if self.mean is not None and self.std is not None:
            return (x - spread(self.mean)) / spread(self.std)
        axes = tuple(range(1, x.ndim))
        x = x - x.mean(axes, keepdims=True)
        deviation = np.sqrt((x * x).mean(axes, keepdims=True)) + np.float32(EPSILON)
        return np.asarray(x / deviation, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return {
            "mean": _listed(self.mean),
            "mode": self.mode,
            "scale": self.scale,
            "size": list(self.size),
            "std": _listed(self.std),
        }

    @classmethod
    def from_dict(cls, value: object) -> Preprocessing:
        """Invert `to_dict`.

        Raises:
            InputError: If a field is missing, unknown or of another type.
        """
        names = {"mean", "mode", "scale", "size", "std"}
        if not isinstance(value, Mapping) or set(value) != names:
            got = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise InputError(f"preprocessing: fields must be {sorted(names)}, got {got}")
        size = value["size"]
        moments = {name: _moment(name, value[name]) for name in ("mean", "std")}
        scale = _number("scale", value["scale"])
        if not isinstance(size, list) or scale is None:
            raise InputError(
                f"preprocessing: size must be a list and scale a number, got {size!r:.80} and "
                f"{value['scale']!r:.80}"
            )
        return cls(mode=value["mode"], size=tuple(size), scale=scale, **moments)


def spread(value: Moment) -> Floats:
    """Return a moment as it meets ``(batch, channels, height, width)``."""
    number = np.asarray(value, np.float32)
    return number.reshape(-1, 1, 1) if number.ndim else number


def _listed(value: Moment | None) -> float | list[float] | None:
    return list(value) if isinstance(value, tuple) else value


def _numbers(value: Moment | None) -> tuple[float, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _moment(name: str, value: object) -> Moment | None:
    if not isinstance(value, list):
        return _number(name, value)
    numbers = [_number(name, item) for item in value]
    return tuple(math.nan if number is None else number for number in numbers)  # refused later


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"preprocessing: {name} must be a number or null, got {value!r:.80}")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"preprocessing: {name} must fit a float, got {value!r:.80}") from error


def batched(picture: Array) -> Array:
    """Return one picture, or a batch, as ``(batch, height, width, 1 or 3)``.

    Raises:
        InputError: As `Preprocessing.apply`.
    """
    kind = getattr(picture, "dtype", type(picture).__name__)
    if not isinstance(picture, np.ndarray) or picture.dtype.kind not in "fu":
        raise InputError(f"pictures must be uint8 or float arrays, got {kind}")
    if picture.dtype.kind == "u" and picture.dtype != np.uint8:
        raise InputError(f"pictures must be uint8 or float, got {kind}; divide by 257 for 16 bits")
    given = picture.shape
    if picture.ndim == 2:
        picture = picture[:, :, None]
    if picture.ndim == 3:
        picture = picture[None]
    shape = picture.shape
    if picture.ndim != 4 or shape[3] not in {1, 3} or min(shape) < 1 or max(shape[1:3]) > MAX_SIDE:
        raise InputError(
            "pictures must be (height, width), (height, width, channels) or (batch, height, "
            f"width, channels) with 1 or 3 channels and sides of at most {MAX_SIDE}, got "
            f"{given}; a batch of gray ones needs an axis of one channel: x[..., None]"
        )
    return picture


@lru_cache(maxsize=64)
def sampling(have: tuple[int, int], want: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return the matrices that resize and centre-crop: ``float32 (want, have)`` for each axis.

    Output pixel `i` lies at ``(i + 1/2 - want / 2) / s + have / 2`` in units of input pixels, with
    ``s`` the larger of the two ratios ``want / have``. Input pixel `j`, at ``j + 1/2``, has the
    weight ``max(0, 1 - distance / max(1, 1 / s))``; the weights of a row sum to 1.
    """
    scale = max(np.float32(w) / np.float32(h) for h, w in zip(have, want, strict=True))
    return _axis(have[0], want[0], scale), _axis(have[1], want[1], scale)


def _axis(have: int, want: int, scale: np.float32) -> Floats:
    half = np.float32(0.5)
    center = (np.arange(want, dtype=np.float32) + half - half * np.float32(want)) / scale
    center = center + half * np.float32(have)
    pixel = np.arange(have, dtype=np.float32) + half
    reach = np.maximum(np.float32(1), np.float32(1) / scale)
    weights = np.maximum(np.float32(0), 1 - np.abs(pixel - center[:, None]) / reach)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
