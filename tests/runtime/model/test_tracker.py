"""A tracker: the filter against the forward algorithm, and trackers of real models."""

from __future__ import annotations

import itertools
import math
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import supsup_runtime as supsup
from banks import make_bank
from supsup_export import Request, export
from supsup_runtime.arrays import Scores
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.tracker import filtered, log_likelihoods
from supsup_runtime.objectives import Score

X = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
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


@pytest.fixture
def bank(tmp_path: Path) -> supsup.MaskBank:
    return make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)


@pytest.fixture
def path(tmp_path: Path, bank: supsup.MaskBank) -> Path:
    return export(bank, tmp_path / "out.onnx", check=False).path


def calibrated(bank: supsup.MaskBank, path: Path, threshold: float) -> supsup.Model:
    bank.set_calibration(
        supsup.Calibration(
            score="log-odds",
            threshold=threshold,
            coverage=0.95,
            images=9,
            auroc=None,
            accepted=None,
        )
    )
    export(bank, path, check=False, force=True)
    return supsup.load(path)


@pytest.mark.parametrize("method", ["exhaustive", "verified"])
def test_the_first_frame_is_what_infer_task_says(path: Path, method: str) -> None:
    model = supsup.load(path)
    how = supsup.Inference(method=method, candidates=2 if method == "verified" else None)  # type: ignore[arg-type]  # one of two
    for x in X[:, None]:
        inference, belief = model.infer_task(x, method=how), model.tracker(method=how).update(x)
        assert belief.task == inference.task
        assert belief.known is None
        assert belief.unknown == 0
        tried = np.isfinite(inference.scores)
        assert belief.probabilities.dtype == np.float64
        assert belief.probabilities.shape == (3,)
        assert math.isclose(belief.probabilities.sum(), 1)
        odds = np.log(belief.probabilities[tried])
        np.testing.assert_allclose(
            odds - odds[0], inference.scores[tried] - inference.scores[tried][0], atol=1e-9
        )
        assert belief.task is not None
        assert belief.prediction is not None
        np.testing.assert_allclose(
            belief.prediction.logits, model.logits(x, belief.task), rtol=1e-5, atol=1e-6
        )


def test_frames_of_a_batch_are_taken_in_order(path: Path) -> None:
    model = supsup.load(path)
    one, several = model.tracker(), model.tracker()
    for x in X:
        belief = one.update(x[None])
    for batch in np.split(X, [1, 5, 30]):
        batched = several.update(batch)
    np.testing.assert_allclose(belief.probabilities, batched.probabilities, rtol=1e-4)
    assert belief.task is not None
    assert batched.prediction is not None
    assert batched.prediction.logits.shape == (1, 6)
    np.testing.assert_allclose(
        batched.prediction.logits, model.logits(X[-1:], belief.task), rtol=1e-5, atol=1e-6
    )


def test_the_prediction_is_of_the_task_believed(path: Path) -> None:
    """Not of the task that this frame alone fits best."""
    model = supsup.load(path)
    tracker, others = model.tracker(1e-9), 0
    for x in X[:, None]:
        belief, best = tracker.update(x), model.infer_task(x).task
        assert belief.task is not None
        assert belief.prediction is not None
        assert belief.prediction.task == belief.task
        np.testing.assert_allclose(
            belief.prediction.logits, model.logits(x, belief.task), rtol=1e-5, atol=1e-6
        )
        others += belief.task != best
    assert others


def test_refused_frames_change_nothing(path: Path) -> None:
    model = supsup.load(path)
    tracker, spoiled = model.tracker(), model.tracker()
    bad = X[:2].copy()
    bad[1, 3] = np.nan
    for x in X[:10, None]:
        want, got = tracker.update(x), spoiled.update(x)
        np.testing.assert_array_equal(got.probabilities, want.probabilities)
        for wrong, message in (
            (bad, "x must be finite, got NaN or infinity in row 1"),
            (X[:0], r"x must have shape \(batch, 5\) with batch >= 1"),
            (X[0], "x must have shape"),
            (X[:1, :4], "x must have shape"),
            (X[:1].astype(np.float64), "x must be a float32 array"),
            (np.full((1, 5), 3e38, np.float32), "are not finite"),
        ):
            with pytest.raises(InputError, match=message):
                spoiled.update(wrong)  # type: ignore[arg-type]  # of another type


@pytest.mark.parametrize("switch", [-0.01, 1.01, math.nan, math.inf, True, "0.1", None])
def test_a_switch_out_of_range_is_refused(path: Path, switch: float) -> None:
    with pytest.raises(InputError, match=r"^switch must be a number in \[0, 1\], got "):
        supsup.load(path).tracker(switch)


