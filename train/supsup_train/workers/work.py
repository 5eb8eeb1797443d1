"""What a worker does, and what comes of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from supsup_runtime.arrays import checked_whole
from supsup_runtime.console import version
from supsup_runtime.errors import InputError

Made = TypeVar("Made")
Unit = tuple[int, ...]
"""Indices of tasks that are learned together, mostly one."""
Learn = Callable[[Unit], Made]
RETRIES = 2
"""Of a task whose worker died."""
MAX_WORKERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Where tasks are learned.

    Attributes:
        count: Tasks at once: worker processes; 1 learns in this process, one task after another.
            On a cluster, 0 stands for as many as it has room for.
        threads: PyTorch threads of each worker, and cores that it takes of a cluster.
        cluster: Address of a Ray cluster, ``auto`` for the one that this machine is part of, or
            None for processes of this machine.

    Raises:
        InputError: If a count is out of range.
    """

    count: int = 1
    threads: int = 1
    cluster: str | None = None

    def __post_init__(self) -> None:
        checked_whole("workers:", self.count, 1 if self.cluster is None else 0, MAX_WORKERS)
        checked_whole("threads:", self.threads, 1, MAX_WORKERS)

    @property
    def elsewhere(self) -> bool:
        """Whether tasks are learned in other processes, side by side."""
        return self.count != 1 or self.cluster is not None


@dataclass(frozen=True, slots=True)
class Result(Generic[Made]):
    """What was made of a unit, and the seconds it took."""

    unit: Unit
    made: Made
    seconds: float


def timed(learn: Learn[Made], unit: Unit) -> Result[Made]:
    """Learn a unit here."""
    start = time.perf_counter()
    made = learn(unit)
    return Result(unit, made, time.perf_counter() - start)


def in_worker(learn: Learn[Made], unit: Unit, threads: int, wanted: dict[str, str]) -> Result[Made]:
    """Learn a unit in a worker, if its packages are the driver's."""
    for name, own in versions().items():
        if own != wanted[name]:
            raise InputError(
                f"node {platform.node()}: {name} must be {wanted[name]}, as where the command "
                f"runs, got {own}; install the same there"
            )
    torch.set_num_threads(threads)
    return timed(learn, unit)


def versions() -> dict[str, str]:
    """Return what must be the same wherever tasks of a bank are learned."""
    return {"supsup": version(), "torch": torch.__version__, "Python": platform.python_version()}


def died(unit: Unit, names: Sequence[str], reason: str) -> InputError:
    """Return the error of a unit whose workers died too often."""
    tasks = ", ".join(repr(names[index]) for index in unit)
    return InputError(
        f"task {tasks}: its worker died {RETRIES + 1} times: {reason.partition(chr(10))[0]:.200}; "
        "if memory was short, use fewer --workers"
    )
