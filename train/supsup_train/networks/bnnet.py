"""BNNet: a network whose units are masked, not its weights (Wortsman et al. 2020, HopSupSup).

The layers' weights are seeded signed constants, the same for all tasks and never trained. Before
each Swish stands a batch normalisation whose scale is the mask: as Swish of 0 is 0, a scale of 0
takes a unit out. So a mask has a bit for each unit, few enough for a Hopfield network.

Nothing here is known to the rest of the trainer by name. A module says by `masked_names` and
`state_names` which of its tensors are masked, and which a task has of its own
(`supsup_train.networks.create_bank`).
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
"""Added to a variance."""
MOMENTUM = 0.1
"""Weight of the newest batch in running statistics."""


class SignedLinear(nn.Module):
    """A layer without bias whose weights are fixed: ``+-sqrt(2 / inputs)``, signs from a seed.

    Attributes:
        weight: ``float32 (inputs, outputs)``: in this order the forward and the gradient program
            hold the same constant, and a model stores it once.
    """

    weight: Tensor

    def __init__(self, inputs: int, outputs: int, *, weight_seed: int, layer: int) -> None:
        """Grow the weights; they depend on the arguments alone (docs/FORMAT.md, seeded weights).

        The seed is in ``[0, 2**64)``; `layer` is the number of the layer in its network.
        """
        super().__init__()
        shape = (outputs, inputs)
        values = seeded_weight(weight_seed, layer, shape, kaiming_constant(shape))
        self.register_buffer("weight", torch.from_numpy(values.T.copy()))

    def forward(self, x: Tensor) -> Tensor:
        """``float32 (batch, inputs)`` to ``float32 (batch, outputs)``."""
        return x @ self.weight


class BatchBlend(nn.Module):
    """Batch normalisation between the batch's statistics and the task's own, times a unit mask.

    ``mean = blend * batch mean + (1 - blend) * running mean``, the variance likewise, and
    ``y = (x - mean) / sqrt(variance + 1e-5) * weight``. The batch's variance is the biased one.

    Every task has its own `blend` (one element) and running statistics. A task is learned as if
    its blend were 1, on the batch's statistics, while the running ones follow them: a tenth of
    each newest batch's, the variance unbiased, as in `torch.nn.BatchNorm1d`. It is written with
    a blend of 0: then one image is as good as a batch. With a blend of 1 the statistics are the
    batch's, as in the paper's code; there a batch of one image is normalised to 0.
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
        """``float32 (batch, units)`` to the same; in training the running statistics follow.

        Raises:
            InputError: In training, if the batch has a single row, of which nothing is left.
        """
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
                "take larger batches"
            )
        self.running_mean.lerp_(mean, MOMENTUM)
        self.running_var.lerp_(var * (rows / (rows - 1)), MOMENTUM)


class BnNet(nn.Module):
    """Fixed layers; between them batch normalisation with a unit mask as its scale, and Swish."""

    def __init__(self, sizes: list[int], *, weight_seed: int = 0) -> None:
        """Grow a network of `sizes`: inputs, units of each hidden layer, outputs."""
        super().__init__()
        self.layers = nn.ModuleList(
            SignedLinear(a, b, weight_seed=weight_seed, layer=layer)
            for layer, (a, b) in enumerate(pairwise(sizes))
        )
        self.norms = nn.ModuleList(BatchBlend(units) for units in sizes[1:-1])

    def forward(self, x: Tensor) -> Tensor:
        """``float32 (batch, sizes[0])`` to ``float32 (batch, sizes[-1])``."""
        for layer, norm in zip(self.layers[:-1], self.norms, strict=True):
            x = silu(norm(layer(x)))
        logits: Tensor = self.layers[-1](x)
        return logits
