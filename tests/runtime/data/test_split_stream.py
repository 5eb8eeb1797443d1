"""Streams that deal the classes of a data set to tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import DataError
from tiny_data import ATOL, normalised, tiny


@given(num_tasks=st.sampled_from([1, 2, 3, 6]), images=st.integers(12, 30))
def test_split_partitions_the_data(num_tasks: int, images: int) -> None:
    data = tiny(5, images=images)
    stream = make_stream("split", data, num_tasks=num_tasks)
    tasks = [stream.task(index) for index in range(num_tasks)]
    assert sum(len(task.train_y) for task in tasks) == images
    seen = np.concatenate([task.train_x for task in tasks])
    original = np.concatenate([np.array(task.labels)[task.train_y] for task in tasks])
    order = np.argsort(data.train_y // stream.real_outputs, kind="stable")
    np.testing.assert_array_equal(original.astype(int), data.train_y[order])
    np.testing.assert_allclose(seen, normalised(data.train_x[order]), rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("classes", "num_tasks", "per_task", "names", "last_labels"),
    [
        (6, 3, None, ("split-0-1", "split-2-3", "split-4-5"), ("4", "5")),
        (6, 2, None, ("split-0-2", "split-3-5"), ("3", "4", "5")),
        (6, 2, 1, ("split-0", "split-1"), ("1",)),
        (11, 2, 5, ("split-00-04", "split-05-09"), ("5", "6", "7", "8", "9")),
    ],
)
def test_split_names(
    classes: int,
    num_tasks: int,
    per_task: int | None,
    names: tuple[str, ...],
    last_labels: tuple[str, ...],
) -> None:
    data = tiny(4, images=22, classes=classes)
    stream = make_stream("split", data, num_tasks=num_tasks, classes_per_task=per_task)
    assert stream.task_names == names
    assert stream.task(num_tasks - 1).labels == last_labels


def test_split_tasks_may_share_the_labels_of_the_data() -> None:
    data = load_dataset(None)
    own = make_stream("split", data, num_tasks=5)
    shared = make_stream("split", data, num_tasks=5, labels="shared")
    assert (shared.real_outputs, shared.task_names) == (10, own.task_names)
    for index in (0, 4):
        mine, theirs = own.task(index), shared.task(index)
        np.testing.assert_array_equal(theirs.train_y, mine.train_y + 2 * index)
        np.testing.assert_array_equal(theirs.test_y, mine.test_y + 2 * index)
        np.testing.assert_array_equal(theirs.test_x, mine.test_x)
        assert theirs.labels == tuple("0123456789")
    with pytest.raises(DataError, match="labels must be one of own, shared, got 'digits'"):
        make_stream("split", data, num_tasks=5, labels="digits")


def test_split_task_without_a_test_image() -> None:
    data = tiny(4, images=6, classes=6)  # three test images: classes 0, 1 and 2
    with pytest.raises(DataError, match=r"tiny: each split task needs a test image.*4 to 5"):
        make_stream("split", data, num_tasks=3)
