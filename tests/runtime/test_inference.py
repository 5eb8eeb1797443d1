from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from supsup_runtime.contract import TaskInfo
from supsup_runtime.inference import METHODS, TaskInference, score_tasks
from supsup_runtime.objectives import log_odds


class Fake:
    """A scorer that counts its passes: logits are x times the task's index plus one."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks, self.real_outputs = num_tasks, 2
        self.tried: list[int] = []

    def task_scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.float32(x.mean()) * np.arange(self.num_tasks, dtype=np.float32)

    def row_scores(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.stack([self.task_scores(row[None]) for row in x])

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


def test_more_candidates_than_tasks_is_exhaustive() -> None:
    fake, x = Fake(3), images(4)
    scores = score_tasks(fake, x, method="verified", candidates=100)
    assert fake.tried == [0, 1, 2]
    np.testing.assert_allclose(scores, score_tasks(fake, x, method="exhaustive"), rtol=1e-12)


def test_scores_follow_their_formulas() -> None:
    fake, x = Fake(3), images(4)
    one_shot = score_tasks(fake, x, method="one-shot")
    np.testing.assert_array_equal(one_shot, fake.task_scores(x)[None].astype(np.float64))
    exhaustive = score_tasks(fake, x, method="exhaustive")
    for task in range(3):
        logits = (x * np.float32(task + 1)).astype(np.float64)
        np.testing.assert_allclose(exhaustive[0, task], log_odds(logits, 2).mean(), rtol=1e-12)


def test_tied_one_shot_scores_give_the_lowest_candidates() -> None:
    fake = Fake(6)
    score_tasks(fake, np.zeros((2, 5), np.float32), method="verified", candidates=2, per_image=True)
    assert fake.tried == [0, 1]


def test_one_candidate_has_no_rival() -> None:
    tasks = tuple(TaskInfo(index=i, name=str(i)) for i in range(4))
    scores = score_tasks(Fake(4), images(2), method="verified", candidates=1)
    assert TaskInference.from_scores(scores[0], tasks, "verified").margin == np.inf
