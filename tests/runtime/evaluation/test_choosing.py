"""How a calibration chooses method, score and adjustment, and how a model uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banks import make_bank
from supsup_export import Request, export
from supsup_runtime import Inference, Model, load
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.evaluation import choosing, measure
from supsup_runtime.evaluation.calibration import default_way
from supsup_runtime.evaluation.choosing import Tried, _best, _measured, fitted, ways_to_infer
from supsup_runtime.model import loaded
from supsup_runtime.objectives import Score, energy, evidence

TASKS = 5


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    folder = tmp_path_factory.mktemp("choosing") / "masks"
    return make_bank(folder, "mlp-7-9", outputs=8, real_outputs=4, tasks=TASKS)


@pytest.fixture(scope="module")
def model(bank: MaskBank) -> Model:
    return load(export(bank, bank.path.parent / "out.onnx", check=False).path)


def samples(model: Model, count: int = 40, seed: int = 0) -> list[npt.NDArray[np.float32]]:
    """Images that a task's mask scores highest, so that inferring is better than guessing."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4000, 5)).astype(np.float32)
    how = Inference(method="exhaustive", adjusted=False)
    scores = np.stack([found.scores for found in model.infer_tasks(x, method=how)])
    order = np.argsort(-(scores - scores.mean(axis=0)), axis=1)[:, 0]
    return [x[order == task][:count] for task in range(model.num_tasks)]


def calibrated(bank: MaskBank, model: Model, folder: Path, how: Inference | None = None) -> Model:
    found = measure(model, samples(model), how=how, coverage=0.9)
    bank.set_calibration(found.calibration)
    return load(export(bank, folder / "calibrated.onnx", check=False).path)


def test_slopes_and_shifts_are_learned_back() -> None:
    rng = np.random.default_rng(0)
    scale, shift = np.array([0.5, 1.0, 2.0, 1.0]), np.array([0.0, 1.0, -1.0, 3.0])
    own = rng.integers(0, 4, 4000)
    true = rng.standard_normal((4000, 4)) * 2
    true[np.arange(4000), own] += 3
    found, moved = fitted((true - shift) / scale, own)
    np.testing.assert_allclose(found / found[1], scale / scale[1], rtol=0.15)
    right = ((true - shift) / scale * found + moved).argmax(axis=1) == own
    assert right.mean() > (true.argmax(axis=1) == own).mean() - 0.005


