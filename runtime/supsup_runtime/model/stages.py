"""Times of the stages of a call, taken on request."""

from __future__ import annotations

from time import perf_counter
from typing import Literal, get_args

Stage = Literal["prepare", "infer", "run"]


class Stages:
    """A stopwatch for one call.

    Attributes:
        times: Milliseconds of each stage; None if nobody asked.
    """

    def __init__(self, *, timings: bool = True) -> None:
        self.times = dict.fromkeys(get_args(Stage), 0.0) if timings else None
        self._since = perf_counter()

    def end(self, stage: Stage) -> None:
        """Count the time since the last end for a stage."""
        if self.times is not None:
            now = perf_counter()
            self.times[stage] += 1e3 * (now - self._since)
            self._since = now


UNTIMED = Stages(timings=False)
