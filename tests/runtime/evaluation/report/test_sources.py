from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import made_up
from supsup_runtime.arrays import Array
from supsup_runtime.data import Stream, load_dataset, make_stream
from supsup_runtime.data.own import read_tasks
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation.report.page import page
from supsup_runtime.evaluation.report.pictures import data_uri
from supsup_runtime.evaluation.report.sources import data_name, pictured, read_curves

LINE: dict[str, Any] = {"task": "a", "loss": [[10, 1.5], [20, 1]], "accuracy": 0.9}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
)
LINES = st.one_of(
    st.binary(max_size=50),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {"task": st.one_of(st.just("a"), JSON)},
        optional={
            "loss": st.one_of(
                st.lists(st.tuples(st.integers(1, 9), st.floats(0, 9)), max_size=4), JSON
            ),
            "accuracy": st.one_of(st.floats(0, 1), JSON),
            "train_accuracy": st.one_of(st.floats(0, 1), JSON),
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@given(lines=st.lists(LINES, max_size=3))
def test_any_log_is_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    log = tmp_path_factory.getbasetemp() / "any.jsonl"
    log.write_bytes(b"\n".join(lines))
    with suppress(InputError):
        curves = read_curves(log, ["a", "b"])
        assert "Learning" in page(made_up(["a", "b"], ["cat", "dog"]) | {"curves": curves})


def written(folder: Path, *lines: object) -> Path:
    log = folder / "train.jsonl"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return log


def test_curves_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    again = {**LINE, "accuracy": 1}
    other = {**LINE, "task": "b"}
    old = {"task": "c", "accuracy": 0.5}  # of a version without curves
    log = written(tmp_path, LINE, other, old, {**LINE, "task": "d"}, again, {"batch": 3})
    assert read_curves(log, ["b", "c", "a"]) == [other, again]


@pytest.mark.parametrize(
    "line",
    [
        [1],
        {**LINE, "task": 3},
        {**LINE, "loss": {"0": 1}},
        {**LINE, "loss": [[1, 2, 3]]},
        {**LINE, "loss": [[1, 2.0]] * 101},
        {**LINE, "loss": [[0, 2.0]]},
        {**LINE, "loss": [[True, 2.0]]},
        {**LINE, "loss": [[1.5, 2.0]]},
        {**LINE, "loss": [[1, "2"]]},
        {**LINE, "loss": [[1, -0.5]]},
        {**LINE, "loss": [[1, float("nan")]]},
        {**LINE, "loss": [[1, float("inf")]]},
        {**LINE, "loss": [[1, 10**400]]},
        {**LINE, "accuracy": 1.5},
        {**LINE, "train_accuracy": None},
    ],
)
def test_a_line_that_training_does_not_write(tmp_path: Path, line: object) -> None:
    log = written(tmp_path, LINE, line)
    with pytest.raises(InputError, match=r"jsonl:2: must be a line of supsup-train's log, got b'"):
        read_curves(log, ["a"])


@pytest.mark.parametrize("data", [b"\xff\n", b"{\n", b"[" * 100_000, b"\0" * (3 << 20)])
def test_a_file_that_is_no_log(tmp_path: Path, data: bytes) -> None:
    log = tmp_path / "train.jsonl"
    log.write_bytes(data)
    with pytest.raises(InputError, match=r"jsonl:1: must be a line of supsup-train's log"):
        read_curves(log, ["a"])


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; give the bank, or the log, of supsup-tr"):
        read_curves(tmp_path / "train.jsonl", [])


def rows(stream: Stream, *wrong: int) -> list[dict[str, Any]]:
    found = [{"row": row, "label": "1"} for row in wrong]
    return [
        {"task": name, "known": 0.9 - k / 10, "wrong": found}
        for k, name in enumerate(stream.task_names)
    ]


def test_pictures_of_a_stream_worst_task_first() -> None:
    stream = make_stream("permuted", load_dataset(None), num_tasks=2)
    found = pictured(stream, rows(stream, 5, 0))
    assert data_name(stream) == "the permuted stream of digits"
    assert [(each["task"], each["name"]) for each in found] == [
        ("permuted-0001", "test image 5"),
        ("permuted-0001", "test image 0"),
        ("permuted-0000", "test image 5"),
        ("permuted-0000", "test image 0"),
    ]
    picture = read(found[0]["picture"])
    x = stream.task(1, train=False).test_x[5].reshape(8, 8)
    assert picture.shape == (8, 8)
    assert np.corrcoef(picture.ravel(), x.ravel())[0, 1] > 0.999


def test_pictures_of_at_most_twelve_tasks() -> None:
    stream = make_stream("permuted", load_dataset(None), num_tasks=15)
    assert len(pictured(stream, rows(stream, 1))) == 12


def test_features_have_no_pictures(tmp_path: Path) -> None:
    x, y = np.eye(4, 3, dtype=np.float32), np.array([0, 1, 0, 1])
    np.savez(tmp_path / "f.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    stream = make_stream("split", load_dataset(tmp_path / "f.npz"), num_tasks=1)
    assert pictured(stream, rows(stream, 0)) == []


def test_own_tasks_show_pictures_as_they_were_given(tmp_path: Path) -> None:
    pictures = np.arange(10 * 4 * 6 * 3).reshape(10, 4, 6, 3).astype(np.uint8)
    y = np.arange(10) % 2
    np.savez(tmp_path / "a.npz", x_train=pictures, y_train=y, x_test=pictures[::-1], y_test=y)
    (tmp_path / "tasks.toml").write_text('[[task]]\nname = "own"\ndata = "a.npz"')
    tasks = read_tasks(tmp_path / "tasks.toml", size=3)
    assert data_name(tasks) == "tasks.toml"
    (found,) = pictured(tasks, [{"task": "own", "known": 1.0, "wrong": [{"row": 1}]}])
    assert found["picture"] == data_uri(pictures[8])
    assert (found["row"], found["task"]) == (1, "own")


def read(uri: str) -> Array:
    images = pytest.importorskip("PIL.Image", reason="Pillow reads what was written")
    return np.asarray(images.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
