from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supsup_export.checking import Findings, nudged, score_tolerance
from supsup_runtime.arrays import Array

UNIT = 2.0**-24


def test_a_nudge_is_one_rounding_up_or_down_and_always_the_same() -> None:
    values = np.array([0.0, 1.0, -3.5, 1e-30, 7e20], np.float32).repeat(50)
    moved = nudged({"x": values, "scalar": np.array(2.0, np.float32)})
    change = moved["x"].astype(np.float64) - values
    assert (np.abs(change) <= 4 * UNIT * np.abs(values)).all()
    assert (change != 0)[values != 0].all()  # a zero stays: what is dead stays dead
    assert (change > 0).any()
    assert (change < 0).any()
    assert moved["x"].dtype == np.float32
    assert moved["scalar"].shape == ()
    np.testing.assert_array_equal(nudged({"x": values})["x"], moved["x"])


def test_the_tolerance_is_a_sum_of_two_terms() -> None:
    sums = 10 + 6 * 2 / np.sqrt(3)  # additions of blocks, and products
    assert score_tolerance(2.0, num_terms=12800) == pytest.approx(UNIT * sums * 2)
    peaks = np.full(4, 127.0, np.float32)
    step = np.sqrt(4 * 256 / 12)
    assert score_tolerance(0.0, num_terms=0, peaks=peaks) == pytest.approx(6 * step)
    found = score_tolerance(2.0, num_terms=12800, peaks=peaks, factor=7)
    assert found == pytest.approx(7 * (6 * step + 2 * UNIT * sums))


@pytest.mark.parametrize("num_terms", [1, 7, 300])
def test_rounded_products_of_few_terms_are_within_it(num_terms: int) -> None:
    """Their exact sum differs by more than additions of blocks alone allow."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(200):
        left, right = rng.standard_normal((2, num_terms)).astype(np.float32)
        exact = left.astype(np.float64) * right
        scale = max(abs(exact.sum()), 0.5 * np.linalg.norm(exact))
        error = abs((left * right).astype(np.float64).sum() - exact.sum())
        worst = max(worst, error / scale)
    assert UNIT * np.sqrt(num_terms / 128) < worst
    assert worst <= score_tolerance(1.0, num_terms=num_terms)


def test_the_scores_of_an_ordinary_network_are_checked_to_1e_5() -> None:
    """LeNet 300-100 with 100 outputs."""
    assert score_tolerance(1.0, num_terms=784 * 300 + 300 * 100 + 100 * 100) < 1e-5


def test_slack_is_asked_for_where_a_tolerance_is_exceeded() -> None:
    findings, asked = Findings(), Mock(return_value=0.5)
    one = np.ones(1)
    findings.compare("a", one, one, 0.1, slack=asked)
    asked.assert_not_called()
    findings.compare("a", one * 1.3, one, 0.1, slack=asked)
    assert not findings.failures
    findings.compare("a", one * 1.7, one, 0.1, slack=asked)
    findings.compare("a", one * np.nan, one, 0.1, slack=asked)
    assert findings.failures == [
        "a differs by 7.0e-01, allowed 6.0e-01",
        "a differs by nan, allowed 6.0e-01",
    ]


def quantised(blocks: Array, rows: int) -> Array:
    """What `rows` int8 rows hold of float blocks: a row has the rest of the one before."""
    kept = np.zeros_like(blocks)
    for _ in range(rows):
        rest = blocks - kept
        step = np.maximum(np.abs(rest).max(axis=1, keepdims=True), 1e-300) / 127
        kept += np.round(rest / step) * step
    return kept


@given(seed=st.integers(0, 2**32 - 1), tails=st.floats(0.0, 2.0), rows=st.sampled_from([2, 3]))
def test_int8_rows_are_within_the_tolerance(seed: int, tails: float, rows: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.standard_normal((20, 256)) * np.exp(tails * rng.standard_normal((20, 256)))
    masks = rng.random((50, blocks.size)) < 0.5
    error = np.abs(masks @ (quantised(blocks, rows) - blocks).reshape(-1)).max()
    peaks = np.abs(blocks).max(axis=1) / 254 ** (rows - 1)
    assert error <= score_tolerance(0.0, num_terms=0, peaks=peaks)
