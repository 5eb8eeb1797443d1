"""Rewritten operators compute what PyTorch's do, and so do their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from supsup_train.programs.backward_ops import diagonal_backward, unfold_backward
from supsup_train.programs.forward_ops import DIFFERENTIABLE, PORTABLE

aten = torch.ops.aten
MODES = {"sum": 0, "mean": 1, "max": 2}


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agree(operator: Callable[..., Any], inputs: list[Tensor], *others: object) -> None:
    """Compare an operator and the gradients of its first output with its replacement's."""
    found = []
    for function in (operator, DIFFERENTIABLE[operator]):
        free = [each.clone().requires_grad_() for each in inputs]
        result = function(*free, *others)
        first = result[0] if isinstance(result, tuple) else result
        pull = values(*first.shape, seed=9)
        found.append((first, *torch.autograd.grad(first, free, pull, materialize_grads=True)))
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(1,), (3,), (7,), (4, 3), (1, 1), (2, 3, 1)])
def test_adaptive_max_pool(size: tuple[int, ...]) -> None:
    operator = getattr(aten, f"adaptive_max_pool{len(size)}d").default
    agree(operator, [values(2, 3, *[7] * len(size))], size)


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_adaptive_avg_pool(size: tuple[int, ...]) -> None:
    agree(aten.adaptive_avg_pool2d.default, [values(2, 3, 7, 7)], size)


@pytest.mark.parametrize("of_input", [True, False])
def test_instance_norm(*, of_input: bool) -> None:
    tensors = [values(2, 3, 5), values(3, seed=1), values(3, seed=2)]
    statistics = values(3, seed=3), values(3, seed=4).square()
    operator = aten.instance_norm.default
    agree(operator, tensors, *statistics, of_input, 0.1, 1e-5, False)


@pytest.mark.parametrize(("dim", "length"), [(0, (4, 1, 1)), (1, (1, 3, 1))])
def test_weight_norm(dim: int, length: tuple[int, ...]) -> None:
    agree(aten._weight_norm.default, [values(4, 3, 2), values(*length)], dim)


@pytest.mark.parametrize("shape", [(2,), (2, 5)])
def test_bilinear(shape: tuple[int, ...]) -> None:
    tensors = [values(*shape, 3), values(*shape, 4, seed=1), values(6, 3, 4, seed=2)]
    agree(aten.bilinear.default, tensors)
    agree(aten.bilinear.default, [*tensors, values(6, seed=3)])


@pytest.mark.parametrize("zeros", [0, 1, 2])
@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_product(length: int, zeros: int) -> None:
    x = values(3, length, 2)
    x[0, :zeros] = 0
    agree(aten.prod.dim_int, [x], 1)
    agree(aten.prod.dim_int, [x], -2, True)


def test_sign() -> None:
    agree(aten.sgn.default, [values(3, 4)])


def test_cumulative_product() -> None:
    agree(aten.cumprod.default, [values(3, 4, 2)], 1)


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("mode", [0, 1, 2])
def test_grid_sample(mode: int, padding: int, *, corners: bool) -> None:
    grid = 1.3 * torch.tanh(values(2, 3, 5, 2, seed=1))
    agree(aten.grid_sampler.default, [values(2, 3, 6, 7), grid], mode, padding, corners)


def test_affine_grid() -> None:
    agree(aten.affine_grid_generator.default, [values(2, 2, 3)], [2, 1, 4, 5], False)


@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [True, False])
def test_embedding_bag(mode: str, padding: int | None, *, last: bool) -> None:
    indices, offsets = torch.tensor([1, 3, 0, 2, 2, 1]), torch.tensor([0, 2, 5])
    rows = values(4, 3)
    wanted, got = (each.clone().requires_grad_() for each in (rows, rows))
    ends = torch.tensor([0, 2, 5, 6]) if last else offsets
    options: dict[str, Any] = {"mode": mode, "include_last_offset": last, "padding_idx": padding}
    want = functional.embedding_bag(indices, wanted, ends, **options)
    replacement = PORTABLE[aten.embedding_bag.padding_idx]
    found = replacement(got, indices, ends, False, MODES[mode], False, None, last, padding)[0]
    torch.testing.assert_close(found, want)
    slopes = [
        torch.autograd.grad(each.square().sum(), rows)
        for each, rows in ((want, wanted), (found, got))
    ]
    torch.testing.assert_close(*slopes)


