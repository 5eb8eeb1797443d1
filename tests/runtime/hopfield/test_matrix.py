"""One Hopfield matrix: its rules, energy, capacity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns import filled, random_patterns
from supsup_runtime.arrays import Floats
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.matrix import (
    MAX_UNITS,
    HopfieldMatrix,
    capacity,
    expected_bit_error,
)

RULES = ("hebb", "storkey")


def reference(patterns: Floats, rule: str) -> npt.NDArray[np.float64]:
    """Both rules as they are written, in float64."""
    d = patterns.shape[1]
    psi = np.zeros((d, d))
    for z in patterns.astype(np.float64):
        h = psi @ z
        psi += np.outer(z, z) / d
        if rule == "storkey":
            psi -= (np.eye(d) + np.outer(z, h) + np.outer(h, z)) / d
    return psi


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("size", "count"), [(1, 1), (7, 2), (8, 3), (9, 3), (100, 20), (300, 9)])
def test_the_matrix_is_that_of_the_rule(rule: str, size: int, count: int) -> None:
    patterns = random_patterns(count, size, seed=size)
    unique = patterns[np.sort(np.unique(patterns, axis=0, return_index=True)[1])]
    matrix = filled(unique, rule)
    if rule == "hebb" or size >= 100:  # the few units of a small matrix may hold one by chance
        # each update rounds elements of at most a few units, `count` times
        np.testing.assert_allclose(
            matrix.psi(), reference(unique, rule), atol=count * 1e-6 / math.sqrt(size)
        )
    np.testing.assert_array_equal(matrix.scaled, matrix.scaled.T)
    assert len(matrix.half()) == size * (size + 1) // 2
    again = HopfieldMatrix.from_half(matrix.half(), size, rule=rule)
    np.testing.assert_array_equal(again.scaled, matrix.scaled)


@given(seed=st.integers(0, 50), dtype=st.sampled_from(["float32", "float16"]))
@settings(max_examples=20)
def test_hebb_is_the_same_in_any_order(seed: int, dtype: str) -> None:
    patterns = random_patterns(12, 77, seed)
    order = np.random.default_rng(seed).permutation(12)
    np.testing.assert_array_equal(
        filled(patterns, "hebb", dtype).scaled, filled(patterns[order], "hebb", dtype).scaled
    )


def test_energy_and_field_are_those_of_psi() -> None:
    patterns = random_patterns(5, 40)
    for rule in RULES:
        matrix, psi = filled(patterns, rule), reference(patterns, rule)
        real = np.linspace(-1, 1, 40, dtype=np.float32)
        for z in (patterns[0], real):
            # 40 products of float32, each of at most 1
            np.testing.assert_allclose(matrix.field(z), psi @ z, atol=1e-5)
            assert matrix.energy(z) == pytest.approx(-0.5 * z @ psi @ z, abs=1e-4)


def test_storkey_leaves_a_pattern_alone_that_it_holds() -> None:
    patterns = random_patterns(4, 200)
    once = filled(patterns, "storkey")
    twice = filled(np.concatenate([patterns, patterns[:1], -patterns[1:2]]), "storkey")
    np.testing.assert_array_equal(once.scaled, twice.scaled)
    # as written, the rule would take it out: its energy would go from -d / 2 to nearly 0
    psi = reference(np.concatenate([patterns, patterns[:1]]), "storkey")
    assert once.energy(patterns[0]) < -0.9 * 200 / 2
    assert abs(0.5 * patterns[0] @ psi @ patterns[0]) < 0.05 * 200 / 2


def test_float16_holds_whole_numbers_exactly() -> None:
    patterns = random_patterns(30, 41)
    np.testing.assert_array_equal(
        filled(patterns, "hebb", "float16").scaled, filled(patterns, "hebb").scaled
    )
    storkey = filled(patterns, "storkey", "float16")
    np.testing.assert_array_equal(storkey.scaled, storkey.scaled.astype(np.float16))


@pytest.mark.parametrize(
    ("rule", "count", "tolerance"),
    # bits measured: 60 patterns of 1024 and more; the fields of one pattern's bits hang together,
    # so a quarter is asked, and a half where 0.0005 of them are some 30 bits
    [("hebb", 142, 0.25), ("hebb", 300, 0.25), ("storkey", 350, 0.5), ("storkey", 600, 0.25)],
)
def test_the_expected_error_is_what_one_measures(rule: str, count: int, tolerance: float) -> None:
    patterns = random_patterns(count, 1024, seed=1)
    matrix = filled(patterns, rule)
    measured = np.mean([matrix.bit_error(z) for z in patterns])
    assert measured == pytest.approx(expected_bit_error(1024, count, rule), rel=tolerance)


def test_capacity_and_expected_error() -> None:
    assert capacity(2048, "hebb") == pytest.approx(282.6, abs=0.1)
    assert capacity(2048, "storkey") == pytest.approx(524.4, abs=0.1)
    assert capacity(1, "storkey") == capacity(2, "storkey") / 2
    for rule in RULES:
        errors = [expected_bit_error(256, count, rule) for count in (0, 1, 20, 60, 200, 100_000)]
        assert errors[:2] == [0, 0]
        assert errors == sorted(errors)
        assert errors[-1] == pytest.approx(0.5, abs=0.03)
    # as many patterns as 0.138 d: the well-known 0.36 %
    assert expected_bit_error(100_000, 13_801, "hebb") == pytest.approx(0.0036, abs=5e-5)
    for call in (capacity, lambda d, r: expected_bit_error(d, 3, r)):
        with pytest.raises(InputError, match="rule: must be one of hebb, storkey, got 'x'"):
            call(10, "x")


def test_patterns_that_are_none_are_refused() -> None:
    matrix = HopfieldMatrix(4, rule="hebb")
    cases: tuple[tuple[npt.NDArray[Any], str], ...] = (
        (np.ones(4), "must be float32 \\(4,\\), got float64 \\(4,\\)"),
        (np.ones(3, np.float32), "must be float32 \\(4,\\), got float32 \\(3,\\)"),
        (np.array([1, 1, 1, np.nan], np.float32), "must be finite"),
        (np.array([1, 1, 1, 0], np.float32), "must be -1 or 1; convert a mask"),
    )
    for bad, message in cases:
        for call in (matrix.add, matrix.bit_error):
            with pytest.raises(InputError, match=message):
                call(bad)
    with pytest.raises(InputError, match="must be finite"):
        matrix.energy(np.full(4, np.inf, np.float32))
    with pytest.raises(InputError, match="dtype: must be one of float32, float16, got 'int8'"):
        HopfieldMatrix(4, rule="hebb", dtype="int8")


def test_a_matrix_too_large_is_refused_with_its_bytes() -> None:
    for size in (0, MAX_UNITS + 1, 235_200):
        with pytest.raises(InputError, match=f"1 to 16384 units, got {size}, whose matrix would"):
            HopfieldMatrix(size, rule="hebb")


@pytest.mark.parametrize(("rule", "limit"), [("hebb", 65_504), ("storkey", 21_835)])
def test_an_update_that_may_overflow_is_refused_and_changes_nothing(rule: str, limit: int) -> None:
    matrix = HopfieldMatrix(8, rule=rule, dtype="float16")
    matrix.scaled[:] = -(limit - 1)
    matrix.refuse_overflow()
    matrix.scaled[:] = -limit
    before = matrix.scaled.copy()
    with pytest.raises(InputError, match="above the float16 maximum 65504; use float32, or fewer"):
        matrix.add(random_patterns(1, 8)[0])
    np.testing.assert_array_equal(matrix.scaled, before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_by_one_is_all_at_once(rule: str, dtype: str) -> None:
    """What is in memory is what the halves hold: going on from them changes no bit."""
    patterns = random_patterns(6, 65)
    whole = filled(patterns, rule, dtype)
    part = HopfieldMatrix(65, rule=rule, dtype=dtype)
    for pattern in patterns:
        part = HopfieldMatrix.from_half(part.half(), 65, rule=rule)
        part.add(pattern)
    np.testing.assert_array_equal(part.scaled, whole.scaled)


@pytest.mark.parametrize("rule", ["hebb", "storkey"])
def test_the_diagonal_is_that_of_psi(rule: str) -> None:
    matrix = HopfieldMatrix(9, rule=rule)
    for pattern in random_patterns(3, 9):
        matrix.add(pattern)
    np.testing.assert_array_equal(matrix.diagonal(), matrix.psi().diagonal())
