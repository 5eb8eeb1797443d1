"""Trackers of real models; the filter is in `test_filter`."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from supsup_export import Request, export
from supsup_runtime.errors import InputError, ModelError

X = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)


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
    for switch in (0, 1e-320, 1e-9, 0.02, 0.5, 0.9, 1):
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
