"""One Hopfield network: patterns of signs in a symmetric matrix (docs/HOPFIELD.md)."""

from __future__ import annotations

import math

import numpy as np

from supsup_runtime.arrays import Floats, Reals, check_choice, check_kind
from supsup_runtime.errors import InputError

RULES = ("hebb", "storkey")
DTYPES = ("float32", "float16")
MAX_UNITS = 16_384
"""Longest pattern: its float32 matrix takes 1 GiB."""
_HEBB_LOAD = 0.138  # patterns per unit (Amit, Gutfreund, Sompolinsky 1985)
_BLOCK_ELEMENTS = 1 << 17  # 512 KiB per update fit the cache


def capacity(size: int, rule: str) -> float:
    """Return how many random patterns of `size` signs a matrix holds with few errors.

    It is ``0.138 d`` for ``hebb`` and ``d / sqrt(2 ln d)`` for ``storkey`` (Storkey 1997), with
    ``ln 2`` for a single unit.
    """
    check_choice("rule:", rule, RULES)
    if rule == "hebb":
        return _HEBB_LOAD * size
    return size / math.sqrt(2 * math.log(max(size, 2)))


def expected_bit_error(size: int, patterns: int, rule: str) -> float:
    """Return the chance that one step flips a bit of a stored random pattern, for large `size`.

    It averages old and new patterns, within ``[0, 1/2]``; docs/HOPFIELD.md derives it.
    """
    check_choice("rule:", rule, RULES)
    if patterns <= 1:
        return 0.0
    if rule == "hebb":
        return math.erfc(math.sqrt(size / (2 * (patterns - 1)))) / 2
    ages = np.arange(1, patterns) / size  # the newest has no errors
    before = (patterns - 1) / size - ages  # load at its encoding
    e2, e3, e4 = np.exp(-2 * ages), np.exp(-3 * ages), np.exp(-4 * ages)
    variance = (1 - e3) / 2 - (2 + np.exp(-2 * before) / 2) * (e2 - e3) + (e3 - e4)
    margins = e2 / np.sqrt(2 * variance)
    return math.fsum(math.erfc(margin) / 2 for margin in margins) / patterns


def matrix_bytes(size: int, dtype: str) -> int:
    """Return the bytes of a stored half matrix, diagonal included."""
    return size * (size + 1) // 2 * np.dtype(dtype).itemsize


