"""PSP with rotation contexts (Cheung et al. 2019).

A layer computes ``y = W @ (C_i @ x)``, where ``C_i``, state, is a fixed random orthogonal matrix of
task `i`: 2.9 MB per task for LeNet 300-100. Of a convolution it rotates the input channels, at each
position alike. All tasks train ``W``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Floats
from supsup_train.baselines.base import Baseline
from supsup_train.baselines.layers import Apply, Changed, Parts, turned
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.masks.learning import task_seed


class Rotated(Changed):
    """A network whose layers' inputs are rotated."""

    def __init__(self, parts: Parts, widths: list[int]) -> None:
        names = [f"context{i}" for i in range(len(widths))]
        super().__init__(parts, names)
        for name, width in zip(names, widths, strict=True):
            self.register_buffer(name, torch.eye(width))

    def change(self, layer: int, apply: Apply, x: Tensor, weight: Tensor) -> Tensor:
        """Rotate the inputs."""
        return apply(turned(x, self.get_buffer(f"context{layer}"), weight), weight)


class Psp(Baseline):
    """PSP with rotation contexts."""

    def __init__(self, recipe: BaselineRecipe, parts: Parts) -> None:
        names = [f"context{i}" for i in range(len(parts.masked))]
        super().__init__(recipe, parts, Rotated(parts, parts.widths(recipe.method)), names)

    def draw_weight(self, weight: Tensor, generator: torch.Generator) -> None:
        """Draw from Xavier's normal ``N(0, 2 / (fan_in + fan_out))``."""
        nn.init.xavier_normal_(weight, generator=generator)

    def start(self, name: str) -> None:
        """Draw the contexts from the seed and the task's name."""
        for layer, context in enumerate(self.method_tensors().values()):
            seed = task_seed(self.recipe.seed, f"context {layer} of {name}")
            context.copy_(torch.from_numpy(orthogonal(len(context), seed)))


def orthogonal(size: int, seed: int) -> Floats:
    """Draw a uniform random orthogonal matrix (Mezzadri 2007), ``float32 (size, size)``."""
    gaussian = np.random.default_rng(seed).standard_normal((size, size))
    q, r = np.linalg.qr(gaussian)
    return np.asarray(q * np.sign(np.diagonal(r)), np.float32)
