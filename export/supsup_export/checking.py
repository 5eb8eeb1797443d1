"""The ONNX checker, comparisons and tolerances of all checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from supsup_runtime.arrays import Array
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import ParityError
from supsup_runtime.model.session import Session, open_session

LOGITS_TOLERANCE = 1e-4
"""Relative to the largest logit. Weights agree to one rounding (6e-8), which sums of some thousand
terms over a few layers amplify."""
SCORE_TOLERANCES = {"cpu": 3e-5, "cuda": 3e-5, "portable": 1e-5}
"""Relative to the largest score or, if larger (few scores may cancel), half the norm of W * dO/dW,
the spread of random masks' scores; without masks, of a task's terms, state * dO/dstate. `cpu`, and
`cuda` on the CPU: two int8 rows leave out at most 1 / 254 / 254 = 1.6e-5 of a block's peak per
term, of either sign. `portable`: float32 sums."""
ROUNDED_TOLERANCE = 3e-2
"""As above, for inexact scores of a rounded model: one int8 row leaves out at most 1 / 254 of a
block's peak per term; in practice several thousandths of the largest score."""
RECOVERY_TOLERANCE = 1e-5
"""Relative to the largest value; for the energy, to the sum of ``|z_i (Psi z)_i| / 2``, whose terms
may cancel. Both sides sum some thousand float32 terms, each rounded by 6e-8, in different
orders."""


def check_onnx(path: Path, *, place: str) -> None:
    """Raise ParityError if a file is not valid ONNX; messages call it `place`."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())
        raise ParityError(f"{place}: not a valid ONNX model: {line}") from error


def open_program(bank: MaskBank, name: Literal["forward", "gradient"]) -> Session:
    """Open a program of the bank."""
    program = bank.forward if name == "forward" else bank.gradient
    return open_session(program or b"", place=f"{bank.path}/programs/{name}.onnx")


def relative_error(got: Array, want: Array, least_scale: float = 0.0) -> float:
    """Return the largest difference, relative to the largest wanted value, or `least_scale`."""
    scale = max(float(np.abs(want).max(initial=0)), least_scale) or 1.0
    return float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale


@dataclass(slots=True)
class Findings:
    """Differences found so far.

    `worst` maps the first word of a name to its largest error.
    """

    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def compare(
        self, name: str, got: Array, want: Array, tolerance: float, least_scale: float = 0.0
    ) -> None:
        """Record how far an array is from the wanted one."""
        if got.shape != want.shape:
            self.failures.append(f"{name} must have shape {want.shape}, got {got.shape}")
            return
        error = relative_error(got, want, least_scale)
        kind = name.partition(" ")[0]
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error <= tolerance:  # a NaN must not pass as "not greater"
            self.failures.append(f"{name} differs by {error:.1e}, allowed {tolerance:.1e}")

    def refuse(self, place: str) -> None:
        """Raise ParityError if anything was out of tolerance."""
        if self.failures:
            raise ParityError(
                f"{place}: the model's results differ from the bank's: "
                f"{'; '.join(self.failures[:3])} ({len(self.failures)} failures); "
                "nothing was written; please report this"
            )