def test_methods_without_passes_through_masks_are_refused(
    bank: supsup.MaskBank, path: Path
) -> None:
    model = supsup.load(path)
    for method in ("one-shot", "binary", "gradient"):
        with pytest.raises(InputError, match=f"a tracker needs method verified or exha.*{method}"):
            model.tracker(method=method)
    one = supsup.Inference(method="verified", candidates=1)
    with pytest.raises(InputError, match="verified must try at least 2 candidates, got 1; give a"):
        model.tracker(method=one)
    with pytest.raises(InputError, match="method must be one of"):
        model.tracker(method="best")  # type: ignore[arg-type]  # refused
    export(bank, path, request=Request(outputs=("task", "logits")), check=False, force=True)
    with pytest.raises(InputError, match=r"got one-shot; give one, or export with all outputs$"):
        supsup.load(path).tracker()
    with pytest.raises(InputError, match="exported to infer only"):
        supsup.load(path).tracker(method="exhaustive").update(X[:1])
    export(bank, path, request=Request(outputs=("logits",)), check=False, force=True)
    assert supsup.load(path).tracker().update(X[:1]).task is not None


def test_no_known_task_is_one_more(bank: supsup.MaskBank, path: Path) -> None:
    best = [inference.scores.max() for inference in supsup.load(path).infer_tasks(X)]
    model = calibrated(bank, path, float(np.median(best)))
    known = []
    for x in X[:, None]:
        belief, want = model.tracker().update(x), model.infer_task(x).known
        assert belief.known == want == (belief.task is not None) == (belief.prediction is not None)
        assert math.isclose(belief.probabilities.sum() + belief.unknown, 1)
        known.append(want)
    assert {True, False} == set(known)
    refused = calibrated(bank, path, 1e3).tracker().update(X)
    assert (refused.task, refused.known) == (None, False)
    assert refused.unknown > 0.99
    assert repr(refused) == "<Posterior no known task 1>"
    assert calibrated(bank, path, -1e3).tracker().update(X).known
    other = model.tracker(method=supsup.Inference(method="exhaustive", score="entropy"))
    assert other.update(X[:1]).known is None  # calibrated for log-odds


def test_reset_forgets(path: Path) -> None:
    model = supsup.load(path)
    tracker = model.tracker()
    assert repr(tracker) == "<Tracker switch 0.02, no frames yet>"
    first = tracker.update(X[:1])
    tracker.update(X)
    assert repr(tracker) == "<Tracker switch 0.02>"
    tracker.reset()
    np.testing.assert_array_equal(tracker.update(X[:1]).probabilities, first.probabilities)
    assert first.task is not None
    assert repr(first).startswith(f"<Posterior '{first.task.name}' 0.")


def test_it_goes_on_after_a_reload_and_starts_anew_with_other_tasks(
    bank: supsup.MaskBank, path: Path
) -> None:
    model = supsup.load(path)
    tracker, want = model.tracker(), model.tracker()
    for each in (tracker, want):
        each.update(X[:9])
    export(bank, path, request=Request(target="portable"), check=False, force=True)
    assert model.reload()
    np.testing.assert_allclose(
        tracker.update(X[9:12]).probabilities, want.update(X[9:12]).probabilities
    )
    bank.remove("task-0")
    export(bank, path, check=False, force=True)
    assert model.reload()
    belief = tracker.update(X[:1])
    assert belief.probabilities.shape == (2,)
    np.testing.assert_array_equal(belief.probabilities, model.tracker().update(X[:1]).probabilities)
    model.close()
    with pytest.raises(ModelError, match="the model is closed"):
        tracker.update(X[:1])
    with pytest.raises(ModelError, match="the model is closed"):
        model.tracker()


def test_one_task_is_certain(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "one", "mlp-7-9", outputs=6, real_outputs=4, tasks=1)
    model = supsup.load(export(bank, tmp_path / "one.onnx", check=False).path)
    for switch in SWITCHES:
        belief = model.tracker(switch).update(X)
        np.testing.assert_array_equal(belief.probabilities, [1.0])


def test_threads_take_turns(path: Path) -> None:
    model = supsup.load(path)
    tracker, alone = model.tracker(0), model.tracker(0)  # without switches order does not matter
    threads = [
        threading.Thread(target=lambda part=part: [tracker.update(x[None]) for x in part])
        for part in np.split(X[:39], 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(
        tracker.update(X[39:]).probabilities, alone.update(X).probabilities, atol=1e-6
    )
