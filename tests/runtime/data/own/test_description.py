from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from own_tasks import one_line
from supsup_runtime.bank import task as bank_task
from supsup_runtime.data.own import description, read_tasks
from supsup_runtime.data.own.description import MAX_BYTES, MAX_DOTS
from supsup_runtime.errors import DataError


def arrays(path: Path, *, classes: int = 2, per_class: int = 5, test: bool = False) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(classes * per_class) % classes
    x = rng.integers(0, 256, (len(y), 4, 4)).astype(np.uint8)
    parts = {"x_train": x, "y_train": y}
    np.savez(path, **parts, **({"x_test": x[:3], "y_test": y[:3]} if test else {}))  # type: ignore[arg-type]
    return path


def described(folder: Path, text: str) -> Path:
    arrays(folder / "a.npz")
    (folder / "tasks.toml").write_text(text)
    return folder / "tasks.toml"


ONE = '[[task]]\nname = "one"\ndata = "a.npz"\n'


def test_settings_and_sections(tmp_path: Path) -> None:
    arrays(tmp_path / "b.npz", classes=3)
    arrays(tmp_path / "c.npz", test=True)
    text = f"""
        size = [3, 5]
        mode = "rgb"
        scale = 100
        mean = 0.5
        std = 0.25
        test = 0.4
        {ONE}
        classes = ["cat", "dog"]
        [[task]]
        name = "two"
        data = "{tmp_path}/b.npz"
        test = 0.6
        seed = 7
        [[task]]
        name = "three"
        data = "c.npz"
        [[task]]
        name = "four"
        data = "a.npz"
        test = "c.npz"
    """
    tasks = read_tasks(described(tmp_path, text))
    assert tasks.task_names == ("one", "two", "three", "four")
    assert tasks.task_labels == (("cat", "dog"), ("0", "1", "2"), ("0", "1"), ("0", "1"))
    assert tasks.real_outputs == 3
    assert tasks.preprocessing.to_dict() == {
        "mean": 0.5, "mode": "rgb", "scale": 100.0, "size": [3, 5], "std": 0.25
    }  # fmt: skip
    counts = [np.bincount(tasks.task(k).test_y).tolist() for k in range(4)]
    assert counts == [[2, 2], [3, 3, 3], [2, 1], [2, 1]]
    rows = np.flatnonzero(np.arange(15) % 3 == 1)
    chosen = sorted(rows[np.random.RandomState(7).permutation(5)[:3]])
    assert [name for name, _ in tasks.pictures(1)][3:6] != []
    assert f"b.npz[{chosen[0]}]" in [name for name, _ in tasks.pictures(1)]


def test_a_section_more_leaves_the_others(tmp_path: Path) -> None:
    before = read_tasks(described(tmp_path, ONE))
    after = read_tasks(described(tmp_path, ONE.replace("one", "zero") + ONE))
    assert {after.fingerprint(0), after.fingerprint(1)} == {before.fingerprint(0)}
    other = read_tasks(described(tmp_path, ONE + "seed = 3"))
    assert other.fingerprint(0) != before.fingerprint(0)


def test_options_must_agree_with_the_file(tmp_path: Path) -> None:
    path = described(tmp_path, f"size = 3\n{ONE}")
    assert read_tasks(path, size=(3, 3)).input_shape == (1, 3, 3)
    with pytest.raises(DataError, match=r"tasks.toml: has a size of its own, got another, 4$"):
        read_tasks(path, size=4)