class HopfieldMatrix:
    """The symmetric matrix of a Hopfield network, kept as ``d Psi``.

    Under ``hebb`` elements are integers, exact up to 2048 patterns in float16 and 2^24 in float32,
    in any order. Updates are rounded to `dtype`.

    Attributes:
        size: Number of units (`d`).
        rule: ``hebb`` or ``storkey``.
        dtype: ``float32`` or ``float16``, of the stored half; arithmetic is float32.
        scaled: ``float32 (d, d)``: ``d Psi``.
    """

    def __init__(self, size: int, *, rule: str, dtype: str = "float32") -> None:
        check_choice("rule:", rule, RULES)
        check_choice("dtype:", dtype, DTYPES)
        if not 1 <= size <= MAX_UNITS:
            raise InputError(
                f"Hopfield matrix: must have 1 to {MAX_UNITS} units, got {size}, whose matrix "
                f"would take {4 * size * size:,} bytes; mask units instead of weights, or keep the "
                f"explicit masks of {-(-size // 8):,} bytes each"
            )
        self.size = size
        self.rule = rule
        self.dtype = dtype
        self.scaled: Floats = np.zeros((size, size), np.float32)

    @classmethod
    def from_half(cls, half: Reals, size: int, *, rule: str) -> HopfieldMatrix:
        """Invert `half`: ``float (d (d + 1) / 2,)``, whose dtype is kept."""
        made = cls(size, rule=rule, dtype=half.dtype.name)
        start = 0
        for row in range(size):
            values = half[start : start + size - row]
            made.scaled[row, row:] = values
            made.scaled[row:, row] = values
            start += size - row
        return made

    def half(self) -> Reals:
        """Return the upper triangle of ``d Psi``, row by row, in `dtype`."""
        rows = [self.scaled[row, row:] for row in range(self.size)]
        return np.concatenate(rows).astype(self.dtype)

    def add(self, pattern: Floats) -> None:
        """Store a pattern, ``float32 (d,)`` of -1 and 1; an `InputError` changes nothing.

        With ``h = Psi z``, ``d Psi`` grows by ``z z^T`` (``hebb``) or ``z z^T - I - z h^T - h z^T``
        (``storkey``). ``storkey`` skips a pattern that it holds; a second update would erase it.
        """
        z = self.signs(pattern)
        self.refuse_overflow()
        h = self.field(z)
        if self.rule == "storkey" and self._holds(z, h):
            return
        other = z / 2 - h if self.rule == "storkey" else z / 2
        left, right = np.stack([z, other], 1), np.stack([other, z])  # (d, 2), (2, d)
        rows = max(1, _BLOCK_ELEMENTS // self.size)
        for start in range(0, self.size, rows):
            block = self.scaled[start : start + rows]
            block += left[start : start + rows] @ right  # exact products keep it symmetric
            if self.rule == "storkey":
                own = np.arange(len(block))
                block[own, start + own] -= 1
            if self.dtype == "float16":
                block[:] = block.astype(np.float16)

    def refuse_overflow(self) -> None:
        """Raise `InputError` if another pattern could exceed the range of `dtype`."""
        largest = max(float(self.scaled.max()), -float(self.scaled.min()))
        # |h| averages a row, so it is at most the largest |d Psi|
        reached = largest + 1 if self.rule == "hebb" else 3 * largest + 2
        limit = float(np.finfo(self.dtype).max)
        if not reached <= limit:
            raise InputError(
                f"Hopfield matrix: an element may reach {reached:.6g} with another pattern, "
                f"above the {self.dtype} maximum {limit:.6g}; use float32, or fewer tasks"
            )

    def psi(self) -> Floats:
        """Return ``Psi``, ``float32 (d, d)``."""
        return self.scaled / np.float32(self.size)

    def diagonal(self) -> Floats:
        """Return the diagonal of ``Psi``, ``float32 (d,)``."""
        return self.scaled.diagonal() / np.float32(self.size)

    def field(self, pattern: Floats) -> Floats:
        """Return ``Psi z``, the negative gradient of the energy; `pattern` may be real."""
        z = self._reals(pattern)
        found: Floats = (self.scaled @ z) / np.float32(self.size)
        return found

    def energy(self, pattern: Floats) -> float:
        """Return ``-1/2 z^T Psi z``, about ``-d / 2`` at a stored pattern below capacity."""
        return self.look(pattern)[0]

    def look(self, pattern: Floats) -> tuple[float, Floats]:
        """Return `energy` and `field` from one product."""
        field = self.field(pattern)
        return -0.5 * float(np.dot(field.astype(np.float64), pattern)), field

    def bit_error(self, pattern: Floats) -> float:
        """Return the fraction of units that one step flips; a field of 0 flips none."""
        z = self.signs(pattern)
        return float(np.mean(z * self._coupling(z) < 0))

    def _holds(self, z: Floats, h: Floats) -> bool:
        strong = float(np.dot(z, h)) >= self.size / 2
        return strong and bool(np.all(z * self._coupling(z) > 0))

    def _coupling(self, z: Floats) -> Floats:
        """Return ``d`` times the field without self-coupling."""
        found: Floats = self.scaled @ z - self.scaled.diagonal() * z
        return found

    def signs(self, pattern: Floats) -> Floats:
        """Return a pattern, or raise `InputError` unless it is float32 ``(d,)`` of -1 and 1."""
        z = self._reals(pattern)
        if not np.all(np.abs(z) == 1):
            raise InputError(
                "pattern: all values must be -1 or 1; convert a mask with 2 * mask - 1"
            )
        return z

    def _reals(self, pattern: Floats) -> Floats:
        check_kind("pattern:", pattern, np.ndarray, "an array")
        if pattern.dtype != np.float32 or pattern.shape != (self.size,):
            raise InputError(
                f"pattern: must be float32 ({self.size},), got {pattern.dtype} {pattern.shape}"
            )
        if not np.isfinite(pattern).all():
            raise InputError("pattern: must be finite, got NaN or infinity")
        return pattern
