"""BatchE (Wen et al. 2020): shared weights, and two vectors per layer and task.

A layer computes ``y = s * (W @ (t * x)) = (W * outer(s, t)) @ x``. The first task learns ``W`` too,
unless it stays random.

A superposition of vectors, ``W * outer(sum_i a_i s_i, sum_j a_j t_j)``, mixes tasks. The SupSup
paper superposes rank-one matrices, ``W * sum_i a_i outer(s_i, t_i)``, which `matrices` stores as
state, one float per weight. Training and the outputs for a known task do not differ.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from supsup_train.baselines.base import Baseline, State
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.networks.models import layer_stack


class BatchEMlp(nn.Module):
    """Fully connected layers scaled by the vectors, with ReLU between them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = layer_stack(sizes)
        self.t = nn.ParameterList(torch.ones(size) for size in sizes[:-1])
        self.s = nn.ParameterList(torch.ones(size) for size in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, sizes[0])`` to ``(batch, sizes[-1])``."""
        for i, layer in enumerate(self.layers):
            x = layer((torch.relu(x) if i else x) * self.t[i]) * self.s[i]
        return x


class RankOneMlp(nn.Module):
    """A `BatchEMlp` with ``outer(s, t)`` per layer instead of `s` and `t`."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = layer_stack(sizes)
        self.matrices = nn.ParameterList(torch.ones(b, a) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, sizes[0])`` to ``(batch, sizes[-1])``."""
        for i, layer in enumerate(self.layers):
            weight = layer.weight * self.matrices[i]
            x = nn.functional.linear(torch.relu(x) if i else x, weight)
        return x


class BatchE(Baseline):
    """BatchE, with shared weights from the first task or random ones."""

    module: BatchEMlp

    def __init__(self, recipe: BaselineRecipe, sizes: list[int], *, matrices: bool = False) -> None:
        self._sizes = sizes
        self._matrices = matrices
        count = len(sizes) - 1
        names = [f"{key}.{i}" for i in range(count) for key in ("t", "s")]
        super().__init__(recipe, BatchEMlp(sizes), names)

    def begin(self, name: str) -> None:
        """Draw random signs."""
        generator = self.generator(f"vectors of {name}")
        with torch.no_grad():
            for vector in self.own_tensors().values():
                signs = torch.randint(0, 2, vector.shape, generator=generator)
                vector.copy_(2 * signs - 1)

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """Return a `RankOneMlp` if matrices are stored."""
        if not self._matrices:
            return super().in_bank()
        module = RankOneMlp(self._sizes)
        module.layers.load_state_dict(self.module.layers.state_dict())
        return module, [f"matrices.{i}" for i in range(len(self.module.layers))]

    def to_bank(self, state: State) -> State:
        """Return ``outer(s, t)`` per layer if matrices are stored."""
        if not self._matrices:
            return state
        layers = range(len(self.module.layers))
        return {f"matrices.{i}": np.outer(state[f"s.{i}"], state[f"t.{i}"]) for i in layers}
