from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tools.example_pictures import TASKS, make_tasks

from own_tasks import from_prototype
from supsup_runtime.console import to_table
from supsup_runtime.data.own import check, read_tasks


def photograph(seed: int) -> Image.Image:
    """A picture of soft shapes."""
    x = np.random.RandomState(seed).randint(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(x).resize((32, 32))


def tasks_of(folder: Path, **seeds: range) -> Path:
    for name, numbers in seeds.items():
        for number in numbers:
            path = folder / name / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(number).save(path)
    return folder


def test_what_tasks_hold(tmp_path: Path) -> None:
    tasks_of(tmp_path, one=range(10), two=range(10, 30))
    Image.new("L", (8, 16), 51).save(tmp_path / "one" / "a" / "small.png")
    (tmp_path / "one" / "b" / "notes.png").write_text("no picture")
    found = check(read_tasks(tmp_path, size=8, mode="rgb"))
    one, two = found.tasks
    assert (one["train"], one["test"]) == ({"a": 5, "b": 5}, {"a": 1, "b": 0})
    assert (one["smallest"], one["largest"]) == ([16, 8], [32, 32])
    assert (two["smallest"], two["largest"]) == ([32, 32], [32, 32])
    assert list(one["unreadable"]) == ["one/b/notes.png"]
    assert found.alike == []
    assert found.findings == [
        f"task 'one': {one['unreadable']['one/b/notes.png']}",
        "task 'one': class 'b' has no picture for the test",
    ]
    assert [row[:5] for row in found.table()[1]] == [
        ("one", 2, 10, 1, "16 x 8 to 32 x 32"),
        ("two", 2, 16, 4, "32 x 32"),
    ]
    values = [np.asarray(photograph(k)) / 255 for k in range(10, 30)]
    assert two["mean"] == pytest.approx(np.mean([v.mean() for v in values]), abs=1e-6)
    assert two["std"] == pytest.approx(np.mean([v.std() for v in values]), abs=1e-6)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert to_table(*found.table()).count("\n") == 2


def test_duplicates_between_tasks(tmp_path: Path) -> None:
    tasks_of(tmp_path, one=range(10), two=range(8, 18), three=range(20, 30))
    photograph(20).save(tmp_path / "one" / "a" / "near.jpg", quality=95)
    photograph(21).resize((40, 40)).save(tmp_path / "one" / "a" / "resized.png")
    found = check(read_tasks(tmp_path, size=8, mode="rgb"))
    shared = {tuple(each["tasks"]): (each["near"], each["equal"]) for each in found.alike}
    assert shared == {("one", "three"): (2, 0), ("one", "two"): (2, 2)}
    assert found.findings[1] == (
        "tasks 'one' and 'two' share 2 pictures or near duplicates (2 equal), such as "
        "one/a/8.png and two/a/8.png"
    )


def test_a_test_among_what_is_learned(tmp_path: Path) -> None:
    tasks_of(tmp_path, train=range(10), test=range(9, 14))
    (tmp_path / "t").mkdir()
    for part in ("train", "test"):
        (tmp_path / part).rename(tmp_path / "t" / part)
    (finding,) = check(read_tasks(tmp_path)).findings
    assert finding == (
        "task 't': 1 pictures of the test are also for training, or near duplicates (1 equal), "
        "such as train/b/9.png and test/b/9.png"
    )


def test_a_class_of_which_nothing_opens(tmp_path: Path) -> None:
    tasks_of(tmp_path, t=range(6))
    for number in (1, 3, 5):
        (tmp_path / "t" / "b" / f"{number}.png").write_text("no picture")
    *unreadable, training, test = check(read_tasks(tmp_path, size=8, mode="gray")).findings
    assert [line[: len(f"task 't': {tmp_path}/t/b/1.png: must be a")] for line in unreadable] == [
        f"task 't': {tmp_path}/t/b/{number}.png: must be a" for number in (1, 3, 5)
    ]
    assert [training, test] == [
        "task 't': class 'b' has no picture for training",
        "task 't': class 'b' has no picture for the test",
    ]


def test_twelve_tasks(tmp_path: Path) -> None:
    tasks = read_tasks(make_tasks(tmp_path, per_class=5))
    assert sorted(tasks.task_names) == sorted(TASKS)
    assert sorted({len(labels) for labels in tasks.task_labels}) == [2, 3, 4, 5]
    assert tasks.input_shape == (1, 16, 16)
    assert check(tasks).findings == []


@pytest.mark.slow
def test_the_twelve_tasks_of_the_prototype(tmp_path: Path) -> None:
    tasks = read_tasks(from_prototype(tmp_path), size=32, mode="rgb")
    counts = [(len(train.rows), len(test.rows)) for train, test in tasks.parts]
    assert sorted(set(counts)) == [(600, 120), (900, 180), (1200, 240), (2000, 120), (3000, 180)]
    assert tasks.task(0).train_x.shape == (600, 3, 32, 32)
