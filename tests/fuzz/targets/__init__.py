"""The targets: what each is about, its part of a campaign, and its cases in `make test-all`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from fuzz.target import Target


@dataclass(frozen=True, slots=True)
class Entry:
    """A target.

    Attributes:
        place: Module and class, for `load_target`.
        share: Part of a campaign, relative to the others.
        quick: Number of cases that take some ten seconds.
    """

    place: str
    share: float
    quick: int


def load_target(place: str) -> type[Target]:
    """Import a target, which can take seconds."""
    module, _, name = place.partition(":")
    found: type[Target] = getattr(import_module(f"fuzz.targets.{module}"), name)
    return found


TARGETS = {
    "bank": Entry("banks:Bank", 2.0, 800),
    "task": Entry("banks:Task", 2.5, 600),
    "calibration": Entry("banks:Calibration", 1.0, 1500),
    "hopfield": Entry("banks:Hopfield", 1.0, 900),
    "memory": Entry("banks:Memory", 0.5, 900),
    "npy": Entry("data:Npy", 1.5, 250),
    "npz": Entry("data:Npz", 1.0, 2500),
    "idx": Entry("data:Idx", 0.5, 2500),
    "cifar": Entry("data:Cifar", 0.5, 700),
    "model": Entry("models:Model", 0.55, 200),
    "program": Entry("models:Program", 0.05, 120),
    "arguments": Entry("arguments:Arguments", 0.25, 400),
    "commands": Entry("lines:CommandLine", 0.15, 150),
}
