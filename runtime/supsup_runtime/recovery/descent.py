"""Settings and schedules of a recovery, and gradient descent on scores.

Scores, whose signs are the mask, follow the straight-through gradient of ``entropy_strength H +
energy_strength E``, one step per batch (Wortsman et al. 2020, HopSupSup).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from supsup_runtime.arrays import Floats, check_choice, check_kind, check_number, checked_whole
from supsup_runtime.errors import InputError

Schedule = Callable[[int, int], tuple[float, float]]
"""Maps step `t` of `steps`, from 0, to the shares of entropy and energy."""
Statistics = Literal["batch", "running"]
"""Batch normalisation by the batch's own statistics, or by the mean of the stored tasks'."""

LARGEST = float(np.finfo(np.float32).max)


def linear(step: int, steps: int) -> tuple[float, float]:
    """Shift evenly from entropy to energy, which is alone in the last step, as in the paper."""
    energy = (step + 1) / steps
    return 1 - energy, energy


def constant(_step: int, _steps: int) -> tuple[float, float]:
    """Return full shares of entropy and energy in every step."""
    return 1.0, 1.0


SCHEDULES: dict[str, Schedule] = {"linear": linear, "constant": constant}


_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "step_size": (lambda value: 0 < value <= LARGEST, "positive, and a float32"),
    "momentum": (lambda value: 0 <= value < 1, "in [0, 1)"),
    "weight_decay": (lambda value: 0 <= value <= LARGEST, "at least 0, and a float32"),
    "energy_strength": (lambda value: 0 <= value <= LARGEST, "at least 0, and a float32"),
    "max_entropy_ratio": (lambda value: value >= 1, "at least 1"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovery:
    """Settings of a recovery; defaults follow the paper's code, except for looks.

    Attributes:
        step_size: Step size on the scores, positive.
        momentum: In ``[0, 1)``.
        weight_decay: Fraction of the scores added to the gradient, at least 0.
        energy_strength: Factor of the energy, times the schedule's share; at least 0.
        start: Initial scores: ``mean`` of the stored patterns, ``zero``, or ``float32
            (num_masked,)``.
        statistics: ``batch``, as in the paper, or ``running``, which batches of one row always use.
        look_every: Steps between looks. A look settles the mask and ends the recovery if it is a
            stored task's whose recorded entropy fits. 0 never looks, as in the paper.
        restart_every: Steps without a match before descent and schedule restart, if at least half
            as many are left. 0, or ``look_every=0``, never restarts.
        max_entropy_ratio: Largest entropy of a match, relative to the stored task's own; at least
            1.

    Raises:
        InputError: If a value is out of range, or weight decay makes the scores diverge.
    """

    step_size: float = 500.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    energy_strength: float = 1.5e-3
    start: Literal["mean", "zero"] | Floats = "mean"
    statistics: Statistics = "batch"
    look_every: int = 1
    restart_every: int = 10
    max_entropy_ratio: float = 1.25

    def __post_init__(self) -> None:
        for name, (fine, rule) in _RULES.items():
            check_number(f"{name}:", getattr(self, name), fine, rule)
        for name in ("look_every", "restart_every"):
            checked_whole(f"{name}:", getattr(self, name), 0)
        check_statistics(self.statistics)
        if isinstance(self.start, str):
            check_choice("start:", self.start, ("mean", "zero"))
        else:
            check_kind("start:", self.start, np.ndarray, "mean, zero or an array")
        # s' = s - step (decay s + momentum ...) is stable below 2 (1 + momentum) (Polyak 1964)
        if self.weight_decay and self.step_size * self.weight_decay >= 2 * (1 + self.momentum):
            limit = 2 * (1 + self.momentum) / self.weight_decay
            raise InputError(
                f"step_size: must be below {limit:g} with weight_decay {self.weight_decay:g} and "
                f"momentum {self.momentum:g}, or the scores diverge, got {self.step_size:g}"
            )


def check_statistics(statistics: str) -> None:
    """Raise `InputError` unless `statistics` is one of `Statistics`."""
    check_choice("statistics:", statistics, get_args(Statistics))


class Descent:
    """SGD with momentum and weight decay on float32 scores, like `torch.optim.SGD`."""

    def __init__(self, scores: Floats, how: Recovery) -> None:
        self.scores = scores.astype(np.float32)
        self._velocity = np.zeros_like(self.scores)
        self._how = how

    @property
    def mask(self) -> Floats:
        """1 where the score is at least 0, else 0: ``float32 (num_masked,)``."""
        return (self.scores >= 0).astype(np.float32)

    def put(self, part: slice, scores: Floats) -> None:
        """Set part of the scores and reset its velocity."""
        self.scores[part] = scores
        self._velocity[part] = 0

    def step(self, gradient: Floats) -> bool:
        """Step along a gradient by the mask; return false, without a change, on overflow."""
        how = self._how
        with np.errstate(over="ignore", invalid="ignore"):
            slope = gradient + np.float32(how.weight_decay) * self.scores
            velocity = np.float32(how.momentum) * self._velocity + slope
            scores = self.scores - np.float32(how.step_size) * velocity
        if not np.isfinite(scores).all():
            return False
        self.scores, self._velocity = scores, velocity
        return True
