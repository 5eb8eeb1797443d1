"""The filter of a tracker against the forward algorithm, and what scores count as."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from supsup_runtime.arrays import Scores
from supsup_runtime.model.tracker import filtered, log_likelihoods
from supsup_runtime.objectives import Score

SWITCHES = [0, 1e-320, 1e-9, 0.02, 0.5, 0.9, 1]
evidences = st.integers(1, 5).flatmap(
    lambda states: arrays_of.arrays(
        np.float64, st.tuples(st.integers(1, 6), st.just(states)), elements=st.floats(-50, 50)
    )
)
switches = st.one_of(st.sampled_from(SWITCHES), st.floats(0, 1))


def followed(evidence: Scores, switch: float) -> Scores:
    """Logarithms after each frame."""
    believed, all_of_them = np.full(evidence.shape[1], -math.log(evidence.shape[1])), []
    for frame in evidence:
        believed = filtered(believed, frame, switch)
        all_of_them.append(believed)
    return np.array(all_of_them)


def transitions(states: int, switch: float) -> Scores:
    if states == 1:
        return np.ones((1, 1))
    moves = np.full((states, states), switch / (states - 1))
    np.fill_diagonal(moves, 1 - switch)
    return moves


def by_paths(evidence: Scores, switch: float) -> Scores:
    """The last frame's posterior, as a sum over every path of states."""
    frames, states = evidence.shape
    moves, total = transitions(states, switch), np.zeros(states)
    for path in itertools.product(range(states), repeat=frames):
        chance = math.prod(moves[a, b] for a, b in itertools.pairwise(path))
        total[path[-1]] += chance * math.exp(sum(evidence[t, s] for t, s in enumerate(path)))
    return np.asarray(total / total.sum())


@given(
    evidence=arrays_of.arrays(np.float64, (4, 3), elements=st.floats(-5, 5)),
    switch=switches,
)
def test_it_is_the_sum_over_all_paths(evidence: Scores, switch: float) -> None:
    want = by_paths(evidence, switch)
    np.testing.assert_allclose(np.exp(followed(evidence, switch)[-1]), want, atol=1e-12)


@given(evidence=evidences, switch=switches)
def test_it_is_the_forward_algorithm(evidence: Scores, switch: float) -> None:
    states = evidence.shape[1]
    believed = np.full(states, 1 / states)
    found = followed(evidence, switch)
    for frame, got in zip(evidence, found, strict=True):
        believed = believed @ transitions(states, switch) * np.exp(frame - frame.max())
        believed /= believed.sum()
        if switch < 1:  # a linear 1 - p loses what alternates
            np.testing.assert_allclose(np.exp(got), believed, atol=1e-9)
    assert not np.isnan(found).any()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-12)


@given(evidence=evidences, switch=switches, seed=st.integers(0, 99))
def test_order_of_tasks_does_not_matter(evidence: Scores, switch: float, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(evidence.shape[1])
    want, got = followed(evidence, switch)[:, order], followed(evidence[:, order], switch)
    np.testing.assert_allclose(np.exp(got), np.exp(want), atol=1e-9)


@given(evidence=evidences)
def test_forgetting_at_once_is_single_frames(evidence: Scores) -> None:
    states = evidence.shape[1]
    if states > 1:
        single = np.exp(evidence - np.logaddexp.reduce(evidence, axis=1)[:, None])
        found = followed(evidence, 1 - 1 / states)
        np.testing.assert_allclose(np.exp(found), single, atol=1e-9)


@pytest.mark.parametrize("states", [1, 2, 7])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_nothing_dies(states: int, switch: float, size: float) -> None:
    """After any past, enough frames of a task are believed, but for a switch of 1."""
    believed = np.full(states, -math.log(states))
    past, now = np.zeros(states), np.zeros(states)
    past[0], now[-1] = size, size
    with np.errstate(all="raise", under="ignore"):
        for _ in range(50):
            believed = filtered(believed, past, switch)
        for _ in range(60):
            believed = filtered(believed, now, switch)
    assert np.isclose(np.exp(believed).sum(), 1)
    if switch < 0.5:
        assert believed.argmax() == states - 1


def test_two_tasks_that_alternate_are_followed() -> None:
    evidence = np.array([[60.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 130.0]])
    found = followed(evidence, 1)
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 1, 0, 1])
    np.testing.assert_allclose(found[2] - found[0], 0, atol=1e-9)  # exact where 1 - p is 0


