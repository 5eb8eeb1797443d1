"""Probabilities, the likeliest labels, JSON and texts of a prediction."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from supsup_runtime import Prediction, TaskInference, TaskInfo
from supsup_runtime.errors import InputError

NAMED = TaskInfo(index=0, name="named", real_outputs=3, labels=("x", "y", "z"))
PLAIN = TaskInfo(index=1, name="plain", real_outputs=4)
ROWS = Prediction(
    logits=np.array([[1, 3, 2, 9, 9], [0, 5, 5, 1, 9]], np.float32), tasks=(NAMED, PLAIN)
)


def test_probabilities_are_of_the_tasks_own_outputs() -> None:
    got = ROWS.probabilities
    assert got.shape == (2, 5)
    assert got.dtype == np.float64
    for row, own in ((0, 3), (1, 4)):
        shares = np.exp(ROWS.logits[row, :own].astype(np.float64))
        np.testing.assert_allclose(got[row, :own], shares / shares.sum(), rtol=1e-14)
        assert not got[row, own:].any()
    np.testing.assert_array_equal(ROWS.confidence, [got[0, 1], got[1, 1]])
    assert ROWS.labels == ("y", "1")


def test_the_likeliest_come_first_and_of_equal_ones_the_lower_index() -> None:
    chances = ROWS.probabilities
    assert ROWS.top(2) == (
        (("y", chances[0, 1]), ("z", chances[0, 2])),
        (("1", chances[1, 1]), ("2", chances[1, 2])),
    )
    assert [len(row) for row in ROWS.top(9)] == [3, 4]  # never more than the task has
    one: Any = np.int8(1)
    assert ROWS.top(one) == ROWS.top(1)
    with pytest.raises(InputError, match=r"^k must be an integer of at least 1, got 0$"):
        ROWS.top(0)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.just(5)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_any_finite_logits_have_probabilities(logits: npt.NDArray[np.float32]) -> None:
    found = Prediction(logits=logits, tasks=(NAMED,) * len(logits))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-12)
    assert ((found.confidence > 0.33) & (found.confidence <= 1)).all()
    assert tuple(row[0][0] for row in found.top(1)) == found.labels
    for row in found.top(3):
        assert [chance for _, chance in row] == sorted((c for _, c in row), reverse=True)
    json.dumps(found.to_dict(), allow_nan=False)


def inference(*, margin: float, known: bool | None) -> TaskInference:
    return TaskInference(
        task=NAMED, scores=np.zeros(2), margin=margin, method="verified", passes=5, known=known
    )


def test_a_prediction_as_json() -> None:
    bare = ROWS.to_dict()
    assert json.loads(json.dumps(bare, allow_nan=False)) == bare
    assert bare == {
        "accepted": [None, None],
        "confidence": ROWS.confidence.tolist(),
        "labels": ["y", "1"],
        "logits": [[1.0, 3.0, 2.0], [0.0, 5.0, 5.0, 1.0]],
        "margins": [],
        "method": None,
        "passes": [],
        "tasks": ["named", "plain"],
        "timings": None,
    }
    judged = Prediction(
        logits=ROWS.logits,
        tasks=ROWS.tasks,
        inferences=(inference(margin=math.inf, known=True), inference(margin=0.5, known=False)),
        timings={"prepare": 1.0},
    ).to_dict()
    assert (judged["margins"], judged["passes"]) == ([None, 0.5], [5, 5])
    assert (judged["accepted"], judged["method"]) == ([True, False], "verified")
    assert judged["timings"] == {"prepare": 1.0}


def test_texts_say_what_it_is() -> None:
    assert repr(ROWS) == "<Prediction of 2 rows: 'named' 'y' 0.67, 'plain' '1' 0.49>"
    one = Prediction(logits=ROWS.logits[:1], tasks=ROWS.tasks[:1])
    assert repr(one) == "<Prediction of 1 row: 'named' 'y' 0.67>"
    many = Prediction(logits=np.zeros((10**5, 5), np.float32), tasks=(NAMED,) * 10**5)
    assert repr(many) == "<Prediction of 100000 rows: " + "'named' 'x' 0.33, " * 3 + "...>"
    assert repr(NAMED) == "<TaskInfo 0: 'named', 3 own outputs, labels 'x', 'y', 'z'>"
    assert repr(PLAIN) == "<TaskInfo 1: 'plain', 4 own outputs, no labels>"
    assert repr(inference(margin=1 / 3, known=None)) == (
        "<TaskInference 'named', margin 0.3333, verified in 5 passes>"
    )
    assert repr(inference(margin=math.inf, known=False)) == (
        "<TaskInference 'named', margin inf, verified in 5 passes, known False>"
    )


def test_texts_are_one_short_line_whatever_names_are() -> None:
    labels = tuple(f"\n\x1b{i}" * 10**4 for i in range(5))
    task = TaskInfo(index=0, name="\r\n" * 10**5, real_outputs=5, labels=labels)
    found = Prediction(logits=np.zeros((4, 5), np.float32), tasks=(task,) * 4)
    for text in (repr(task), repr(found)):
        assert text.isprintable()
        assert len(text) < 700