def test_embedding_bag_with_factors() -> None:
    rows, factors = values(4, 3), values(4, seed=1)
    indices, offsets = torch.tensor([1, 3, 0, 2]), torch.tensor([0, 3])
    want = functional.embedding_bag(indices, rows, offsets, mode="sum", per_sample_weights=factors)
    replacement = PORTABLE[aten.embedding_bag.padding_idx]
    got = replacement(rows, indices, offsets, False, 0, False, factors, False, None)[0]
    torch.testing.assert_close(got, want)


def test_atan2_in_all_directions() -> None:
    sides = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, -1e-30, 1e30])
    y, x = (each.reshape(-1) for each in torch.meshgrid(sides, sides, indexing="ij"))
    moving = (x != 0) | (y != 0)  # the origin has no direction; torch.onnx says 0, and so do we
    y, x = y[moving], x[moving]
    torch.testing.assert_close(PORTABLE[aten.atan2.default](y, x), torch.atan2(y, x))
    assert PORTABLE[aten.atan2.default](torch.zeros(1), -torch.ones(1)).item() == pytest.approx(
        math.pi
    )


@pytest.mark.parametrize(("dims", "offset"), [((1, 2), 0), ((2, 1), 1), ((-1, -2), -2)])
def test_diagonal_backward(dims: tuple[int, int], offset: int) -> None:
    x = values(3, 4, 6).requires_grad_()
    taken = x.diagonal(offset, *dims)
    pull = values(*taken.shape, seed=1).float()
    (want,) = torch.autograd.grad(taken, x, pull.double())
    got = diagonal_backward(pull, x.shape, offset, *dims)
    torch.testing.assert_close(got, want.float())


@pytest.mark.parametrize(("dim", "size", "step"), [(1, 2, 1), (2, 3, 2), (-1, 6, 1)])
def test_unfold_backward(dim: int, size: int, step: int) -> None:
    x = values(3, 4, 6).float().requires_grad_()
    taken = x.unfold(dim, size, step)
    pull = values(*taken.shape, seed=1).float()
    (want,) = torch.autograd.grad(taken, x, pull)
    torch.testing.assert_close(unfold_backward(pull, x.shape, dim % 3, size, step), want)


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("both_ways", [True, False])
def test_simple_recurrent_layers(name: str, *, both_ways: bool) -> None:
    kind = name.removeprefix("rnn_")
    layer = torch.nn.RNN(
        3, 4, 2, nonlinearity=kind, bidirectional=both_ways, batch_first=True, dtype=torch.float64
    )
    x, state = values(2, 5, 3), values(4 if both_ways else 2, 2, 4)
    options = (True, 2, 0.0, False, both_ways, True)
    operator: Callable[..., Any] = getattr(aten, name).input
    for want, got in zip(
        operator(x, state, layer._flat_weights, *options),
        DIFFERENTIABLE[operator](x, state, layer._flat_weights, *options),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_a_long_unrolling_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    operator = DIFFERENTIABLE[aten.rnn_tanh.input]
    layer = torch.nn.RNN(3, 4, batch_first=True)
    for steps in (10, 40):
        x, state = torch.zeros(1, steps, 3), torch.zeros(1, 1, 4)
        operator(x, state, layer._flat_weights, True, 1, 0.0, False, False, True)
    assert [record.getMessage() for record in caplog.records] == [
        "unrolling a recurrent layer into 40 cells; the export takes about 92 seconds"
    ]
