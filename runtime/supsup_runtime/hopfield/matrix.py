"""One Hopfield network: patterns of signs written into a symmetric matrix.

Wortsman et al. 2020, "HopSupSup": energy ``E(z) = -1/2 z^T Psi z`` of a pattern ``z`` of signs.
Rule ``hebb`` is the paper's text, ``storkey`` the simplified form that its authors ran.
"""

from __future__ import annotations

import math

import numpy as np

from supsup_runtime.arrays import Floats, Reals
from supsup_runtime.errors import InputError

RULES = ("hebb", "storkey")
DTYPES = ("float32", "float16")
MAX_UNITS = 16_384
"""Longest pattern: its matrix is 1 GiB of float32 in memory."""
_HEBB_LOAD = 0.138  # Amit, Gutfreund, Sompolinsky 1985: patterns per unit, with few errors
_BLOCK_ELEMENTS = 1 << 17  # of a matrix updated at once: 512 KiB stay in the cache


def capacity(size: int, rule: str) -> float:
    """Random patterns of `size` signs that a matrix holds with few errors.

    Returns:
        ``0.138 d`` for ``hebb``; ``d / sqrt(2 ln d)`` for ``storkey`` (Storkey 1997), with
        ``ln 2`` for a single unit.

    Raises:
        InputError: If the rule is none of `RULES`.
    """
    _check_choice("rule", rule, RULES)
    if rule == "hebb":
        return _HEBB_LOAD * size
    return size / math.sqrt(2 * math.log(max(size, 2)))


def expected_bit_error(size: int, patterns: int, rule: str) -> float:
    """Chance that a bit of a stored random pattern is turned by one step, for large `size`.

    Without self-coupling a unit's field, times its sign, is normal: with mean 1 and variance
    ``(patterns - 1) / size`` under ``hebb``. Under ``storkey`` a pattern fades as later ones come:
    after ``b`` of them (per unit) the mean is ``exp(-2b)``, and the variance ``v`` obeys
    ``dv/db = -3v + (1 - exp(-2b))^2 + q``, where ``q = (1 - exp(-2 load)) / 2`` is the squared
    length of a row of Psi (docs/HOPFIELD.md derives it). This is the mean over all patterns, old
    and new.

    Returns:
        Within ``[0, 1/2]``.

    Raises:
        InputError: If the rule is none of `RULES`.
    """
    _check_choice("rule", rule, RULES)
    if patterns <= 1:
        return 0.0
    if rule == "hebb":
        return math.erfc(math.sqrt(size / (2 * (patterns - 1)))) / 2
    ages = np.arange(1, patterns) / size  # the newest pattern, of age 0, is free of errors
    before = (patterns - 1) / size - ages  # the load when the pattern came
    e2, e3, e4 = np.exp(-2 * ages), np.exp(-3 * ages), np.exp(-4 * ages)
    variance = (1 - e3) / 2 - (2 + np.exp(-2 * before) / 2) * (e2 - e3) + (e3 - e4)
    margins = e2 / np.sqrt(2 * variance)
    return math.fsum(math.erfc(margin) / 2 for margin in margins) / patterns


def matrix_bytes(size: int, dtype: str) -> int:
    """Bytes that the stored half of a matrix takes, its diagonal included."""
    return size * (size + 1) // 2 * np.dtype(dtype).itemsize


