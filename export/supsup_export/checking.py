"""The ONNX checker, comparisons and tolerances of all checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx

from supsup_runtime.arrays import Array, Images
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import ParityError
from supsup_runtime.model.session import Session, open_session

LOGITS_TOLERANCE = 1e-4
"""Relative to the largest logit. Weights agree to one rounding (6e-8), which sums of some thousand
terms over a few layers amplify."""
ROUNDED_TOLERANCE = 3e-2
"""Relative to the scale of scores, for inexact scores of a rounded model: one int8 row leaves out
at most 1 / 254 of a block's peak per term; in practice several thousandths of the largest score."""
RECOVERY_TOLERANCE = 1e-5
"""Relative to the largest value; for the energy, to the sum of ``|z_i (Psi z)_i| / 2``, whose terms
may cancel. Both sides sum some thousand float32 terms, each rounded by 6e-8, in different
orders."""
_UNIT = 2.0**-24
"""Largest relative error of a float32 operation."""
_DEVIATIONS = 6
"""As in `bank_model.shortlist`."""
_BLOCK = 128
"""Terms that ONNX Runtime's products sum, or int8 rounds, before they add them to a total."""
MOVED = 8
"""Sums in another order differ by up to a few times what `nudged` changes: 3 was measured."""


def check_onnx(path: Path, *, place: str) -> None:
    """Raise ParityError if a file is not valid ONNX; messages call it `place`."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())
        raise ParityError(f"{place}: not a valid ONNX model: {line}") from error


def open_program(bank: MaskBank, name: Literal["forward", "gradient"]) -> Session:
    """Open a program of the bank as it is written: an optimisation may be wrong."""
    program = bank.forward if name == "forward" else bank.gradient
    place = f"{bank.path}/programs/{name}.onnx"
    return open_session(program or b"", place=place, optimised=False)


def nudged(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Move each value by one rounding, up or down: as much as another order of sums may."""
    rng, factors = np.random.default_rng(1), (1 - 2 * _UNIT, 1 + 2 * _UNIT)
    return {
        name: (value * rng.choice(factors, value.shape)).astype(np.float32)
        for name, value in tensors.items()
    }


def score_tolerance(
    scale: float, *, num_terms: int, peaks: Array | None = None, factor: float = 1
) -> float:
    """Return how far a score may differ from equal gradients (docs/CONTRACT.md, "Accuracy").

    Args:
        scale: Largest score or, if larger, the spread of scores.
        num_terms: Terms of a score, products and sums in float32.
        peaks: Largest magnitude of what int8 rounds, per block of 256 terms; None without int8.
        factor: Largest factor of a rounded term.
    """
    steps = np.zeros(1) if peaks is None else peaks.astype(np.float64) / 127
    int8 = math.sqrt(256 * float(np.square(steps).sum()) / 12)
    # each product is rounded, by a deviation of _UNIT / sqrt(3); their norm is at most 2 scales
    products = _DEVIATIONS * 2 / math.sqrt(3)
    sums = _UNIT * (math.sqrt(num_terms / _BLOCK) + products) * scale
    return factor * (_DEVIATIONS * int8 + sums)


def odds_tolerance(peak: float, outputs: int) -> float:
    """Return how far log-odds may differ from those of wanted logits, at most `peak` in size.

    A log-sum-exp moves no further than the logits, and log-odds are the difference of two. Each
    rounds differences of up to two peaks, exponentials, a sum of at most all, and its result.
    """
    return 2 * LOGITS_TOLERANCE * peak + 8 * _UNIT * (peak + outputs)


def relative_error(got: Array, want: Array, least_scale: float = 0.0) -> float:
    """Return the largest difference, relative to the largest wanted value, or `least_scale`."""
    scale = max(float(np.abs(want).max(initial=0)), least_scale) or 1.0
    return float(np.abs(got.astype(np.float64) - want).max(initial=0)) / scale


class Batch(NamedTuple):
    """Inputs as the graph takes them, and as the network does."""

    given: Array
    ready: Images


def random_batches(network: Network, rows: int, *, baked: bool) -> list[Batch]:
    """Return random inputs of a network: one batch, or if `baked` pictures of two sizes."""
    rng, steps = np.random.default_rng(0), network.preprocessing
    if steps is None or not baked:
        x = rng.standard_normal((rows, *network.input_shape)).astype(np.float32)
        return [Batch(x, x)]
    height, width = steps.size
    shapes = ((2 * height + 1, width + 3, 3), (height // 2 + 1, width // 2 + 2, 1))
    pictures = [rng.integers(0, 256, (rows, *shape)).astype(np.uint8) for shape in shapes]
    return [Batch(x, steps.apply(x).reshape(rows, *network.input_shape)) for x in pictures]


@dataclass(slots=True)
class Findings:
    """Differences found so far.

    `worst` maps the first word of a name to its largest error.
    """

    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def compare(
        self,
        name: str,
        got: Array,
        want: Array,
        tolerance: float,
        least_scale: float = 0.0,
        slack: Callable[[], float] = float,
    ) -> None:
        """Record how far an array is from the wanted one; `slack` is asked for if needed."""
        if got.shape != want.shape:
            self.failures.append(f"{name} must have shape {want.shape}, got {got.shape}")
            return
        error = relative_error(got, want, least_scale)
        kind = name.partition(" ")[0]
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if error <= tolerance:
            return
        tolerance += slack()
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