@settings(max_examples=20, deadline=None)
@given(tasks=st.integers(1, 6), images=st.integers(1, 9), seed=st.integers(0, 99))
def test_fits_of_few_images_are_finite_and_follow_the_tasks(
    tasks: int, images: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, own = rng.standard_normal((images, tasks)), rng.integers(0, tasks, images)
    scale, shift = fitted(scores, own)
    assert np.isfinite(scale).all()
    assert np.isfinite(shift).all()
    assert (scale > 0).all()
    order = rng.permutation(tasks)
    moved = fitted(scores[:, order], np.argsort(order)[own])
    np.testing.assert_allclose(moved[0], scale[order], rtol=1e-6)
    np.testing.assert_allclose(moved[1], shift[order], atol=1e-6)


def test_equal_scores_are_fitted() -> None:
    scale, shift = fitted(np.full((4, 2), 7.0), np.array([0, 0, 0, 1]))
    assert np.isfinite([*scale, *shift]).all()


def test_ways_are_measured_on_images_that_were_not_fitted(model: Model) -> None:
    images = samples(model)
    ways = ways_to_infer(model, images, None)
    assert [way.inferred for way in ways] == sorted((w.inferred for w in ways), reverse=True)
    assert len(ways) == 8
    assert {way.how.score for way in ways} == {
        *("log-odds", "entropy", "max-probability", "energy")
    }
    for way in ways:
        how = replace(way.how, adjusted=False)
        right = []
        for task, x in enumerate(images):
            rest = x[(len(x) + 1) // 2 :]
            scores = [found.scores for found in model.infer_tasks(rest, method=how)]
            right.append(way.adjusted(np.stack(scores)).argmax(axis=1) == task)
        assert way.inferred == pytest.approx(np.concatenate(right).mean(), abs=1e-12)
    (first, *_) = ways_to_infer(model, images, Inference(method="exhaustive", score="energy"))
    assert first.how.score == "energy"


@pytest.mark.parametrize("case", ["one image", "too many passes"])
def test_what_cannot_be_measured_is_left_as_it_is(
    model: Model, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = samples(model)
    if case == "one image":
        images = [x[:1] for x in images]
    else:
        monkeypatch.setattr(choosing, "MAX_PASSES", 10)
    assert ways_to_infer(model, images, None) == []
    found = measure(model, images, coverage=1).calibration
    assert (found.method, found.score, found.scale) == ("exhaustive", "log-odds", ())


def test_few_candidates_are_tried_where_they_lose_nearly_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "MAX_TRIED", 2)  # as with many tasks
    images = samples(model)
    monkeypatch.setattr(choosing, "_CANDIDATES", (1, 2, 4))
    monkeypatch.setattr(choosing, "_MAY_LOSE", 1.0)
    ways = ways_to_infer(model, images, None)
    assert (ways[0].how.method, ways[0].how.candidates) == ("verified", 1)
    monkeypatch.setattr(choosing, "_MAY_LOSE", -1.0)  # never enough
    ways = ways_to_infer(model, images, None)
    assert ways[0].how.method == "exhaustive"
    assert [way.how.candidates for way in ways[-3:]] == [4, 2, 1]
    monkeypatch.setattr(choosing, "_MAY_LOSE", 0.0)
    way, *others = ways_to_infer(model, images, None)
    best = max(w.inferred for w in others if w.how.method == "exhaustive")
    assert way.how.method == "exhaustive" or way.inferred >= best


def test_a_model_adjusts_scores_and_infers_as_calibrated(
    bank: MaskBank, model: Model, tmp_path: Path
) -> None:
    how = Inference(method="exhaustive", score="energy")
    found = calibrated(bank, model, tmp_path, how)
    calibration = found.info.calibration
    assert calibration is not None
    assert (calibration.method, calibration.score) == ("exhaustive", "energy")
    assert found.how() == found.how("auto") == how
    x = np.concatenate(samples(model, count=3))
    logits = [model.logits(x, task).astype(np.float64) for task in range(TASKS)]
    counts = [task.real_outputs for task in model.tasks]
    plain = np.stack([energy(z, n) for z, n in zip(logits, counts, strict=True)], axis=1)
    want = plain * np.array(calibration.scale or 1) + np.array(calibration.shift or 0)
    for batch, scores in ((slice(None), want), (slice(2), want[:2])):
        got = np.stack([each.scores for each in found.infer_tasks(x[batch])])
        np.testing.assert_allclose(got, scores, rtol=1e-5)
        mean = found.infer_task(x[batch]).scores
        np.testing.assert_allclose(mean, scores.mean(axis=0), rtol=1e-5)
    raw = found.infer_tasks(x, method=replace(how, adjusted=False))
    np.testing.assert_allclose([each.scores for each in raw], plain, rtol=1e-5)
    assert calibration.scale
    assert [each.known for each in raw] == [None] * len(x)  # its threshold is of others
    other = found.infer_task(x, method=Inference(method="exhaustive", score="entropy"))
    np.testing.assert_allclose(
        other.scores, [evidence(each, 4, "entropy").mean() for each in logits], rtol=1e-5
    )
    tried = found.infer_task(x, method=Inference(method="verified", score="energy", candidates=2))
    assert np.isneginf(tried.scores).sum() == TASKS - 2


def test_calibrating_again_does_not_adjust_twice(
    bank: MaskBank, model: Model, tmp_path: Path
) -> None:
    first = measure(model, samples(model), coverage=0.9)
    again = calibrated(bank, model, tmp_path)
    second = measure(again, samples(model), coverage=0.9)
    assert second.calibration == first.calibration


def test_what_a_calibration_chooses_does_not_depend_on_the_one_before(
    bank: MaskBank, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = measure(model, samples(model), coverage=0.9).calibration
    how = Inference(method="verified", candidates=2)
    found = calibrated(bank, model, tmp_path, how)
    assert found.how().method == "verified"
    assert default_way(found) == Inference(method="exhaustive")  # of supsup-calibrate --score
    assert measure(found, samples(model), coverage=0.9).calibration == fresh  # few: all tried
    monkeypatch.setattr(loaded, "MAX_TRIED", 2)  # as with many tasks
    monkeypatch.setattr(choosing, "_CANDIDATES", (2, 4))
    monkeypatch.setattr(choosing, "_MAY_LOSE", 1.0)
    (tmp_path / "every").mkdir()
    found = calibrated(bank, model, tmp_path / "every", Inference(method="exhaustive"))
    assert measure(found, samples(model), coverage=0.9).calibration.candidates == 2


@pytest.mark.parametrize("candidates", [None, 1, TASKS])
def test_a_method_that_is_given_is_measured_and_comes_first(
    model: Model, candidates: int | None
) -> None:
    how = Inference(method="verified", candidates=candidates)
    found = measure(model, samples(model), how=how, coverage=0.9)
    first, calibration = found.ways[0], found.calibration
    assert (first.how.method, first.how.candidates) == ("verified", candidates or 4)
    assert calibration.candidates == first.how.candidates
    assert calibration.inferred == pytest.approx(first.inferred)


def test_scores_stay_as_they_are_where_that_is_asked_for(model: Model) -> None:
    how = Inference(method="exhaustive", adjusted=False)
    found = measure(model, samples(model), how=how, coverage=0.9)
    assert not found.calibration.scale
    assert [way.is_adjusted for way in found.ways] == [False]


def test_models_that_cannot_choose_candidates_try_all_tasks(
    bank: MaskBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(outputs=("logits",))
    known = load(export(bank, tmp_path / "known.onnx", request=request, check=False).path)
    monkeypatch.setattr(loaded, "MAX_TRIED", 2)  # as with many tasks
    found = measure(known, samples(known), coverage=0.9).calibration
    assert found.method == default_way(known).method == "exhaustive"


def test_of_one_task_nothing_is_chosen(tmp_path: Path) -> None:
    alone = make_bank(tmp_path / "masks", "mlp-7-9", outputs=8, real_outputs=4, tasks=1)
    model = load(export(alone, tmp_path / "out.onnx", check=False).path)
    x = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    found = measure(model, [x], coverage=0.9)
    assert found.ways == ()
    assert found.calibration.inferred == 1.0


@pytest.mark.parametrize(("images", "first"), [(100, "entropy"), (10_000, "log-odds")])
def test_of_ways_as_good_on_single_images_that_of_groups_is_best(images: int, first: str) -> None:
    def way(score: Score, inferred: float, together: float) -> Tried:
        how = Inference(method="exhaustive", score=score)
        none = np.zeros(0)
        return Tried(how=how, inferred=inferred, together=together, scale=none, shift=none)

    tried = [way("log-odds", 0.55, 0.7), way("entropy", 0.52, 0.9), way("energy", 0.3, 1.0)]
    assert _best(tried, images).how.score == first  # an error of 5 points, or of half a point


def test_groups_are_of_images_of_one_task_in_any_number() -> None:
    none = np.zeros(0)
    way = Tried(how=Inference(method="exhaustive"), inferred=0, together=0, scale=none, shift=none)
    scores = np.array([[3.0, 0], [0, 1], [3, 0], [0, 1]])  # task 0 three times, task 1 once
    found = _measured(way, scores[[0, 1, 2, 3]], np.array([0, 0, 0, 1]))
    assert (found.inferred, found.together) == (0.75, 1.0)
    many = np.tile(scores[:2], (10, 1))  # windows of eight: as many of either
    found = _measured(way, many, np.zeros(20, np.int64))
    assert (found.inferred, found.together) == (0.5, 1.0)
    lost = np.full((1, 2), -np.inf)  # verified tried neither
    assert _measured(way, lost, np.array([1])).together == 0
