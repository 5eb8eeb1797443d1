from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from supsup_runtime.contract import TaskInfo
from supsup_runtime.inference import METHODS, TaskInference, score_tasks
from supsup_runtime.objectives import entropy, evidence, log_odds, superfluous

Logits = npt.NDArray[np.float64]
LOGITS = hnp.arrays(np.float64, (3, 5), elements=st.floats(-50, 50))


class Fake:
    """A scorer that counts its passes: logits are x times the task's index plus one."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks, self.real_outputs = num_tasks, 2
        self.tried: list[int] = []

    def task_scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.float32(x.mean()) * np.arange(self.num_tasks, dtype=np.float32)

    def task_logits(self, x: npt.NDArray[np.float32], task_index: int) -> npt.NDArray[np.float32]:
        self.tried.append(task_index)
        return x * (task_index + 1)


def images(rows: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_tasks", [1, 4, 9])
def test_rows_on_their_own_are_rows_alone(method: str, num_tasks: int) -> None:
    x = images(6)
    rows = score_tasks(Fake(num_tasks), x, method=method, per_image=True)  # type: ignore[arg-type]  # a literal
    for row in range(6):
        alone = score_tasks(Fake(num_tasks), x[row : row + 1], method=method)  # type: ignore[arg-type]  # a literal
        np.testing.assert_allclose(rows[row], alone[0], rtol=1e-12)


def test_verified_tries_the_best_of_one_shot_alone() -> None:
    fake = Fake(9)
    x = np.ones((1, 5), np.float32)  # scores rise with the index
    scores = score_tasks(fake, x, method="verified", candidates=3)
    assert sorted(fake.tried) == [6, 7, 8]
    assert np.isneginf(scores[0, :6]).all()
    fake.tried.clear()
    score_tasks(fake, x, method="exhaustive")
    assert fake.tried == list(range(9))


def test_ties_go_to_the_lowest_index_and_one_task_has_no_rival() -> None:
    tasks = tuple(TaskInfo(index=i, name=str(i)) for i in range(3))
    tied = TaskInference.from_scores(np.array([1.0, 2.0, 2.0]), tasks, "one-shot")
    assert (tied.task.index, tied.margin) == (1, 0.0)
    alone = TaskInference.from_scores(np.array([5.0]), tasks[:1], "one-shot")
    assert alone.margin == np.inf


@given(logits=LOGITS)
def test_objectives_follow_their_formulas(logits: Logits) -> None:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    plogp = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    np.testing.assert_allclose(entropy(logits), -plogp.sum(1), atol=1e-10)
    assert (entropy(logits) <= np.log(5) + 1e-12).all()
    np.testing.assert_allclose(superfluous(logits), np.log(np.exp(logits).sum(1)), atol=1e-10)
    odds = np.log(np.exp(logits[:, :2]).sum(1)) - np.log(np.exp(logits[:, 2:]).sum(1))
    np.testing.assert_allclose(log_odds(logits, 2), odds, atol=1e-9)
    np.testing.assert_array_equal(evidence(logits, 2), log_odds(logits, 2))
    np.testing.assert_array_equal(evidence(logits, 5), -entropy(logits))


def test_extreme_logits_stay_finite() -> None:
    extreme = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]])
    assert np.isfinite(entropy(extreme)).all()
    assert np.isfinite(log_odds(extreme, 1)).all()
