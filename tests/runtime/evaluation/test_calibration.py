from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from banks import make_bank
from conftest import random_task
from supsup_export import export
from supsup_runtime import load
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation import auroc, calibrate, check_same_bank

SHARES = st.integers(1, 30).flatmap(lambda n: st.integers(1, n).map(lambda k: k / n))
SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


@given(known=SCORES, unknown=SCORES)
def test_auroc_is_sklearns(known: list[float], unknown: list[float]) -> None:
    labels = [1] * len(known) + [0] * len(unknown)
    want = roc_auc_score(labels, known + unknown)
    assert auroc(known, unknown) == pytest.approx(want, abs=1e-12)
    assert auroc(unknown, known) == pytest.approx(1 - want, abs=1e-12)


def test_auroc_at_its_ends() -> None:
    assert auroc([2.0, 3.0], [1.0]) == 1
    assert auroc([1.0], [2.0, 3.0]) == 0
    assert auroc([5.0] * 7, [5.0] * 9) == 0.5  # all scores equal
    assert auroc([1.0], [-math.inf]) == 1


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        ([], [1.0], "known scores must have shape .* at least one image, got .0,."),
        ([1.0], [], "unknown scores must have shape .* at least one image, got .0,."),
        ([[1.0]], [1.0], "known scores must have shape"),
        ([1.0], [math.nan], "unknown scores must be numbers, got NaN"),
    ],
)
def test_auroc_refuses(known: npt.ArrayLike, unknown: npt.ArrayLike, message: str) -> None:
    with pytest.raises(InputError, match=message):
        auroc(known, unknown)


@given(
    scores=SCORES,
    coverage=st.one_of(
        st.floats(0, 1, exclude_min=True),
        # at k / n a rounded product would keep one image too many, just above it one too few
        SHARES,
        SHARES.map(lambda share: min(math.nextafter(share, 2), 1.0)),
    ),
)
def test_the_threshold_is_the_highest_that_keeps_enough(
    scores: list[float], coverage: float
) -> None:
    threshold = calibrate(scores, coverage)
    kept = [sum(score >= at for score in scores) / len(scores) for at in scores]
    assert threshold == max(at for at, share in zip(scores, kept, strict=True) if share >= coverage)


@pytest.mark.parametrize(
    ("scores", "coverage", "threshold"),
    [
        ([3.0], 0.01, 3.0),
        ([3.0], 1, 3.0),
        ([1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0], 0.51, 1.0),
        ([1.0, 2.0, 3.0], math.nextafter(1 / 3, 1), 2.0),  # times 3 is rounded to 1
        ([float(i) for i in range(100)], 0.07, 93.0),  # 0.07 * 100 is above 7
        ([float(i) for i in range(20)], 0.95, 1.0),
        ([4.0] * 9, 0.5, 4.0),
    ],
)
def test_thresholds_of_few_images(scores: list[float], coverage: float, threshold: float) -> None:
    assert calibrate(scores, coverage) == threshold
    assert Fraction(sum(s >= threshold for s in scores), len(scores)) >= Fraction(str(coverage))


@pytest.mark.parametrize(
    ("scores", "coverage", "message"),
    [
        ([1.0], 0, r"coverage must be in \(0, 1\], got 0"),
        ([1.0], 1.5, r"coverage must be in \(0, 1\], got 1.5"),
        ([1.0], math.nan, r"coverage must be in \(0, 1\], got nan"),
        ([], 0.9, "known scores must have shape"),
        ([1.0, math.nan], 0.9, "known scores must be numbers, got NaN"),
        ([1.0, -math.inf], 0.9, "known scores must be finite, got infinity"),
    ],
)
def test_calibrate_refuses(scores: list[float], coverage: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate(scores, coverage)


def test_a_model_is_of_the_bank_as_it_is_now(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    model = load(export(bank, tmp_path / "out.onnx", check=False).path)
    check_same_bank(model, bank)
    bank.replace(random_task(bank.network, "task-1", seed=5))
    message = (
        rf"a task of {bank.path} was replaced since the export: revision must be {bank.revision}, "
        rf"got {model.revision}; export the bank again$"
    )
    with pytest.raises(InputError, match=message):
        check_same_bank(model, bank)
    bank.remove("task-0")
    with pytest.raises(InputError, match=r"must have the tasks of .*: expected 'task-1', got 'ta"):
        check_same_bank(model, bank)
