"""What masks are compared with: BatchE, PSP, separate heads, and the bounds (paper, section 4).

A baseline's bank has no masks: all that a task has of its own is state. So it is exported, run and
evaluated as every other bank.
"""

from supsup_train.baselines.recipe import METHODS, BaselineMethod, BaselineRecipe
from supsup_train.baselines.run import make_baseline, train_baseline

__all__ = ["METHODS", "BaselineMethod", "BaselineRecipe", "make_baseline", "train_baseline"]