def test_a_long_stream_neither_drifts_nor_grows() -> None:
    rng = np.random.default_rng(0)
    frames, states = 100_000, 6
    task = np.arange(frames) // 30 % states
    evidence = rng.standard_normal((frames, states))
    evidence[np.arange(frames), task] += 2
    believed = np.full(states, -math.log(states))
    right = np.zeros(frames, bool)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for at, frame in enumerate(evidence):
        believed = filtered(believed, frame, 0.02)
        right[at] = believed.argmax() == task[at]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 10_000
    halves = right[: frames // 2].mean(), right[frames // 2 :].mean()
    assert abs(halves[0] - halves[1]) < 0.01
    assert abs(np.exp(believed).sum() - 1) < 1e-12
    # the same from the last run alone: what is long past does not matter
    late = followed(evidence[-600:], 0.02)[-1]
    np.testing.assert_allclose(np.exp(late), np.exp(believed), atol=1e-9)


def test_frames_that_stay_are_right_where_single_ones_are_not() -> None:
    """Simulated as a network is: most frames say little, some much."""
    rng = np.random.default_rng(0)
    frames, states = 9000, 5
    task = np.arange(frames) // 30 % states
    clear = rng.random(frames) < 0.38
    evidence = 0.3 * rng.standard_normal((frames, states))
    evidence[np.arange(frames), task] += np.where(clear, 6, 0)
    single = evidence.argmax(axis=1) == task
    assert 0.48 < single.mean() < 0.52
    tracked = followed(evidence, 0.02).argmax(axis=1) == task
    assert tracked.mean() > 0.9


def test_tasks_not_tried_count_as_the_worst_that_was() -> None:
    scores = np.array([[1.0, -np.inf, -3.0], [0.5, 0.25, 1.0]])
    found = log_likelihoods(scores, "log-odds")
    np.testing.assert_array_equal(found, [[1, -3, -3], [0.5, 0.25, 1.0]])
    found = log_likelihoods(np.array([[0.5, -np.inf, 0.25]]), "max-probability")
    np.testing.assert_allclose(found, np.log([[1, 1 / 3, 1 / 3]]), atol=3e-3)
    found = log_likelihoods(np.array([[-0.5, -np.inf, -2]]), "entropy")
    np.testing.assert_allclose(found, np.log([[2, 0.5, 0.5]]), atol=3e-3)


def test_adjusted_scores_and_energies_count_as_they_are() -> None:
    for score in (None, "energy"):
        found = log_likelihoods(np.array([[1.0, -np.inf, -3.0]]), score)
        np.testing.assert_array_equal(found, [[1, -3, -3]])


@pytest.mark.parametrize("score", ["entropy", "max-probability"])
def test_thresholds_out_of_range_are_finite(score: Score) -> None:
    thresholds = np.array([[-1e9], [-1.0], [0.0], [0.5], [1.5], [1e9]])
    assert np.isfinite(log_likelihoods(thresholds, score)).all()


@pytest.mark.parametrize("score", ["log-odds", "entropy", "max-probability"])
def test_a_higher_score_is_likelier_whatever_it_is(score: Score) -> None:
    scores = np.array([[-3.0, -1, -1e-3, -1e-9, -1e-15, 0]])
    if score == "max-probability":
        scores = np.array([[0.1, 0.5, 0.9, 1 - 1e-9, 1 - 1e-15, 1]])
    found = log_likelihoods(scores, score)
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found)[0, :-1] > 0).all()
