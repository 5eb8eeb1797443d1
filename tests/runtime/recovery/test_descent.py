from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import TaskInfo
from supsup_runtime.recovery.descent import Descent, Recovery, constant, linear
from supsup_runtime.recovery.result import End, Recovered, Trace, Verdict, judge


def test_the_papers_schedule_goes_from_entropy_to_energy() -> None:
    assert [linear(t, 4) for t in range(4)] == [(0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)]
    assert linear(0, 1) == (0, 1)
    assert {constant(t, 4) for t in range(4)} == {(1, 1)}


def test_the_defaults_are_the_papers() -> None:
    how = Recovery()
    assert (how.step_size, how.momentum, how.weight_decay) == (500, 0.9, 1e-4)
    assert (how.energy_strength, how.start, how.statistics) == (1.5e-3, "mean", "batch")
    assert Recovery(look_every=np.int64(3)).look_every == 3  # type: ignore[arg-type]  # no int


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0}, "step_size: must be positive, and a float32, got 0"),
        ({"step_size": 1e39}, "step_size: must be positive, and a float32, got 1e\\+39"),
        ({"step_size": np.nan}, "step_size: must be positive, and a float32, got nan"),
        ({"momentum": 1.0}, r"momentum: must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum: must be in \[0, 1\), got -0.1"),
        ({"weight_decay": -1}, "weight_decay: must be at least 0, and a float32, got -1"),
        (
            {"energy_strength": np.nan},
            "energy_strength: must be at least 0, and a float32, got nan",
        ),
        ({"max_entropy_ratio": 0.5}, "max_entropy_ratio: must be at least 1, got 0.5"),
        ({"look_every": -1}, "look_every: must be an integer of at least 0, got -1"),
        ({"restart_every": -1}, "restart_every: must be an integer of at least 0, got -1"),
        ({"look_every": True}, "look_every: must be an integer of at least 0, got True"),
        ({"look_every": 0.5}, "look_every: must be an integer of at least 0, got 0.5"),
        ({"start": "end"}, "start: must be one of mean, zero, got 'end'"),
        ({"statistics": "all"}, "statistics: must be one of batch, running, got 'all'"),
        (
            {"step_size": 38_000},
            "must be below 38000 with weight_decay 0.0001 and momentum 0.9, or the scores diverge",
        ),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recovery(**change)


@given(st.floats(0, 0.95), st.floats(1e-3, 0.1), st.floats(0.5, 1.5))
def test_the_limit_of_the_step_size_is_where_scores_begin_to_grow(
    momentum: float, decay: float, share: float
) -> None:
    """Without a gradient the decay alone moves the scores: down below the limit, else up."""
    step_size = share * 2 * (1 + momentum) / decay
    if abs(share - 1) < 0.1:
        return
    settings: dict[str, Any] = {"step_size": step_size, "momentum": momentum, "weight_decay": decay}
    if share > 1:
        with pytest.raises(InputError, match="diverge"):
            Recovery(**settings)
        return
    descent = Descent(np.ones(1, np.float32), Recovery(**settings))
    for _ in range(300):
        assert descent.step(np.zeros(1, np.float32))
    assert abs(descent.scores[0]) < 0.1


