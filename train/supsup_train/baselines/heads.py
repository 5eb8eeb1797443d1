"""Baselines over a plain perceptron, of which the last layer or all of it is a task's own.

Separate heads: a trunk that all tasks share, learned with the first task or left random, and a last
layer of each task's own. The upper bound, ``dense``: every weight is the task's own.

The lower bound, ``sequence``: every task goes on with all weights of the one before. It has nothing
of a task's own. So that it is evaluated as all others are, its bank holds the last layer as each
task's state, the same for all of them.
"""

from __future__ import annotations

from supsup_train.baselines.base import Baseline
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.networks.models import Mlp


class Heads(Baseline):
    """Separate heads, and the bounds."""

    def __init__(self, recipe: BaselineRecipe, sizes: list[int]) -> None:
        names = [f"layers.{i}.weight" for i in range(len(sizes) - 1)]
        super().__init__(recipe, Mlp(sizes), names if recipe.method == "dense" else names[-1:])
        if recipe.method == "sequence":
            self.draw(self.own_tensors(), self.generator("last layer"))

    def begin(self, name: str) -> None:
        """Fresh weights; in sequence, what the task before left."""
        if not self.in_sequence:
            what = "weights" if self.recipe.method == "dense" else "head"
            self.draw(self.own_tensors(), self.generator(f"{what} of {name}"))
