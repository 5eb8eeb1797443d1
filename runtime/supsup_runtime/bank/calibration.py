"""How tasks are best inferred, and the threshold that tells inputs of known tasks from others."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from supsup_runtime.bank.fields import Fields, is_integer, is_number
from supsup_runtime.errors import BankError
from supsup_runtime.objectives import Score

Judging = Literal["verified", "exhaustive"]
JUDGING: tuple[Judging, ...] = get_args(Judging)
"""Methods that score real forward passes, as a calibration does."""
_NEW = {"candidates", "inferred", "method", "scale", "shift"}
"""Fields that format 1 lacks."""
_MOST = 1e30
"""Of scales and shifts: what they make of a float32 is finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Threshold on the best score of a single image, measured on held-out images.

    Attributes:
        score: How forward passes are scored.
        threshold: Finite; images with at least this best score, adjusted, are accepted.
        coverage: Fraction in ``(0, 1]`` of the held-out images that are accepted.
        images: Number of held-out images, at least 1.
        auroc: How well the best score separates known tasks from one left out, in ``[0, 1]``, mean
            over tasks; None for a single task.
        accepted: Fraction in ``[0, 1]`` of other images that are accepted, or None.
        method: Method that inferred best; None in format 1, as `inferred`.
        candidates: Tasks that ``verified`` tries, at least 1; None with ``exhaustive``.
        inferred: Fraction in ``[0, 1]`` of other images whose task it inferred; None if none are
            left.
        scale: Per task, positive: a score is adjusted to ``scale * score + shift``, so that those
            of all tasks compare. Empty for no adjustment.
        shift: As `scale`, of any sign.

    Raises:
        BankError: If a value is out of range.
    """

    score: Score
    threshold: float
    coverage: float
    images: int
    auroc: float | None
    accepted: float | None
    method: Judging | None = None
    candidates: int | None = None
    inferred: float | None = None
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()

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
        for name in ("auroc", "accepted", "inferred"):
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value, 0, 1)
        self._check_method()

    def _check_method(self) -> None:
        if self.method not in (None, *JUDGING):  # of any type
            raise BankError(
                f"calibration: method must be one of {list(JUDGING)}, got {self.method!r:.80}"
            )
        count, tries = self.candidates, self.method == "verified"
        if tries != (count is not None) or (tries and not (is_integer(count) and count >= 1)):
            raise BankError(
                "calibration: candidates must be an integer of at least 1 with verified, else "
                f"null, got {count!r:.80}"
            )
        for name in ("scale", "shift"):
            if not isinstance(getattr(self, name), tuple):
                raise BankError(
                    f"calibration: {name} must be a tuple, got {getattr(self, name)!r:.80}"
                )
        if self.scale and self.method is None:
            raise BankError("calibration: scale goes with a method, got none")
        if len(self.scale) != len(self.shift):
            raise BankError(
                f"calibration: scale and shift must be of the same tasks, got {len(self.scale)} "
                f"and {len(self.shift)}"
            )
        for scale, shift in zip(self.scale, self.shift, strict=True):
            _check_number("scale", scale, sys.float_info.min, _MOST)
            _check_number("shift", shift, -_MOST, _MOST)

    def check_tasks(self, count: int) -> None:
        """Raise `BankError` unless the adjustment is of so many tasks."""
        if len(self.scale) not in {0, count}:
            raise BankError(
                f"calibration: scale must have one number per task, {count}, got {len(self.scale)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object (docs/FORMAT.md, "Calibration"); without `_NEW` as format 1."""
        values = asdict(self)
        if self.method is None:
            return {name: value for name, value in values.items() if name not in _NEW}
        return {**values, "scale": list(self.scale), "shift": list(self.shift)}

    @classmethod
    def from_dict(cls, value: object) -> Calibration:
        """Invert `to_dict`.

        Raises:
            BankError: If the fields differ, or a value is out of range.
        """
        names = {field.name for field in fields(cls)}
        if not (isinstance(value, dict) and "method" in value):
            names -= _NEW
        found = dict(Fields(value, names, "calibration").value)
        for name in {"scale", "shift"} & set(found):
            if not isinstance(found[name], list):
                raise BankError(f"calibration: {name} must be a list, got {found[name]!r:.80}")
            found[name] = tuple(found[name])
        return cls(**found)


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if not is_number(value) or not low <= value <= high:
        raise BankError(
            f"calibration: {name} must be a number in [{low:g}, {high:g}], got {value!r:.80}"
        )
