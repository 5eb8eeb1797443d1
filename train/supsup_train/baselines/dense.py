"""The bounds: a model of its own for each task, and one model that all tasks in turn learn.

The lower bound has nothing of a task's own. So that it is evaluated as all others are, its bank
holds the last layer as each task's state, the same for all of them.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from supsup_train.baselines.base import Baseline, draw_kaiming
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.networks.models import Mlp

__all__ = ["Dense", "Sequence"]


class Dense(Baseline):
    """The upper bound: every weight is the task's own."""

    def __init__(self, recipe: BaselineRecipe, sizes: list[int]) -> None:
        names = [f"layers.{i}.weight" for i in range(len(sizes) - 1)]
        super().__init__(recipe, Mlp(sizes), names)

    def begin(self, name: str) -> None:
        """Fresh weights."""
        draw_kaiming(self.tensors(), self.generator(f"weights of {name}"))

    def learned(self, *, first: bool) -> list[Tensor]:  # noqa: ARG002 - all tasks are alike
        """All weights."""
        return list(self.tensors().values())


class Sequence(Baseline):
    """The lower bound: every task goes on with all weights of the one before."""

    in_sequence: ClassVar[bool] = True

    def __init__(self, recipe: BaselineRecipe, sizes: list[int]) -> None:
        last = f"layers.{len(sizes) - 2}.weight"
        super().__init__(recipe, Mlp(sizes), [last])
        draw_kaiming({last: self.tensors()[last]}, self.generator("last layer"))

    def begin(self, name: str) -> None:
        """Nothing: what the task before left."""

    def learned(self, *, first: bool) -> list[Tensor]:  # noqa: ARG002 - all tasks are alike
        """All weights."""
        return list(self.tensors().values())
