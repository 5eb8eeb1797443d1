"""Decompositions of backward operators into operators that ONNX has.

They cover what PyTorch does not decompose, or only into a scatter or one index per element. Each
function has the signature of its operator; `grad` is the gradient of its output and `x` its input,
``float32 (batch, channels, ...)``. Only the batch may be symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import SymInt, Tensor

aten = torch.ops.aten

_NOT_COVERED: Tensor = NotImplemented  # the tracer keeps the operator


def _per_axis(value: Sequence[int], num_axes: int) -> list[int]:
    return list(value) * num_axes if len(value) == 1 else list(value)


def _weight_gradient(
    image: Tensor,
    kernel: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve input and output gradient, with batch and channels, stride and dilation swapped."""
    spatial = image.shape[2:]
    if groups == 1:
        image = image.transpose(0, 1)
    else:
        image = image.reshape(-1, groups, image.shape[1] // groups, *spatial).transpose(0, 2)
        image = image.reshape(image.shape[0], -1, *spatial)  # (in / groups, groups * batch, ...)
    weight = aten.convolution(
        image, kernel.transpose(0, 1), None, dilation, padding, stride, False, [0], groups
    )
    for axis, length in enumerate(size, start=2):
        weight = weight.narrow(axis, 0, length)  # the rest is input that no window reached
    result: Tensor = weight.transpose(0, 1)
    return result


def convolution_backward(  # noqa: PLR0913 (aten's signature)
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """``aten.convolution_backward`` in terms of ``aten.convolution``, for any number of axes."""
    axes = range(x.dim() - 2)
    stride, padding, dilation = (
        _per_axis(value, len(axes)) for value in (stride, padding, dilation)
    )
    size = weight.shape[2:]
    grad_x = grad_weight = grad_bias = None
    if wanted[0]:
        spare = [0 for _ in axes]  # input that no window reached
        if not transposed:
            for i in axes:
                reached = (grad.shape[2 + i] - 1) * stride[i] + dilation[i] * (size[i] - 1) + 1
                spare[i] = x.shape[2 + i] + 2 * padding[i] - reached
        grad_x = aten.convolution(
            grad, weight, None, stride, padding, dilation, not transposed, spare, groups
        )
        for axis, length in enumerate(x.shape[2:], start=2):
            grad_x = grad_x.narrow(axis, 0, length)  # the rest is output padding above the stride
    if wanted[1]:
        image, kernel = (grad, x) if transposed else (x, grad)
        grad_weight = _weight_gradient(image, kernel, size, stride, padding, dilation, groups)
    if wanted[2]:
        grad_bias = grad.sum([0, *(2 + i for i in axes)])
    return grad_x, grad_weight, grad_bias


def _spread(grad: Tensor, x: Tensor, windows: Sequence[Iterable[tuple[int, int, int]]]) -> Tensor:
    """Backward of means over windows, a ``(first, last + 1, divisor)`` per axis and output."""
    for axis, spans in enumerate(windows, start=x.dim() - len(windows)):
        length = x.shape[axis]
        matrix = torch.tensor(
            [[float(a <= i < b) / divisor for i in range(length)] for a, b, divisor in spans]
        )
        grad = (grad.transpose(axis, -1) @ matrix).transpose(axis, -1)
    return grad


def avg_pool_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    _ceil_mode: bool,
    count_include_pad: bool,
    _divisor_override: int | None,
) -> Tensor:
    """``aten.avg_pool2d_backward`` and ``3d``; an empty stride equals the kernel."""
    num_axes = x.dim() - 2
    kernel, padding = _per_axis(kernel, num_axes), _per_axis(padding, num_axes)
    stride = _per_axis(stride or kernel, num_axes)

    def spans(i: int) -> Iterable[tuple[int, int, int]]:
        size = x.shape[2 + i]
        for output in range(grad.shape[2 + i]):
            begin = output * stride[i] - padding[i]
            end = min(begin + kernel[i], size + padding[i])
            first, last = max(begin, 0), min(end, size)
            yield first, last, end - begin if count_include_pad else last - first

    return _spread(grad, x, [spans(i) for i in range(num_axes)])


def adaptive_avg_pool_backward(grad: Tensor, x: Tensor) -> Tensor:
    """``aten._adaptive_avg_pool2d_backward`` and ``3d``."""

    def spans(axis: int) -> Iterable[tuple[int, int, int]]:
        size, outputs = x.shape[axis], grad.shape[axis]
        for output in range(outputs):
            begin, end = output * size // outputs, -(-(output + 1) * size // outputs)
            yield begin, end, end - begin

    return _spread(grad, x, [spans(axis) for axis in range(2, x.dim())])


def _pad_backward(source: Callable[[int, int], int]) -> Callable[..., Tensor]:
    """Backward of padding; `source` maps a position and an axis size to an input element."""

    def backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
        def spans(axis: int) -> Iterable[tuple[int, int, int]]:
            before = padding[2 * (x.dim() - 1 - axis)]
            for output in range(grad.shape[axis]):
                index = source(output - before, x.shape[axis])
                yield index, index + 1, 1

        first = x.dim() - len(padding) // 2
        return _spread(grad, x, [spans(axis) for axis in range(first, x.dim())])

    return backward


_reflection_pad = _pad_backward(lambda position, size: size - 1 - abs(size - 1 - abs(position)))
_replication_pad = _pad_backward(lambda position, size: min(max(position, 0), size - 1))


def _embed(grad: Tensor, axis: int, before: int, after: int) -> Tensor:
    pads = [0] * (2 * grad.dim())
    pads[-2 * axis - 2 : len(pads) - 2 * axis] = [before, after]  # pads start at the last axis
    result: Tensor = aten.constant_pad_nd(grad, pads)
    return result


def select_backward(
    grad: Tensor, sizes: Sequence[int | SymInt], dim: int, index: int | SymInt
) -> Tensor:
    """Backward of ``x.select(dim, index)``, ``x`` of shape ``sizes``."""
    dim, size = dim % len(sizes), sizes[dim]
    if isinstance(size, SymInt) or isinstance(index, SymInt):
        return _NOT_COVERED
    return _embed(grad.unsqueeze(dim), dim, index % size, size - 1 - index % size)


def slice_backward(
    grad: Tensor,
    sizes: Sequence[int | SymInt],
    dim: int,
    start: int | SymInt,
    end: int | SymInt,
    step: int,
) -> Tensor:
    """Backward of ``x[start:end:step]`` along ``dim``, ``x`` of shape ``sizes``."""
    dim, size = dim % len(sizes), sizes[dim]
    kept: int | SymInt = grad.shape[dim]
    if isinstance(size, SymInt):  # the batch; most slices take all of it
        return grad if isinstance(kept, SymInt) and kept == size else _NOT_COVERED
    if step != 1 or isinstance(start, SymInt) or isinstance(end, SymInt):
        return _NOT_COVERED
    begin, stop, _ = slice(start, end).indices(size)
    return _embed(grad, dim, begin, size - stop) if stop - begin < size else grad


def diagonal_backward(
    grad: Tensor, sizes: Sequence[int | SymInt], offset: int, dim1: int, dim2: int
) -> Tensor:
    """Backward of ``x.diagonal(offset, dim1, dim2)``, ``x`` of shape ``sizes``."""
    rows, columns = sizes[dim1], sizes[dim2]
    if isinstance(rows, SymInt) or isinstance(columns, SymInt):
        return _NOT_COVERED
    places = [i * columns + i + offset for i in range(rows) if 0 <= i + offset < columns]
    embedded = _scatter(grad, places, rows * columns).reshape(*grad.shape[:-1], rows, columns)
    return embedded.movedim((-2, -1), (dim1, dim2))


def unfold_backward(
    grad: Tensor, sizes: Sequence[int | SymInt], dim: int, size: int, step: int
) -> Tensor:
    """Backward of ``x.unfold(dim, size, step)``, ``x`` of shape ``sizes``."""
    length = sizes[dim]
    if isinstance(length, SymInt):
        return _NOT_COVERED
    places = [step * i + j for i in range(grad.shape[dim]) for j in range(size)]
    return _scatter(grad.movedim(dim, -2).flatten(-2), places, length).movedim(-1, dim)


def _scatter(grad: Tensor, places: Sequence[int], length: int) -> Tensor:
    """Add the last axis's elements to their places in an axis of `length`."""
    matrix = [[float(i == place) for i in range(length)] for place in places]
    return grad @ torch.tensor(matrix)


# Operator overload (a type without a public name) to decomposition.
_BACKWARD: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.avg_pool2d_backward.default: avg_pool_backward,
    aten.avg_pool3d_backward.default: avg_pool_backward,
    aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool_backward,  # noqa: SLF001 (aten)
    aten._adaptive_avg_pool3d_backward.default: adaptive_avg_pool_backward,  # noqa: SLF001 (aten)
    aten.diagonal_backward.default: diagonal_backward,
    aten.reflection_pad1d_backward.default: _reflection_pad,
    aten.reflection_pad2d_backward.default: _reflection_pad,
    aten.reflection_pad3d_backward.default: _reflection_pad,
    aten.replication_pad1d_backward.default: _replication_pad,
    aten.replication_pad2d_backward.default: _replication_pad,
    aten.replication_pad3d_backward.default: _replication_pad,
    aten.select_backward.default: select_backward,
    aten.slice_backward.default: slice_backward,
    aten.unfold_backward.default: unfold_backward,
}


def backward_decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the decompositions of all backward operators, by operator."""
    known = torch.export.default_decompositions()
    return {each: known[each] for each in known if "_backward" in str(each)} | _BACKWARD
