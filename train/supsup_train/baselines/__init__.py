"""Baselines: BatchE, PSP, separate heads, and the bounds (paper, section 4).

The bank of a baseline has no masks, only state, and is exported and evaluated like any other.
"""

from supsup_train.baselines.recipe import METHODS, BaselineMethod, BaselineRecipe
from supsup_train.baselines.run import make_baseline, train_baseline

__all__ = ["METHODS", "BaselineMethod", "BaselineRecipe", "make_baseline", "train_baseline"]
