"""The threshold that tells inputs of known tasks from others."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from supsup_runtime.bank.fields import Fields, is_integer, is_number
from supsup_runtime.errors import BankError
from supsup_runtime.objectives import Score

JUDGING = ("verified", "exhaustive")
"""Methods that score real forward passes, as a calibration does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Threshold on the best score of a single image, measured on held-out images.

    Attributes:
        score: How forward passes are scored.
        threshold: Finite; images with at least this best score are accepted.
        coverage: Fraction in ``(0, 1]`` of the held-out images that are accepted.
        images: Number of held-out images, at least 1.
        auroc: How well the best score separates known tasks from one left out, in ``[0, 1]``, mean
            over tasks; None for a single task.
        accepted: Fraction in ``[0, 1]`` of other images that are accepted, or None.

    Raises:
        BankError: If a value is out of range.
    """

    score: Score
    threshold: float
    coverage: float
    images: int
    auroc: float | None
    accepted: float | None

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise BankError(
                f"calibration: score must be one of {list(get_args(Score))}, got {self.score!r:.80}"
            )
        _check_number("threshold", self.threshold, -sys.float_info.max, sys.float_info.max)
        _check_number("coverage", self.coverage, 0, 1)
        if self.coverage == 0:
            raise BankError("calibration: coverage must be above 0, got 0")
        if not is_integer(self.images) or self.images < 1:
            raise BankError(
                f"calibration: images must be an integer of at least 1, got {self.images!r:.80}"
            )
        for name in ("auroc", "accepted"):
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object (docs/FORMAT.md, "Calibration")."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: object) -> Calibration:
        """Invert `to_dict`.

        Raises:
            BankError: If the fields differ, or a value is out of range.
        """
        found = Fields(value, {field.name for field in fields(cls)}, "calibration")
        return cls(**found.value)


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if not is_number(value) or not low <= value <= high:
        raise BankError(
            f"calibration: {name} must be a number in [{low:g}, {high:g}], got {value!r:.80}"
        )
