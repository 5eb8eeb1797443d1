"""Forward operators rewritten as arithmetic that ONNX has and PyTorch can differentiate.

PyTorch cannot differentiate running statistics, selects attention kernels by device, and has
operators whose backward ONNX lacks. `PORTABLE` are those that ONNX lacks, or torch.onnx translates
wrongly, in the forward pass, too. Each function has the signature of its operator and ignores
dropout. `recurrence` has the recurrent layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch._decomp.decompositions import affine_grid_generator, grid_sampler_2d
from torch.nn import functional

from supsup_train.programs.recurrence import gru_step, lstm_step, recurrent, simple_step

aten = torch.ops.aten


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    _momentum: float,
    eps: float,
    _cudnn_enabled: bool,
) -> Tensor:
    """``aten.batch_norm``, also differentiable in the running statistics.

    `x` is ``float32 (batch, channels, ...)``, the other tensors are ``(channels,)`` or None.
    """
    channels = (-1, *[1] * (x.dim() - 2))
    if training or mean is None or var is None:
        dims = [0, *range(2, x.dim())]
        mean = x.mean(dims)
        var = (x - mean.view(channels)).square().mean(dims)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    y = (x - mean.view(channels)) * scale.view(channels)
    return y if bias is None else y + bias.view(channels)


def instance_norm(x: Tensor, *options: Any) -> Tensor:
    """``aten.instance_norm``, also differentiable in the running statistics."""
    of_input = options[4]
    y: Tensor = aten.instance_norm(x, *options) if of_input else batch_norm(x, *options)
    return y


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    _dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``aten.scaled_dot_product_attention`` as two matrix products and a softmax.

    `query` is ``float32 (batch, ..., queries, depth)``, `key` ``(batch, ..., keys, depth)``,
    `value` ``(batch, ..., keys, width)``. `mask`, added to the scores or boolean (true: attend),
    broadcasts to ``(batch, ..., queries, keys)``. `scale` defaults to ``1 / sqrt(depth)``.
    """
    if enable_gqa:
        heads = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(heads, -3), value.repeat_interleave(heads, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """``aten.adaptive_avg_pool2d``, which for size 1 writes strides that ONNX cannot express."""
    if all(each == 1 for each in size):
        return x.mean([*range(-len(size), 0)], keepdim=True)
    pooled: Tensor = aten.adaptive_avg_pool2d(x, size)
    return pooled


def adaptive_max_pool(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """``aten.adaptive_max_pool1d`` to ``3d``, without indices."""
    for axis, outputs in enumerate(size, start=-len(size)):
        length = x.shape[axis]
        spans = [(i * length // outputs, -(-(i + 1) * length // outputs)) for i in range(outputs)]
        x = torch.stack([x.narrow(axis, a, b - a).amax(axis) for a, b in spans], axis)
    return x, None


def weight_norm(direction: Tensor, length: Tensor, dim: int = 0) -> Tensor:
    """``aten._weight_norm``: `direction`, scaled to a norm of `length` over all axes but `dim`."""
    others = [axis for axis in range(direction.dim()) if axis != dim]
    return direction * (length / direction.square().sum(others, keepdim=True).sqrt())


def bilinear(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``aten.bilinear``: ``(..., n)`` and ``(..., m)`` to ``(..., out)``."""
    outputs, _, width = weight.shape
    seen = (left @ weight.movedim(1, 0).flatten(1)).reshape(*left.shape[:-1], outputs, width)
    y = (seen * right.unsqueeze(-2)).sum(-1)
    return y if bias is None else y + bias


def product(
    x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """``aten.prod.dim_int``, in pairs: its backward divides by `x`."""
    x = x.movedim(dim, 0).to(dtype or x.dtype)
    while len(x) > 1:
        half = len(x) // 2
        x = torch.cat([x[:half] * x[half : 2 * half], x[2 * half :]])
    return x.movedim(0, dim) if keepdim else x[0]


def cumulative_product(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """``aten.cumprod`` of an axis that is not the batch."""
    return torch.stack([*accumulate(x.to(dtype or x.dtype).unbind(dim), torch.mul)], dim)


def atan2(y: Tensor, x: Tensor) -> Tensor:
    """``aten.atan2``; torch.onnx turns the wrong way for ``y = 0`` and ``x < 0``."""
    slope = torch.where(x == 0, torch.where(y == 0, y, y * math.inf), y / x)
    below = (y < 0) | (1 / y < 0)  # -0, too
    return torch.atan(slope) + torch.where(x < 0, torch.where(below, -math.pi, math.pi), 0.0)


def refuse_erfcx(_x: Tensor) -> Tensor:
    """Refuse ``aten.special_erfcx``: torch.onnx multiplies by erfc, 0 but for rounding."""
    raise ValueError("operator aten.special_erfcx loses its digits in ONNX")


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    _scale_by_frequency: bool,
    mode: int,
    _sparse: bool,
    factors: Tensor | None,
    include_last_offset: bool,
    padding: int | None = None,
) -> tuple[Tensor | None, ...]:
    """``aten.embedding_bag`` as a product with a matrix of which look-up is in which bag."""
    starts = offsets[:-1] if include_last_offset else offsets
    begun = torch.arange(indices.shape[0]) >= starts.unsqueeze(1)  # (bags, look-ups)
    inside = (begun.sum(0) == torch.arange(1, starts.shape[0] + 1).unsqueeze(1)).to(weight.dtype)
    if padding is not None:
        inside = inside * (indices != padding)
    rows = functional.embedding(indices, weight)
    if mode == 2:
        bags = torch.where(inside.unsqueeze(-1) > 0, rows, -math.inf).amax(1)
        return bags, None, None, None
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    bags = inside @ rows
    if mode == 1:
        bags = bags / inside.sum(1, keepdim=True).clamp(min=1)
    return bags, None, None, None


# Operator overload (a type without a public name) to replacement.
PORTABLE: dict[Any, Callable[..., Any]] = {
    aten.adaptive_max_pool1d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool3d.default: adaptive_max_pool,
    aten.atan2.default: atan2,
    aten.cumprod.default: cumulative_product,
    aten.embedding_bag.padding_idx: embedding_bag,
    aten.scaled_dot_product_attention.default: attention,
    aten.special_erfcx.default: refuse_erfcx,
}
DIFFERENTIABLE: dict[Any, Callable[..., Any]] = {
    **{each: rewritten for each, rewritten in PORTABLE.items() if rewritten is not atan2},
    aten._weight_norm.default: weight_norm,  # noqa: SLF001 (aten)
    aten.adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten.affine_grid_generator.default: affine_grid_generator,
    aten.batch_norm.default: batch_norm,
    aten.bilinear.default: bilinear,
    aten.grid_sampler.default: grid_sampler_2d,
    aten.instance_norm.default: instance_norm,
    aten.prod.dim_int: product,
    aten.gru.input: recurrent(gru_step),
    aten.lstm.input: recurrent(lstm_step),
    aten.rnn_relu.input: recurrent(simple_step(torch.relu)),
    aten.rnn_tanh.input: recurrent(simple_step(torch.tanh)),
    aten.sgn.default: aten.sign.default,  # whose zero gradient has a batch of any size
}