class HopfieldMatrix:
    """The symmetric matrix of one network of `size` units.

    It is kept as ``d Psi``: under ``hebb`` these are whole numbers, so that float16 is exact up to
    2048 patterns and float32 up to 2^24, in any order. With float16, every update is rounded to
    it: what is in memory is what a file holds.

    Attributes:
        size: Units (`d`).
        rule: ``hebb`` or ``storkey``.
        dtype: Of the stored half, ``float32`` or ``float16``; the arithmetic is float32.
        scaled: ``float32 (d, d)``: ``d Psi``, symmetric.
    """

    def __init__(self, size: int, *, rule: str, dtype: str = "float32") -> None:
        _check_choice("rule", rule, RULES)
        _check_choice("dtype", dtype, DTYPES)
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
        """Upper triangle of ``d Psi``, row by row, each from its diagonal on, in `dtype`."""
        rows = [self.scaled[row, row:] for row in range(self.size)]
        return np.concatenate(rows).astype(self.dtype)

    def add(self, pattern: Floats) -> None:
        """Write a pattern into the matrix.

        With ``h = Psi z``, ``d Psi`` grows by ``z z^T`` (``hebb``) or by
        ``z z^T - I - z h^T - h z^T`` (``storkey``). A pattern that ``storkey`` holds already is
        left alone: the rule takes an energy of ``-c d / 2`` to ``-(1 - c) d / 2 + 1 / 2``, so that
        a second writing would take it out.

        Args:
            pattern: ``float32 (d,)`` of -1 and 1.

        Raises:
            InputError: If it is none, or `refuse_overflow` refuses; the matrix is then unchanged.
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
            block += left[start : start + rows] @ right  # each product is exact: symmetric bits
            if self.rule == "storkey":
                own = np.arange(len(block))
                block[own, start + own] -= 1
            if self.dtype == "float16":
                block[:] = block.astype(np.float16)

    def refuse_overflow(self) -> None:
        """Refuse another pattern where an element could leave the range of `dtype` with it.

        Raises:
            InputError: If it could; the matrix is as it was.
        """
        largest = max(float(self.scaled.max()), -float(self.scaled.min()))
        # |h| is at most the largest |d Psi|: the field is a row's mean
        reached = largest + 1 if self.rule == "hebb" else 3 * largest + 2
        limit = float(np.finfo(self.dtype).max)
        if not reached <= limit:
            raise InputError(
                f"Hopfield matrix: an element may reach {reached:.6g} with another pattern, and "
                f"{self.dtype} ends at {limit:.6g}; use float32, or fewer tasks"
            )

    def psi(self) -> Floats:
        """The matrix itself: ``float32 (d, d)``, a copy."""
        return self.scaled / np.float32(self.size)

    def diagonal(self) -> Floats:
        """The diagonal of `psi`: ``float32 (d,)``, a copy."""
        return self.scaled.diagonal() / np.float32(self.size)

    def field(self, pattern: Floats) -> Floats:
        """``Psi z``, the negative gradient of the energy: ``float32 (d,)``; `pattern` may be real.

        Raises:
            InputError: If `pattern` is not finite float32 ``(d,)``.
        """
        z = self._reals(pattern)
        found: Floats = (self.scaled @ z) / np.float32(self.size)
        return found

    def energy(self, pattern: Floats) -> float:
        """``-1/2 z^T Psi z``; about ``-d / 2`` at a stored pattern of a matrix with room.

        Raises:
            InputError: If `pattern` is not finite float32 ``(d,)``.
        """
        return self.look(pattern)[0]

    def look(self, pattern: Floats) -> tuple[float, Floats]:
        """`energy` and `field` of a pattern by one product, as `settle` asks for them."""
        field = self.field(pattern)
        return -0.5 * float(np.dot(field.astype(np.float64), pattern)), field

    def bit_error(self, pattern: Floats) -> float:
        """Fraction of units that one step turns, within ``[0, 1]``; a field of 0 turns none.

        Raises:
            InputError: If `pattern` is not float32 ``(d,)`` of -1 and 1.
        """
        z = self.signs(pattern)
        return float(np.mean(z * self._coupling(z) < 0))

    def _holds(self, z: Floats, h: Floats) -> bool:
        strong = float(np.dot(z, h)) >= self.size / 2
        return strong and bool(np.all(z * self._coupling(z) > 0))

    def _coupling(self, z: Floats) -> Floats:
        """``d`` times the field without self-coupling."""
        found: Floats = self.scaled @ z - self.scaled.diagonal() * z
        return found

    def signs(self, pattern: Floats) -> Floats:
        """A pattern, if it is float32 ``(d,)`` of -1 and 1; else an `InputError`."""
        z = self._reals(pattern)
        if not np.all(np.abs(z) == 1):
            raise InputError("pattern: all values must be -1 or 1; take 2 mask - 1 of a mask")
        return z

    def _reals(self, pattern: Floats) -> Floats:
        if pattern.dtype != np.float32 or pattern.shape != (self.size,):
            raise InputError(
                f"pattern: must be float32 ({self.size},), got {pattern.dtype} {pattern.shape}"
            )
        if not np.isfinite(pattern).all():
            raise InputError("pattern: must be finite, got NaN or infinity")
        return pattern


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")
