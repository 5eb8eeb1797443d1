from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supsup_runtime.arrays import Floats
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import METHODS, Inference, Method, TaskInference, score_tasks
from supsup_runtime.model.metadata import TaskInfo
from supsup_runtime.objectives import Score, entropy, log_odds, max_probability


class Fake:
    """A scorer that counts its passes: logits are x times the task's index plus one."""

    def __init__(self, num_tasks: int) -> None:
        self.place, self.num_tasks = "fake", num_tasks
        self.real_outputs: Sequence[int] = [2] * num_tasks
        self.default_score: Score = "log-odds"
        self.tried: list[int] = []

    def task_scores(self, x: Floats) -> Floats:
        return np.float32(x.mean()) * np.arange(self.num_tasks, dtype=np.float32)

    def scored(self, x: Floats) -> list[Floats]:
        scores = self.task_scores(x)
        return [self.task_logits(x, int(scores.argmax())), scores]

    def scores_at(self, x: Floats, tasks: npt.NDArray[np.int64], alphas: Floats) -> Floats:
        assert np.isclose(alphas.sum(), 1)
        assert (alphas > 0).all()
        assert len(set(tasks.tolist())) == len(alphas)
        return self.task_scores(x)

    def row_scores(self, x: Floats) -> Floats:
        return np.stack([self.task_scores(row[None]) for row in x])

    def task_logits(self, x: Floats, task_index: int) -> Floats:
        self.tried.append(task_index)
        return x * (task_index + 1)


def images(rows: int) -> Floats:
    return np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 4, 7, 8, 9])
def test_rows_on_their_own_are_rows_alone(method: Method, num_tasks: int) -> None:
    x, how = images(6), Inference(method=method)
    rows, passes, _ = score_tasks(Fake(num_tasks), x, how, per_image=True)
    for row in range(6):
        alone, (count,), _ = score_tasks(Fake(num_tasks), x[row : row + 1], how)
        np.testing.assert_allclose(rows[row], alone[0], rtol=1e-12)
        assert passes[row] == count


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 7, 8, 9])
def test_passes_are_counted(num_tasks: int) -> None:
    x = images(1)
    wanted = {
        "one-shot": 1,
        "binary": math.ceil(math.log2(num_tasks)),
        "verified": 1 + min(4, num_tasks),
        "exhaustive": num_tasks,
    }
    for method in METHODS:
        fake = Fake(num_tasks)
        _, (passes,), _ = score_tasks(fake, x, Inference(method=method))
        if method == "gradient":
            assert 1 <= passes <= 5
        else:
            assert passes == wanted[method], method
        forward = passes - 1 if method == "verified" else passes
        if method in {"verified", "exhaustive"}:
            assert len(fake.tried) == forward


class Given(Fake):
    """Scores of the first pass, and of every one at a superposition of some tasks."""

    def __init__(self, rounds: list[list[float]]) -> None:
        super().__init__(len(rounds[0]))
        self.rounds = iter(rounds)
        self.superposed: list[tuple[list[int], list[float]]] = []

    def task_scores(self, x: Floats) -> Floats:  # noqa: ARG002 - given
        return np.array(next(self.rounds), np.float32)

    def scores_at(self, x: Floats, tasks: npt.NDArray[np.int64], alphas: Floats) -> Floats:
        self.superposed.append((tasks.tolist(), alphas.tolist()))
        return self.task_scores(x)


def test_binary_halves_by_the_scores_of_each_round() -> None:
    fake = Given([[5, 1, 4, 3, 2], [0, 9, 1, 2, 9], [7, 9, 9, 8, 9]])
    scores, passes, _ = score_tasks(fake, images(1), Inference(method="binary"))
    # of five the best three stay, 0, 2, 3; of these by their own round the best two, 2 and 3
    assert [used for used, _ in fake.superposed] == [[0, 2, 3], [2, 3]]
    assert [alphas[0] for _, alphas in fake.superposed] == [np.float32(1 / 3), 0.5]
    assert passes == [3]
    np.testing.assert_array_equal(scores[0], [-np.inf, -np.inf, 9, 8, -np.inf])


