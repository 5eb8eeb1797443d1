"""A budget of seconds, after which a run stops where it is; what was finished is kept."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Budget", "OutOfTimeError"]


class OutOfTimeError(Exception):
    """The budget is spent."""


class Budget:
    """Seconds from now on; None is without end."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        """Stop between two pieces of work.

        Raises:
            OutOfTimeError: If the budget is spent.
        """
        if self._end is not None and time.monotonic() >= self._end:
            raise OutOfTimeError

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Stop in the middle of a block, which must leave what it writes whole at any time.

        Raises:
            OutOfTimeError: In the block, as soon as the budget is spent.
        """
        self.check()
        if self._end is None:
            yield
            return
        before = signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, max(self._end - time.monotonic(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTimeError
