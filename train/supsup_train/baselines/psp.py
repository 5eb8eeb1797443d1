"""PSP with rotation contexts (Cheung et al. 2019).

A layer computes ``y = W @ (C_i @ x)``, where ``C_i``, state, is a fixed random orthogonal matrix of
task `i`: 2.9 MB per task for LeNet 300-100. All tasks train ``W``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Floats
from supsup_train.baselines.base import Baseline
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.masks.learning import task_seed
from supsup_train.networks.models import layer_stack


class PspMlp(nn.Module):
    """Fully connected layers behind contexts, with ReLU between them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = layer_stack(sizes)
        for i, size in enumerate(sizes[:-1]):
            self.register_buffer(f"context{i}", torch.eye(size))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, sizes[0])`` to ``(batch, sizes[-1])``."""
        for i, layer in enumerate(self.layers):
            context = self.get_buffer(f"context{i}")
            x = layer(nn.functional.linear(torch.relu(x) if i else x, context))
        return x


class Psp(Baseline):
    """PSP with rotation contexts."""

    def __init__(self, recipe: BaselineRecipe, sizes: list[int]) -> None:
        names = [f"context{i}" for i in range(len(sizes) - 1)]
        super().__init__(recipe, PspMlp(sizes), names)

    def draw(self, weights: dict[str, Tensor], generator: torch.Generator) -> None:
        """Draw from Xavier's normal ``N(0, 2 / (fan_in + fan_out))``."""
        with torch.no_grad():
            for weight in weights.values():
                nn.init.xavier_normal_(weight, generator=generator)

    def begin(self, name: str) -> None:
        """Draw the contexts from the seed and the task's name."""
        for layer, key in enumerate(self.state):
            context = self.module.get_buffer(key)
            seed = task_seed(self.recipe.seed, f"context {layer} of {name}")
            context.copy_(torch.from_numpy(orthogonal(len(context), seed)))


def orthogonal(size: int, seed: int) -> Floats:
    """Draw a uniform random orthogonal matrix (Mezzadri 2007), ``float32 (size, size)``."""
    gaussian = np.random.default_rng(seed).standard_normal((size, size))
    q, r = np.linalg.qr(gaussian)
    return np.asarray(q * np.sign(np.diagonal(r)), np.float32)