@given(st.lists(st.lists(st.integers(-2, 2), min_size=17, max_size=17), min_size=5, max_size=5))
def test_binary_ends_whatever_is_tied(rounds: list[list[float]]) -> None:
    scores, (passes,), _ = score_tasks(Given(rounds), images(1), Inference(method="binary"))
    assert passes == 5  # of 17: 9, 5, 3, 2, 1
    assert np.isfinite(scores).sum() == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_tasks", [1, 2, 5, 9])
def test_equal_scores_give_the_lowest_index_and_no_margin(method: Method, num_tasks: int) -> None:
    """Dead units: nothing tells the tasks apart, and every method ends."""
    tasks = tuple(TaskInfo(index=i, name=str(i), real_outputs=2) for i in range(num_tasks))
    blank = np.zeros((2, 5), np.float32)
    scores, (passes,), _ = score_tasks(Fake(num_tasks), blank, Inference(method=method))
    found = TaskInference.from_scores(scores[0], tasks, method, passes)
    assert found.task.index == 0
    assert found.margin == (np.inf if num_tasks == 1 else 0)


def test_gradient_follows_its_formula() -> None:
    """Two steps by hand: scores 3, 1, 2 about their mean of 2, then 0, 1, 5."""
    fake = Given([[3, 1, 2], [0, 1, 5]])
    how = Inference(method="gradient", steps=2, step_size=0.5)
    scores, passes, _ = score_tasks(fake, images(1), how)
    first = np.maximum(1 / 3 + 0.5 * np.array([1.0, -1.0, 0.0]), 0)
    first /= first.sum()
    ((used, alphas),) = fake.superposed
    assert used == [0, 2]
    np.testing.assert_allclose(alphas, first[[0, 2]], rtol=1e-6)
    second = np.maximum(first + 0.5 * np.array([-2.0, -1.0, 3.0]) / 3, 0)
    np.testing.assert_allclose(scores[0], second / second.sum(), rtol=1e-12)
    assert passes == [2]


@given(
    st.lists(st.lists(st.floats(-9, 9, width=32), min_size=7, max_size=7), min_size=6, max_size=6),
    st.floats(0.01, 10),
)
def test_alphas_stay_a_superposition(rounds: list[list[float]], step_size: float) -> None:
    how = Inference(method="gradient", steps=6, step_size=step_size)
    scores, (passes,), _ = score_tasks(Given(rounds), images(1), how)
    assert scores.min() >= 0
    assert scores.sum() == pytest.approx(1)
    assert 1 <= passes <= 6


