"""BatchE (Wen et al. 2020): shared weights, and two vectors per layer and task.

A layer computes ``y = s * (W @ (t * x)) = (W * outer(s, t)) @ x``. The first task learns ``W`` too,
unless it stays random. Of a convolution, `t` has an element per input channel and `s` one per
output channel, as in Wen et al.: the product is the same at every position of the kernel.

A superposition of vectors, ``W * outer(sum_i a_i s_i, sum_j a_j t_j)``, mixes tasks. The SupSup
paper superposes rank-one matrices, ``W * sum_i a_i outer(s_i, t_i)``, which `matrices` stores as
state, one float per weight or, of a convolution, per pair of channels. Training and the outputs for
a known task do not differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supsup_runtime.arrays import Floats
from supsup_train.baselines.base import Baseline, State
from supsup_train.baselines.layers import Apply, Changed, Parts, along
from supsup_train.baselines.recipe import BaselineRecipe


class Scaled(Changed):
    """A network whose layers' inputs and outputs are scaled by the vectors."""

    def __init__(self, parts: Parts, widths: list[int]) -> None:
        super().__init__(parts, ["t", "s"])
        self.t = nn.ParameterList(torch.ones(width) for width in widths)
        self.s = nn.ParameterList(torch.ones(len(weight)) for weight in parts.weights())

    def change(self, layer: int, apply: Apply, x: Tensor, weight: Tensor) -> Tensor:
        """Scale inputs and outputs."""
        return apply(x * along(self.t[layer], weight), weight) * along(self.s[layer], weight)


class RankOne(Changed):
    """A `Scaled` network with ``outer(s, t)`` per layer instead of `s` and `t`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts, ["matrices"])
        shapes = [weight.shape for weight in parts.weights()]
        self.matrices = nn.ParameterList(torch.ones(shape[:2]) for shape in shapes)

    def change(self, layer: int, apply: Apply, x: Tensor, weight: Tensor) -> Tensor:
        """Scale the weight."""
        return apply(x, weight * along(self.matrices[layer], weight))


class BatchE(Baseline):
    """BatchE, with shared weights from the first task or random ones."""

    def __init__(self, recipe: BaselineRecipe, parts: Parts, *, matrices: bool = False) -> None:
        self._matrices = matrices
        self._layers = range(len(parts.masked))
        names = [f"{key}.{i}" for i in self._layers for key in ("t", "s")]
        super().__init__(recipe, parts, Scaled(parts, parts.widths(recipe.method)), names)

    def start(self, name: str) -> None:
        """Draw random signs."""
        generator = self.generator(f"vectors of {name}")
        for vector in self.method_tensors().values():
            signs = torch.randint(0, 2, vector.shape, generator=generator)
            vector.copy_(2 * signs - 1)

    def in_bank(self) -> tuple[nn.Module, list[str]]:
        """Return a `RankOne` if matrices are stored."""
        if not self._matrices:
            return super().in_bank()
        return RankOne(self.parts), [*(f"matrices.{i}" for i in self._layers), *self.parts.kept]

    def to_bank(self, state: State) -> State:
        """Return ``outer(s, t)`` per layer if matrices are stored."""
        if not self._matrices:
            return state
        columns = [weight.shape[1] for weight in self.parts.weights()]
        products = {
            f"matrices.{i}": outer(state[f"s.{i}"], state[f"t.{i}"], columns[i])
            for i in self._layers
        }
        return products | {key: state[key] for key in self.parts.kept}


def outer(s: Floats, t: Floats, columns: int) -> Floats:
    """Return ``outer(s, t)``, ``(len(s), columns)``; in groups if `t` has more than `columns`."""
    groups = len(t) // columns
    products = s.reshape(groups, -1, 1) * t.reshape(groups, 1, columns)
    return products.reshape(len(s), columns)
