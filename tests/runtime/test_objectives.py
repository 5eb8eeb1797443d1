from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from supsup_runtime.objectives import entropy, evidence, log_odds

Logits = npt.NDArray[np.float64]


def logits_within(limit: float) -> st.SearchStrategy[Logits]:
    shapes = st.tuples(st.integers(1, 3), st.integers(2, 6))
    return hnp.arrays(np.float64, shapes, elements=st.floats(-limit, limit))


@given(logits=logits_within(50))
def test_objectives_follow_their_formulas(logits: Logits) -> None:
    mass = np.exp(logits)
    p = mass / mass.sum(1, keepdims=True)
    np.testing.assert_allclose(entropy(logits), -(p * np.log(p)).sum(1), atol=1e-10)
    for real in range(1, logits.shape[1]):
        odds = np.log(mass[:, :real].sum(1) / mass[:, real:].sum(1))
        np.testing.assert_allclose(log_odds(logits, real), odds, atol=1e-9)
        np.testing.assert_array_equal(evidence(logits, real, "log-odds"), log_odds(logits, real))
    np.testing.assert_array_equal(evidence(logits, logits.shape[1], "entropy"), -entropy(logits))


@given(logits=logits_within(1e4))
def test_the_entropy_is_within_its_range(logits: Logits) -> None:
    values = entropy(logits)
    assert np.isfinite(values).all()
    assert (values >= -1e-9).all()
    assert (values <= np.log(logits.shape[1]) + 1e-9).all()


@given(logits=logits_within(100), shift=st.floats(-100, 100))
def test_a_shift_of_all_logits_changes_nothing(logits: Logits, shift: float) -> None:
    np.testing.assert_allclose(entropy(logits + shift), entropy(logits), atol=1e-9)
    np.testing.assert_allclose(log_odds(logits + shift, 1), log_odds(logits, 1), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_stay_finite(dtype: type[np.floating]) -> None:
    extreme = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    np.testing.assert_allclose(entropy(extreme), [0, np.log(3), np.log(2)], atol=1e-6)
    np.testing.assert_allclose(log_odds(extreme, 1), [1e4, -np.log(2), 0], atol=1e-3)