def test_passes_are_judged_by_the_score_asked_for() -> None:
    x = images(4)
    for score, formula in (("entropy", entropy), ("max-probability", max_probability)):
        how = Inference(method="exhaustive", score=score)  # type: ignore[arg-type]  # a literal
        scores, _, _ = score_tasks(Fake(3), x, how)
        for task in range(3):
            want = formula((x * np.float32(task + 1)).astype(np.float64)).mean()
            sign = -1 if score == "entropy" else 1
            np.testing.assert_allclose(scores[0, task], sign * want, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, r"method must be one of one-shot, .*, got 'magic'"),
        ({"method": "verified", "score": "luck"}, r"score must be one of.*got 'luck'"),
        ({"method": "one-shot", "score": "entropy"}, "score applies only to verified and exh"),
        ({"method": "exhaustive", "candidates": 3}, "candidates applies only to verified, got 3"),
        ({"method": "binary", "steps": 3}, "steps applies only to gradient, got 3 with"),
        ({"method": "verified", "step_size": 1.0}, "step_size applies only to gradient, got 1.0"),
        ({"method": "verified", "candidates": 0}, "candidates must be an integer of at least 1"),
        ({"method": "verified", "candidates": 2.5}, "candidates must be an integer.*got 2.5"),
        ({"method": "gradient", "steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"method": "gradient", "step_size": 0.0}, "step_size must be positive and finite, got 0"),
        ({"method": "gradient", "step_size": math.inf}, "step_size must be positive and finite"),
        ({"method": "gradient", "step_size": math.nan}, "step_size must be positive and finite"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Inference(**settings)


def test_verified_tries_the_best_of_one_shot_alone() -> None:
    fake = Fake(9)
    x = np.ones((1, 5), np.float32)  # scores rise with the index
    scores = score_tasks(fake, x, Inference(method="verified", candidates=3))[0]
    assert sorted(fake.tried) == [6, 7, 8]
    assert np.isneginf(scores[0, :6]).all()
    fake.tried.clear()
    score_tasks(fake, x, Inference(method="exhaustive"))
    assert fake.tried == list(range(9))


@pytest.mark.parametrize("method", ["verified", "exhaustive"])
@pytest.mark.parametrize("per_image", [False, True])
def test_logits_are_those_of_the_best_task(method: Method, per_image: bool) -> None:
    x, how = images(6), Inference(method=method, score="entropy")
    scores, _, logits = score_tasks(Fake(5), x, how, per_image=per_image)
    best = np.broadcast_to(scores.argmax(axis=1), 6)
    np.testing.assert_array_equal(logits, x * (best + 1)[:, None].astype(np.float32))


def test_a_row_that_only_a_real_pass_overflows_is_named() -> None:
    x = images(6)
    x[4] = [1e38, -1e38, 1, 1, 1]
    refused = pytest.raises(InputError, match="fake: logits are not finite in row 4")
    with np.errstate(over="ignore"), refused:
        score_tasks(Fake(9), x, Inference(method="verified", candidates=1), per_image=True)


def test_ties_go_to_the_lowest_index_and_one_task_has_no_rival() -> None:
    tasks = tuple(TaskInfo(index=i, name=str(i), real_outputs=2) for i in range(3))
    tied = TaskInference.from_scores(np.array([1.0, 2.0, 2.0]), tasks, "one-shot", 1)
    assert (tied.task.index, tied.margin) == (1, 0.0)
    alone = TaskInference.from_scores(np.array([5.0]), tasks[:1], "one-shot", 1)
    assert alone.margin == np.inf


def test_more_candidates_than_tasks_is_exhaustive() -> None:
    fake, x = Fake(3), images(4)
    scores = score_tasks(fake, x, Inference(method="verified", candidates=100))[0]
    assert fake.tried == [0, 1, 2]
    np.testing.assert_allclose(
        scores, score_tasks(fake, x, Inference(method="exhaustive"))[0], rtol=1e-12
    )


def test_scores_follow_their_formulas() -> None:
    fake, x = Fake(3), images(4)
    one_shot = score_tasks(fake, x, Inference(method="one-shot"))[0]
    np.testing.assert_array_equal(one_shot, fake.task_scores(x)[None].astype(np.float64))
    exhaustive = score_tasks(fake, x, Inference(method="exhaustive"))[0]
    for task in range(3):
        logits = (x * np.float32(task + 1)).astype(np.float64)
        np.testing.assert_allclose(exhaustive[0, task], log_odds(logits, 2).mean(), rtol=1e-12)


def test_log_odds_use_the_own_outputs_of_each_task() -> None:
    fake, x = Fake(3), images(4)
    fake.real_outputs = [1, 2, 4]
    scores, _, kept = score_tasks(fake, x, Inference(method="exhaustive"), per_image=True)
    wide = x.astype(np.float64)
    for task, own in enumerate(fake.real_outputs):
        expected = log_odds(wide * (task + 1), own)
        np.testing.assert_allclose(scores[:, task], expected, rtol=1e-6)
    assert kept is not None
    assert kept.shape == x.shape  # full width


def test_one_score_judges_all_tasks_whatever_outputs_they_have() -> None:
    """A task with as many classes as outputs has no log-odds; then no task is judged by them."""
    fake, x = Fake(3), images(4)
    fake.real_outputs, fake.default_score = [2, 5, 3], "entropy"
    scores, _, _ = score_tasks(fake, x, Inference(method="exhaustive"), per_image=True)
    for task in range(3):
        expected = -entropy(x.astype(np.float64) * (task + 1))
        np.testing.assert_allclose(scores[:, task], expected, rtol=1e-5)


def test_tied_one_shot_scores_give_the_lowest_candidates() -> None:
    fake = Fake(6)
    how = Inference(method="verified", candidates=2)
    score_tasks(fake, np.zeros((2, 5), np.float32), how, per_image=True)
    assert fake.tried == [0, 1]


def test_one_candidate_has_no_rival() -> None:
    tasks = tuple(TaskInfo(index=i, name=str(i), real_outputs=2) for i in range(4))
    scores = score_tasks(Fake(4), images(2), Inference(method="verified", candidates=1))[0]
    assert TaskInference.from_scores(scores[0], tasks, "verified", 2).margin == np.inf
