"""Batch normalisation of own images and negatives by the statistics of the own images alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def own_statistics(own: int, rows: int) -> AbstractContextManager[Any]:
    """Within this, `batch_norm` in training takes statistics of the first `own` of `rows` inputs.

    They normalise all rows, and alone enter the running statistics. Normalised by statistics of
    all rows, negatives would be told by what they change in these: 26.9 % of tasks are then
    inferred right where 85.1 % are without.
    """
    return _OwnStatistics(own, rows) if own < rows else nullcontext()


class _OwnStatistics(TorchFunctionMode):
    def __init__(self, own: int, rows: int) -> None:
        super().__init__()
        self._own, self._rows = own, rows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as above
        if func is nn.functional.batch_norm:
            bound = signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            if bound.arguments["training"]:
                return self._normalised(bound.arguments.pop("input"), **bound.arguments)
        return func(*args, **(kwargs or {}))

    def _normalised(
        self, x: Tensor, *, weight: Tensor | None, bias: Tensor | None, eps: float, **rest: Any
    ) -> Tensor:
        if len(x) % self._rows:
            raise ValueError(f"batch normalisation of {len(x)} rows from {self._rows} inputs")
        own, others = x.tensor_split([len(x) // self._rows * self._own])
        y = nn.functional.batch_norm(own, weight=weight, bias=bias, eps=eps, **rest)
        dims, channels = [0, *range(2, x.dim())], (-1, *[1] * (x.dim() - 2))
        var, mean = torch.var_mean(own.float(), dims, correction=0, keepdim=True)
        z = (others.float() - mean) * torch.rsqrt(var + eps)
        z = z if weight is None else z * weight.view(channels)
        z = z if bias is None else z + bias.view(channels)
        return torch.cat([y, z.to(y.dtype)])