LARGE = "0x" + "f" * 5000
REFUSED = {
    "no task": ("size = 3", r": must have a section \[\[task\]\] for each task"),
    "task is a table": ("[task]\nname = 'a'", r": must have a section \[\[task\]\]"),
    "task is a number": ("task = 3", r": must have a section \[\[task\]\]"),
    "near": ("sizes = 3\n" + ONE, ": unknown key 'sizes'; did you mean size?"),
    "near in a task": (ONE + "clases = []", r": \[\[task\]\] 1: unknown key 'clases'; did you"),
    "far": (ONE + "x = 1", r"unknown key 'x'; keys are channels, classes, data, name, seed, shape"),
    "size in a task": (ONE + "size = 3", "unknown key 'size'; it must stand above the first"),
    "data above": ("data = 'x'\n" + ONE, "unknown key 'data'; it must stand in a"),
    "no name": ("[[task]]\ndata = 'a.npz'", r"\[\[task\]\] 1: must have a name"),
    "no data": ("[[task]]\nname = 'x'", r"\[\[task\]\] 1: must have a data"),
    "name": ("[[task]]\nname = '../x'", r"name must be 1 to 100 of .*, got '../x'"),
    "twice": (ONE + ONE, r"task 'one': names must differ, \[\[task\]\] 2 has that of 1"),
    "data": (ONE.replace('"a.npz"', "3"), "data must be a path, or a list of two, .*, got 3"),
    "three": (ONE.replace('"a.npz"', "['a', 'b', 'c']"), "data must be a path"),
    "missing": (ONE.replace("a.npz", "b.npz"), "task 'one': .*/b.npz does not exist"),
    "kind": (ONE.replace("a.npz", "tasks.toml"), "task 'one': data must be a folder of pictures"),
    "test": (ONE + "test = 1", "test must be a fraction, or a path, got 1"),
    "test for all": ("test = 'a.npz'\n" + ONE, "test must be a fraction between 0 and 1, or in"),
    "seed": (ONE + "seed = -1", r"seed must be a whole number below 2\*\*32, got -1"),
    "true": (ONE + "seed = true", "seed must be a whole number"),
    "channels": (ONE + "channels = 3", 'channels must be "first" or "last", got 3'),
    "shape": (ONE + "shape = [0, 1]", r"shape must be two or three whole numbers.*got \[0, 1\]"),
    "classes": (ONE + "classes = ['a', 1]", "classes must be a list of names"),
    "one class": (ONE + "classes = ['a']", "task 'one': must have at least 2 classes, got 1"),
    "same class": (ONE + "classes = ['a', 'b', 'a']", "class names must differ, got 'a' twice"),
    "too few": (ONE.replace("a.npz", "b.npz") + "classes = ['x', 'y']", "labels must be below 2"),
    "too many": (ONE + "classes = ['x', 'y', 'z']", "class 'z' must have at least 2 pictures"),
    "size": ("size = 'x'\n" + ONE, "preprocessing: size must be a list and scale a number"),
    "mean": ("mean = 1\n" + ONE, "preprocessing: mean and std must be given together"),
    "large seed": (ONE + f"seed = {LARGE}", "seed must be a whole number .*, got a value of type"),
    "large shape": (
        ONE + f"shape = [{LARGE}, 1]",
        "shape must be two .*, got a value of type list",
    ),
    "large size": (f"size = {LARGE}\n" + ONE, "tasks.toml: "),
    "large mean": (f"mean = {LARGE}\nstd = 1\n" + ONE, "tasks.toml: "),
    "deep": ("a = " + "[" * 100_000, r"must be TOML \(maximum recursion depth exceeded"),
    "deep value": ("x = " + "[" * 200 + "]" * 200 + "\n" + ONE, "unknown key 'x'"),
    "dotted": ("a" + ".a" * 100_000 + " = 1", f"at most {MAX_BYTES} bytes, and {MAX_DOTS} dots in"),
    "huge": ("#" * (MAX_BYTES + 1), f"must have at most {MAX_BYTES} bytes"),
    "digits": ("a = " + "9" * 10_000, r"must be TOML \(Exceeds the limit"),
    "no TOML": ("task one", "must be TOML"),
    "NUL": (ONE.replace("a.npz", "a\\u0000"), "does not exist|cannot be read"),
    "long path": (
        ONE.replace("a.npz", "a" * 5000),
        "does not exist|cannot be read .*File name too long",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_descriptions_that_are_refused(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    if case == "too few":
        arrays(tmp_path / "b.npz", classes=3)
    path = described(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_tasks(path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "tasks.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(DataError, match=r"must be TOML .*utf-8"):
        read_tasks(path)


def test_data_with_a_test_take_no_other(tmp_path: Path) -> None:
    arrays(tmp_path / "b.npz", test=True)
    for test in ("0.5", '"a.npz"'):
        path = described(tmp_path, ONE.replace("a.npz", "b.npz") + f"test = {test}")
        with pytest.raises(DataError, match="'one': its data have a test part; leave out test"):
            read_tasks(path)


def test_names_are_those_of_a_bank() -> None:
    assert description._NAME.pattern == bank_task._NAME.pattern


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_settings(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("toml")
    text = f'size = [3, 4]\nmean = 0.5\nstd = 1\ntest = 0.5\n{ONE}classes = ["a", "b"]\nseed = 3\n'
    pieces = ["[", "]", "=", '"', "\n", "0", "-", ".", "{}", "task", "inf", "true", "\0", "a.npz"]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 8)))
        text = text[:start] + data.draw(st.sampled_from(pieces)) + text[end:]
    path = described(folder, text)
    one_line(lambda: read_tasks(path).task(0))
