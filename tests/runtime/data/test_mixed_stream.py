"""The stream that deals tasks of three kinds: which come when, and what they hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from supsup_runtime.data.dataset import Dataset
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import DataError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(None)


def test_the_three_kinds_come_in_turn(digits: Dataset) -> None:
    names = make_stream("mixed", digits, num_tasks=7).task_names
    assert names == (
        "permuted-0000",
        "rotated-010",
        "split-0-1",
        "permuted-0001",
        "rotated-020",
        "split-2-3",
        "permuted-0002",
    )


@pytest.mark.parametrize(
    ("num_tasks", "wanted"),
    [
        (1, {"permuted": 1}),
        (50, {"permuted": 23, "rotated": 22, "split": 5}),
        (100, {"permuted": 60, "rotated": 35, "split": 5}),  # 360 degrees are 0 again
    ],
)
def test_a_kind_that_has_none_left_is_passed_over(
    digits: Dataset, num_tasks: int, wanted: dict[str, int]
) -> None:
    names = make_stream("mixed", digits, num_tasks=num_tasks).task_names
    assert len(set(names)) == num_tasks
    assert Counter(name.partition("-")[0] for name in names) == wanted


def test_a_longer_stream_begins_with_the_shorter_one(digits: Dataset) -> None:
    long = make_stream("mixed", digits, num_tasks=50).task_names
    assert make_stream("mixed", digits, num_tasks=9).task_names == long[:9]


@pytest.mark.parametrize(("index", "kind", "of_kind"), [(3, "permuted", 1), (4, "rotated", 2)])
def test_tasks_are_those_of_the_plain_streams(
    digits: Dataset, index: int, kind: str, of_kind: int
) -> None:
    mixed = make_stream("mixed", digits, num_tasks=6, seed=5).task(index)
    plain = make_stream(kind, digits, num_tasks=3, seed=5).task(of_kind)
    assert (mixed.name, mixed.labels) == (plain.name, plain.labels)
    np.testing.assert_array_equal(mixed.train_x, plain.train_x)
    np.testing.assert_array_equal(mixed.test_y, plain.test_y)


def test_split_tasks_keep_the_labels_of_the_data_set(digits: Dataset) -> None:
    stream = make_stream("mixed", digits, num_tasks=6)
    mixed, plain = stream.task(5), make_stream("split", digits, num_tasks=5).task(1)
    assert (mixed.name, mixed.labels) == ("split-2-3", stream.task_labels[0])
    np.testing.assert_array_equal(mixed.train_x, plain.train_x)
    np.testing.assert_array_equal(mixed.test_y, plain.test_y + 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degrees": 0}, "degrees must be finite and at least 0.01, got 0"),
        ({"degrees": -10}, "degrees must be finite and at least 0.01, got -10"),
        ({"classes_per_task": 0}, r"classes_per_task must be an integer in \[1, 100000\]"),
        ({"classes_per_task": 11}, r"classes_per_task must be in \[1, 10\] for 1 split"),
        ({"seed": -1}, "seed must be an integer in"),
    ],
)
def test_refusals_are_those_of_the_plain_streams(
    digits: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make_stream("mixed", digits, num_tasks=3, **options)


def test_feature_vectors_are_refused() -> None:
    x, y = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 0, 1])
    data = Dataset(name="v", train_x=x, train_y=y, test_x=x, test_y=y, mean=0.0, std=1.0, scale=1.0)
    with pytest.raises(DataError, match="needs images"):
        make_stream("mixed", data, num_tasks=2)
