"""BNNet: a network with masked units (Wortsman et al. 2020, HopSupSup).

The layers' weights are seeded signed constants. The mask is the scale of the batch normalisation
before each Swish: Swish of 0 is 0, so a scale of 0 removes a unit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from supsup_runtime.bank.weights import kaiming_constant, seeded_weight
from supsup_runtime.errors import InputError

EPS = 1e-5
"""Added to variances."""
MOMENTUM = 0.1
"""Weight of the newest batch in running statistics."""


class SignedLinear(nn.Module):
    """A layer without bias, with fixed weights ``+-sqrt(2 / inputs)``, signs from a seed.

    The seed is in ``[0, 2**64)``, `layer` the layer's number (docs/FORMAT.md, seeded weights).

    Attributes:
        weight: ``float32 (inputs, outputs)``. In this order both programs share the constant, and
            a model stores it once.
    """

    weight: Tensor

    def __init__(self, inputs: int, outputs: int, *, weight_seed: int, layer: int) -> None:
        super().__init__()
        shape = (outputs, inputs)
        values = seeded_weight(weight_seed, layer, shape, kaiming_constant(shape))
        self.register_buffer("weight", torch.from_numpy(values.T.copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, inputs)`` to ``float32 (batch, outputs)``."""
        return x @ self.weight


class BatchBlend(nn.Module):
    """Batch normalisation with blended statistics, scaled by a unit mask.

    ``mean = blend * batch mean + (1 - blend) * running mean``, the variance (biased) likewise, and
    ``y = (x - mean) / sqrt(variance + 1e-5) * weight``.

    `blend`, one element, and the running statistics are state. Training uses the batch's statistics
    and updates the running ones as `torch.nn.BatchNorm1d` does. A trained task has a blend of 0. A
    blend of 1 is the paper's code; it normalises a batch of one image to 0.
    """

    masked_names: ClassVar[tuple[str, ...]] = ("weight",)
    state_names: ClassVar[tuple[str, ...]] = ("blend", "running_mean", "running_var")
    blend: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(units))
        self.register_buffer("blend", torch.zeros(1))
        self.register_buffer("running_mean", torch.zeros(units))
        self.register_buffer("running_var", torch.ones(units))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, units)`` to the same; training needs at least two rows."""
        mean = x.mean(0)
        var = (x - mean).square().mean(0)
        if self.training:
            self._follow(mean.detach(), var.detach(), len(x))
        else:
            mean = self.blend * mean + (1 - self.blend) * self.running_mean
            var = self.blend * var + (1 - self.blend) * self.running_var
        return (x - mean) * (torch.rsqrt(var + EPS) * self.weight)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, rows: int) -> None:
        if rows < 2:
            raise InputError(
                f"batch_size: batch normalisation learns from batches of at least 2, got {rows}; "
                "use larger batches"
            )
        self.running_mean.lerp_(mean, MOMENTUM)
        self.running_var.lerp_(var * (rows / (rows - 1)), MOMENTUM)


class BnNet(nn.Module):
    """Fixed layers with unit-masked batch normalisation and Swish between them."""

    def __init__(self, sizes: list[int], *, weight_seed: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SignedLinear(a, b, weight_seed=weight_seed, layer=layer)
            for layer, (a, b) in enumerate(pairwise(sizes))
        )
        self.norms = nn.ModuleList(BatchBlend(units) for units in sizes[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, sizes[0])`` to ``float32 (batch, sizes[-1])``."""
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = silu(norm(layer(x)))
        logits: Tensor = self.layers[-1](x)
        return logits
