"""BatchE (Wen et al. 2020): all tasks share a weight, each has two vectors a layer of its own.

A layer computes ``y = s * (W @ (t * x))``, that is ``(W * outer(s, t)) @ x``. The first task learns
``W`` and its vectors, later ones their vectors alone; with random weights ``W`` is never learned.

**Superposing.** A bank superposes what a task has of its own. Of the vectors that gives
``W * outer(sum_i a_i s_i, sum_j a_j t_j)``, in which each task's ``s`` meets every other's ``t``:
of its ``K ** 2`` products only K are a task's own. One-shot inference of BatchE in the SupSup paper
puts an alpha on each rank-one matrix, ``W * sum_i a_i outer(s_i, t_i)``. Such a sum is no rank-one
matrix, so for that the matrix itself must be the task's own: `matrices` writes it to the bank, as
many floats as there are weights. It is learned as two vectors in either case, and a known task
computes the same.
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
    """Fully connected layers between vectors, ReLU between them."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = layer_stack(sizes)
        self.t = nn.ParameterList(torch.ones(size) for size in sizes[:-1])
        self.s = nn.ParameterList(torch.ones(size) for size in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """``float32 (batch, sizes[0])`` to ``float32 (batch, sizes[-1])``."""
        for i, layer in enumerate(self.layers):
            x = layer((torch.relu(x) if i else x) * self.t[i]) * self.s[i]
        return x


class RankOneMlp(nn.Module):
    """The same, with ``outer(s, t)`` of each layer in place of `s` and `t`."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = layer_stack(sizes)
        self.matrices = nn.ParameterList(torch.ones(b, a) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """``float32 (batch, sizes[0])`` to ``float32 (batch, sizes[-1])``."""
        for i, layer in enumerate(self.layers):
            weight = layer.weight * self.matrices[i]
            x = nn.functional.linear(torch.relu(x) if i else x, weight)
        return x


class BatchE(Baseline):
    """BatchE; the first task learns the weights that all share, or they stay random."""

    module: BatchEMlp

    def __init__(self, recipe: BaselineRecipe, sizes: list[int], *, matrices: bool = False) -> None:
        """Make a network; `matrices` writes rank-one matrices to the bank rather than vectors."""
        self._sizes = sizes
        self._matrices = matrices
        count = len(sizes) - 1
        names = [f"{key}.{i}" for i in range(count) for key in ("t", "s")]
        super().__init__(recipe, BatchEMlp(sizes), names)

    def begin(self, name: str) -> None:
        """Random signs."""
        generator = self.generator(f"vectors of {name}")
        with torch.no_grad():
            for vector in self.own_tensors().values():
                signs = torch.randint(0, 2, vector.shape, generator=generator)
                vector.copy_(2 * signs - 1)

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """With matrices, a `RankOneMlp` of the same weights."""
        if not self._matrices:
            return super().in_bank()
        module = RankOneMlp(self._sizes)
        module.layers.load_state_dict(self.module.layers.state_dict())
        return module, [f"matrices.{i}" for i in range(len(self.module.layers))]

    def to_bank(self, state: State) -> State:
        """With matrices, ``outer(s, t)`` of each layer."""
        if not self._matrices:
            return state
        layers = range(len(self.module.layers))
        return {f"matrices.{i}": np.outer(state[f"s.{i}"], state[f"t.{i}"]) for i in layers}
