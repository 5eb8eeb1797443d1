"""Separate heads on a shared trunk, and the bounds.

The upper bound, ``dense``, has separate weights per task. The lower bound, ``sequence``, trains the
same weights with every task; all tasks have its final last layer as state.
"""

from __future__ import annotations

from supsup_train.baselines.base import Baseline
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.networks.models import Mlp


class Heads(Baseline):
    """Separate heads and the bounds."""

    def __init__(self, recipe: BaselineRecipe, sizes: list[int]) -> None:
        names = [f"layers.{i}.weight" for i in range(len(sizes) - 1)]
        super().__init__(recipe, Mlp(sizes), names if recipe.method == "dense" else names[-1:])
        if recipe.method == "sequence":
            self.draw(self.own_tensors(), self.generator("last layer"))

    def begin(self, name: str) -> None:
        """Draw new weights, except in sequence."""
        if not self.in_sequence:
            what = "weights" if self.recipe.method == "dense" else "head"
            self.draw(self.own_tensors(), self.generator(f"{what} of {name}"))
