"""Settings and schedules of a recovery, and the descent on scores.

Wortsman et al. 2020, HopSupSup: real scores, whose signs are the mask, follow the gradient of
``entropy_strength H + energy_strength E`` straight through the sign, a batch a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from supsup_runtime.arrays import Floats
from supsup_runtime.errors import InputError

Schedule = Callable[[int, int], tuple[float, float]]
"""Shares of the entropy and of the energy in step `t` of `steps`, counted from 0."""
Statistics = Literal["batch", "running"]
"""By what batch normalisation goes: the batch's own numbers, or the mean of the stored tasks'."""

LARGEST = float(np.finfo(np.float32).max)


def linear(step: int, steps: int) -> tuple[float, float]:
    """The paper's: from nearly entropy alone to energy alone in the last step, in even steps."""
    energy = (step + 1) / steps
    return 1 - energy, energy


def constant(_step: int, _steps: int) -> tuple[float, float]:
    """Both in full in every step."""
    return 1.0, 1.0


SCHEDULES: dict[str, Schedule] = {"linear": linear, "constant": constant}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovery:
    """Settings of a recovery; the defaults are those of the paper's code, but for the looks.

    Attributes:
        step_size: Of gradient descent on the scores, positive.
        momentum: Of it, within ``[0, 1)``.
        weight_decay: Fraction of the scores that is added to the gradient, at least 0.
        energy_strength: Factor of the energy, at least 0; the schedule's share multiplies it.
        start: ``mean``, the mean of the stored patterns, which the store keeps, or ``zero``; or
            scores of your own, ``float32 (num_masked,)``.
        statistics: ``batch``, as in the paper, where a batch of one row is normalised by the
            running ones all the same; or ``running``. Networks without such state have neither.
        look_every: Steps from one look at where the mask would settle to the next: a stored task's
            mask whose entropy fits ends the recovery there. 0 never looks before the end, which is
            the paper's way. Where no entropy was recorded, no look ends it.
        restart_every: Steps without a match after which the descent restarts, its schedule too,
            with what is left of the stream, if that is half as many steps at least. 0 never does;
            nor is it done where nothing is looked at.
        max_entropy_ratio: An end whose entropy is above so many times the stored task's own is of
            no stored task, at least 1.

    Raises:
        InputError: If a value is out of its range, or the decay alone makes the scores grow.
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
        step_size = self.step_size
        _require("step_size", step_size, 0 < step_size <= LARGEST, "positive, and a float32")
        _require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        for name in ("weight_decay", "energy_strength"):
            value = getattr(self, name)
            _require(name, value, 0 <= value <= LARGEST, "at least 0, and a float32")
        for name in ("look_every", "restart_every"):
            every = getattr(self, name)
            _require(name, every, is_whole(every) and every >= 0, "an integer of at least 0")
        ratio = self.max_entropy_ratio
        _require("max_entropy_ratio", ratio, ratio >= 1, "at least 1")
        check_statistics(self.statistics)
        if isinstance(self.start, str) and self.start not in {"mean", "zero"}:
            raise InputError(f"start: must be mean, zero or an array, got {self.start!r}")
        # s' = s - step (decay s + momentum ...) is stable below 2 (1 + momentum) (Polyak 1964)
        if self.weight_decay and self.step_size * self.weight_decay >= 2 * (1 + self.momentum):
            limit = 2 * (1 + self.momentum) / self.weight_decay
            raise InputError(
                f"step_size: with weight_decay {self.weight_decay:g} and momentum "
                f"{self.momentum:g} the scores diverge from {limit:g} on, got {self.step_size:g}; "
                "take less"
            )


def check_statistics(statistics: str) -> None:
    """Refuse what is none of `Statistics`.

    Raises:
        InputError: If it is.
    """
    if statistics not in get_args(Statistics):
        raise InputError(f"statistics: must be batch or running, got {statistics!r}")


def is_whole(value: object) -> bool:
    """Whether a value is an integer, numpy's included; True and False are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _require(name: str, value: float, fine: bool, rule: str) -> None:
    if not fine:
        raise InputError(f"{name}: must be {rule}, got {value}")


class Descent:
    """SGD with momentum and weight decay on scores, as `torch.optim.SGD` does it, in float32.

    Attributes:
        scores: ``float32 (num_masked,)``; its own copy.
    """

    def __init__(self, scores: Floats, how: Recovery) -> None:
        self.scores = scores.astype(np.float32)
        self._velocity = np.zeros_like(self.scores)
        self._how = how

    @property
    def mask(self) -> Floats:
        """1 where the score is at least 0, else 0: ``float32 (num_masked,)``."""
        return (self.scores >= 0).astype(np.float32)

    def put(self, part: slice, scores: Floats) -> None:
        """Set a part of the scores, and reset its velocity."""
        self.scores[part] = scores
        self._velocity[part] = 0

    def step(self, gradient: Floats) -> bool:
        """Take a step along a gradient by the mask, which counts as one by the scores.

        Returns:
            Whether all scores are finite after it; if not, they are as they were.
        """
        how = self._how
        with np.errstate(over="ignore", invalid="ignore"):
            slope = gradient + np.float32(how.weight_decay) * self.scores
            velocity = np.float32(how.momentum) * self._velocity + slope
            scores = self.scores - np.float32(how.step_size) * velocity
        if not np.isfinite(scores).all():
            return False
        self.scores, self._velocity = scores, velocity
        return True
