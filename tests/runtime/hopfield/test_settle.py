"""From a pattern to a fixed point of a Hopfield network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns import filled, flipped, random_patterns
from supsup_runtime.arrays import Floats
from supsup_runtime.hopfield.matrix import HopfieldMatrix
from supsup_runtime.hopfield.settle import settle

RULES = ("hebb", "storkey")


def settled(matrix: HopfieldMatrix, start: Floats) -> Floats:
    end, fixed = settle(matrix.look, matrix.diagonal(), start)
    assert fixed
    return end


@given(
    seed=st.integers(0, 1000),
    rule=st.sampled_from(RULES),
    dtype=st.sampled_from(["float32", "float16"]),
)
@settings(max_examples=30)
def test_patterns_below_capacity_are_fixed_points_and_attract(
    seed: int, rule: str, dtype: str
) -> None:
    # 8 of 256 units: crosstalk of a deviation of sqrt(7 / 256), so a bit of a stored pattern fails
    # at 6 of them, with a chance of 1e-9
    patterns = random_patterns(8, 256, seed)
    matrix = filled(patterns, rule, dtype)
    for z in patterns:
        assert matrix.bit_error(z) == 0.0
        for start in (z, flipped(z, 0.1, seed)):
            np.testing.assert_array_equal(settled(matrix, start), z)


@given(
    seed=st.integers(0, 1000),
    rule=st.sampled_from(RULES),
    size=st.sampled_from([1, 2, 7, 8, 9, 60, 130]),
    load=st.floats(0.1, 1.3),
)
@settings(max_examples=60)
def test_settling_ends_in_a_fixed_point_below(seed: int, rule: str, size: int, load: float) -> None:
    """Far beyond capacity too."""
    matrix = filled(random_patterns(max(1, int(load * size)), size, seed), rule)
    start = random_patterns(1, size, seed + 1)[0]
    end = settled(matrix, start)
    assert matrix.bit_error(end) == 0
    assert matrix.energy(end) <= matrix.energy(start) + 1e-5 * size  # of sums of `size` terms
    assert start is not end or matrix.bit_error(start) == 0
    assert settled(matrix, end) is end


def test_at_a_field_of_zero_a_unit_keeps_its_sign() -> None:
    matrix = HopfieldMatrix(9, rule="hebb")
    z = random_patterns(1, 9)[0]
    np.testing.assert_array_equal(settled(matrix, z), z)
    assert matrix.bit_error(z) == 0.0


@pytest.mark.parametrize("own", [0, 9])
def test_units_neither_take_turns_for_ever_nor_see_themselves(own: int) -> None:
    """Two units that want to differ, both set: all at once they would swap for ever.

    With a coupling of 9 to themselves they would stay.
    """
    psi = np.array([[own, -1], [-1, own]], np.float32)
    end, fixed = settle(
        lambda z: (float(-0.5 * z @ psi @ z), psi @ z), psi.diagonal(), np.ones(2, np.float32)
    )
    assert fixed
    assert end[0] != end[1]


def test_settling_gives_up() -> None:
    """An energy that always falls, as no store has it."""
    energies = iter(range(0, -10_000, -1))
    end, fixed = settle(
        lambda z: (float(next(energies)), -z), np.zeros(3, np.float32), np.ones(3, np.float32)
    )
    assert not fixed
    assert len(end) == 3
