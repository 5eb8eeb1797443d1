"""What all checks of a model share: the ONNX checker, differences, and how large they may be.

A check runs before a model is put in place. Its reference is numpy over the bank's own files, and
the bank's programs run by themselves.
"""

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
"""Of the largest logit. Both sides run the same float32 program on weights that agree to one
rounding (6e-8), which sums of some thousand terms and a few layers amplify."""
SCORE_TOLERANCES = {"cpu": 3e-5, "cuda": 3e-5, "portable": 1e-5}
"""Of the largest score, or of the spread of random masks' scores, half the norm of W * dO/dW,
where that is more (few tasks whose scores happen to cancel). Without masks it is half the norm of
a task's terms, state * dO/dstate. `cpu`, and `cuda` where it runs on
the CPU: what two int8 rows leave out is within half a step of the second, 1 / 254 / 254 = 1.6e-5
of a block's peak a term, of either sign. `portable`: float32 sums."""
ROUNDED_TOLERANCE = 3e-2
"""As above, for tasks that a rounded model gives up: half a step of the one int8 row is 1 / 254 of
a block's peak a term, of either sign; several thousandths of the largest score in practice."""
RECOVERY_TOLERANCE = 1e-5
"""Of the largest value of an output, and of the energy of its terms ``|z_i (Psi z)_i| / 2``, which
may cancel. Both sides compute in float32; what differs is the order of sums, of some thousand terms
with a rounding of 6e-8 each, most of which cancel."""


def check_onnx(path: Path, *, place: str) -> None:
    """Run the ONNX checker on a file that messages call `place`.

    Raises:
        ParityError: If it is not valid ONNX.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())
        raise ParityError(f"{place}: not a valid ONNX model: {line}") from error


def open_program(bank: MaskBank, name: Literal["forward", "gradient"]) -> Session:
    """A bank's program, which must be there, in a session of its own."""
    program = bank.forward if name == "forward" else bank.gradient
    return open_session(program or b"", place=f"{bank.path}/programs/{name}.onnx")


def relative_error(got: Array, want: Array, least_scale: float = 0.0) -> float:
    """Largest difference, of the largest wanted value or of `least_scale` if that is more."""
    scale = max(float(np.abs(want).max(initial=0)), least_scale) or 1.0
    return float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale


@dataclass(slots=True)
class Findings:
    """Differences so far, and what is out of tolerance: all of it is reported together.

    `worst` has the largest `relative_error` by the first word of what was compared.
    """

    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def compare(
        self, name: str, got: Array, want: Array, tolerance: float, least_scale: float = 0.0
    ) -> None:
        """Note how far an array is from what is wanted."""
        if got.shape != want.shape:
            self.failures.append(f"{name} has shape {got.shape}, must have {want.shape}")
            return
        error = relative_error(got, want, least_scale)
        kind = name.partition(" ")[0]
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error <= tolerance:  # a NaN must not pass as "not greater"
            self.failures.append(f"{name} differs by {error:.1e}, allowed {tolerance:.1e}")

    def refuse(self, place: str) -> None:
        """Refuse a model that something is out of tolerance in.

        Raises:
            ParityError: If it is; the first three are named.
        """
        if self.failures:
            raise ParityError(
                f"{place}: the model does not compute what the bank says: "
                f"{'; '.join(self.failures[:3])} ({len(self.failures)} failures); "
                "nothing was written, please report it"
            )