def test_the_descent_is_gradient_descent_with_momentum_and_decay() -> None:
    rng = np.random.default_rng(0)
    how = Recovery(step_size=3.0, momentum=0.5, weight_decay=0.1)
    scores, velocity = rng.standard_normal(9), np.zeros(9)
    descent = Descent(scores.astype(np.float32), how)
    for _ in range(5):
        gradient = rng.standard_normal(9).astype(np.float32)
        assert descent.step(gradient)
        velocity = 0.5 * velocity + gradient + 0.1 * scores
        scores = scores - 3.0 * velocity
        # a dozen float32 roundings of values of some 10
        np.testing.assert_allclose(descent.scores, scores, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(descent.mask, scores >= 0)


def test_a_score_of_0_sets_its_bit_and_the_callers_scores_stay() -> None:
    start = np.array([0.0, -0.0, 1e-30, -1e-30], np.float32)
    descent = Descent(start, Recovery())
    assert descent.mask.tolist() == [1, 1, 1, 0]
    descent.step(np.ones(4, np.float32))
    assert start.tolist() == [0.0, 0.0, np.float32(1e-30), np.float32(-1e-30)]


@pytest.mark.parametrize("gradient", [np.nan, np.inf, 3e38])
def test_a_step_to_where_numbers_end_is_not_taken(gradient: float) -> None:
    descent = Descent(np.ones(3, np.float32), Recovery())
    assert not descent.step(np.array([0, gradient, 0], np.float32))
    np.testing.assert_array_equal(descent.scores, 1)
    assert descent.step(np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("distance", "after"),
    [
        ([0.0], 0),
        ([0.5, 0.02, 0.0], 1),
        ([0.5, 0.01, 0.3, 0.01], 3),
        ([0.5, 0.01, 0.3], None),
        ([0.03], None),
    ],
)
def test_converged_is_within_reach_and_stays(distance: list[float], after: int | None) -> None:
    rows = np.zeros(len(distance) - 1)
    trace = Trace(entropy=rows, energy=rows, distance=np.array(distance))
    assert trace.converged_after == after


FINE = End(
    problem="",
    steps=7,
    looked=False,
    settled=np.zeros(3, np.bool_),
    distance=0.01,
    fixed=True,
    tasks=(TaskInfo(index=0, name="a", real_outputs=2),),
    rows=64,
    entropy=1.7,
    expected=1.0,
    max_ratio=1.8,
)
TWO = (TaskInfo(index=0, name="a", real_outputs=2), TaskInfo(index=1, name="b", real_outputs=2))


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        ({}, "stored", "at the mask of 'a', reached at the end, 1.0% of the bits away"),
        (
            {"looked": True, "distance": 0.35},
            "stored",
            "at the mask of 'a', found by a look after step 7, 35.0% of the bits away",
        ),
        ({"tasks": TWO}, "stored", "at the mask of 'a' and 'b', reached at the end"),
        (
            {"expected": None, "entropy": 9.0, "rows": 1},
            "stored",
            "its entropy was not recorded, so an unknown task cannot be ruled out",
        ),
        ({"tasks": ()}, "spurious", "at a fixed point of no stored task"),
        ({"distance": 0.2}, "not-converged", "20.0% of the bits from the nearest fixed point"),
        ({"fixed": False}, "not-converged", "1.0% of the bits from the nearest fixed point"),
        (
            {"entropy": 1.9},
            "not-converged",
            "entropy of 1.9 through it, expected at most 1.8 times 1: an unknown task?",
        ),
        ({"entropy": np.nan}, "not-converged", "an entropy of nan"),
        ({"tasks": (), "entropy": 1.9}, "not-converged", "at a fixed point of no stored task, but"),
        (
            {"rows": 63},
            "not-converged",
            "63 inputs are too few to rule out an unknown task, at least 64 are needed",
        ),
        ({"problem": "all is lost", "looked": True}, "diverged", "all is lost"),
    ],
)
def test_the_verdict(change: dict[str, Any], verdict: str, reason: str) -> None:
    found = judge(replace(FINE, **change))
    assert found[0] == verdict
    assert reason in found[1]


@pytest.mark.parametrize(
    ("verdict", "looked", "after"),
    [
        ("stored", False, 1),
        ("stored", True, 2),
        ("spurious", False, 1),
        ("not-converged", False, None),
        ("diverged", False, None),
    ],
)
def test_only_what_ended_somewhere_has_converged(
    verdict: Verdict, looked: bool, after: int | None
) -> None:
    rows = np.zeros(2)
    found = Recovered(
        verdict=verdict,
        reason="",
        tasks=(),
        mask=np.ones(3, np.bool_),
        trace=Trace(entropy=rows, energy=rows, distance=np.array([0.5, 0.0, 0.0])),
        looked=looked,
        entropy=0.0,
        expected_entropy=None,
    )
    assert (found.steps, found.task, found.converged_after) == (2, None, after)
