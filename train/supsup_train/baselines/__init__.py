"""What masks are compared with: BatchE, PSP, separate heads, and the bounds (paper, section 4).

A baseline's bank has no masks: all that a task has of its own is state. So it is exported, run and
evaluated as every other bank.
"""

from supsup_train.baselines.recipe import METHODS, BaselineMethod, BaselineRecipe
from supsup_train.baselines.run import Run, make_baseline, train_stream

__all__ = ["METHODS", "BaselineMethod", "BaselineRecipe", "Run", "make_baseline", "train_stream"]
