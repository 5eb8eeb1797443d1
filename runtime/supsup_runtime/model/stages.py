"""Times of the stages of a call, taken on request."""

from __future__ import annotations

from time import perf_counter
from typing import Literal

Stage = Literal["prepare", "infer", "run"]


class Stages:
    """A stopwatch for one call.

    Attributes:
        times: Milliseconds of each stage that has ended; None if nobody asked.
    """

    def __init__(self) -> None:
        self.times: dict[str, float] | None = {"prepare": 0.0, "infer": 0.0, "run": 0.0}
        self._since = perf_counter()

    def end(self, stage: Stage) -> None:
        """Count the time since the last end for a stage."""
        now = perf_counter()
        if self.times is not None:
            self.times[stage] += 1e3 * (now - self._since)
        self._since = now


class _Untimed(Stages):
    """Takes no time, in either sense."""

    def __init__(self) -> None:
        self.times = None

    def end(self, stage: Stage) -> None:
        """Do nothing."""


UNTIMED = _Untimed()
