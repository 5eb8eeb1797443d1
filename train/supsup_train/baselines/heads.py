"""Separate heads: a trunk that all tasks share, and a last layer of each task's own.

The trunk is learned with the first task, or stays random.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from supsup_train.baselines.base import Baseline, draw_kaiming
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.networks.models import Mlp

__all__ = ["Heads", "HeadsRandom"]


class Heads(Baseline):
    """Heads over a trunk that the first task learns."""

    shares: ClassVar[bool] = True

    def __init__(self, recipe: BaselineRecipe, sizes: list[int]) -> None:
        super().__init__(recipe, Mlp(sizes), [f"layers.{len(sizes) - 2}.weight"])

    def begin(self, name: str) -> None:
        """A fresh head."""
        head = {key: self.tensors()[key] for key in self.state}
        draw_kaiming(head, self.generator(f"head of {name}"))

    def learned(self, *, first: bool) -> list[Tensor]:
        """The head, and with the first task the trunk."""
        heads = [self.tensors()[key] for key in self.state]
        return heads + [*self.shared().values()] * (first and self.shares)


class HeadsRandom(Heads):
    """Heads over a trunk that stays random."""

    shares: ClassVar[bool] = False
