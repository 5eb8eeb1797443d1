"""Separate heads on a shared trunk, and the bounds.

The head is the weight that the network uses last. The upper bound, ``dense``, has separate weights
per task. The lower bound, ``sequence``, trains the same weights with every task; all tasks have its
final head as state.
"""

from __future__ import annotations

from supsup_train.baselines.base import Baseline
from supsup_train.baselines.layers import Parts
from supsup_train.baselines.recipe import BaselineRecipe


class Heads(Baseline):
    """Separate heads and the bounds."""

    def __init__(self, recipe: BaselineRecipe, parts: Parts) -> None:
        names = parts.masked if recipe.method == "dense" else [parts.head]
        super().__init__(recipe, parts, parts.module, names)
        if self.in_sequence:
            self.draw(self.method_tensors(), self.generator("last layer"))

    def start(self, name: str) -> None:
        """Draw new weights, except in sequence."""
        if not self.in_sequence:
            what = "weights" if self.recipe.method == "dense" else "head"
            self.draw(self.method_tensors(), self.generator(f"{what} of {name}"))
