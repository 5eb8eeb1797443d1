from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supsup_runtime.data.own import OwnTasks, read_tasks
from supsup_runtime.errors import DataError


def picture(path: Path, value: int = 0, *, size: tuple[int, int] = (4, 4), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.RandomState(value).randint(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(x).convert(mode).save(path)
    return path


def task(folder: Path, *classes: str, count: int = 5) -> Path:
    """A folder of classes, each of `count` pictures, all different."""
    for label, name in enumerate(classes):
        for number in range(count):
            picture(folder / name / f"{number}.png", 100 * label + number)
    return folder


def test_task_class_picture(tmp_path: Path) -> None:
    for name in ("task-10", "task-2"):
        task(tmp_path / name, "b10", "b9", "a")
    tasks = read_tasks(tmp_path)
    assert tasks.task_names == ("task-2", "task-10")
    assert tasks.task_labels == (("a", "b9", "b10"),) * 2
    assert (tasks.kind, tasks.num_tasks, tasks.real_outputs) == ("own", 2, 3)
    assert tasks.input_shape == (1, 4, 4)
    data = tasks.task(0)
    assert data.train_x.shape == (12, 1, 4, 4)
    assert data.train_x.dtype == np.float32
    assert data.test_y.tolist() == [0, 1, 2]  # one fifth of each class
    left = sorted(set(range(5)) - {int(np.random.RandomState(0).permutation(5)[0])})
    names = [name for name, _ in tasks.pictures(0, test=False)]
    assert names == [f"task-2/{c}/{n}.png" for c in ("a", "b9", "b10") for n in left]


def test_inputs_are_the_prepared_pictures(tmp_path: Path) -> None:
    task(tmp_path / "t", "a", "b")
    tasks = read_tasks(tmp_path, size=(3, 2), mode="rgb")
    data = tasks.task(0)
    assert tasks.input_shape == (3, 3, 2)
    for test, x in ((True, data.test_x), (False, data.train_x)):
        shown = [each for _, each in tasks.pictures(0, test=test)]
        assert shown[0].shape == (4, 4)
        np.testing.assert_array_equal(x, tasks.preprocessing.apply(shown))
    flat = read_tasks(tmp_path, size=(3, 2), mode="rgb", layout="flat")
    assert flat.input_shape == (18,)
    np.testing.assert_array_equal(flat.task(0).test_x, data.test_x.reshape(-1, 18))
    alone = tasks.task(0, train=False)
    assert alone.train_x.shape == (0, 3, 3, 2)
    np.testing.assert_array_equal(alone.test_x, data.test_x)


def test_train_and_test_folders(tmp_path: Path) -> None:
    task(tmp_path / "t" / "train", "a", "b", "c")
    task(tmp_path / "t" / "test", "a", "c", count=2)
    data = read_tasks(tmp_path).task(0)
    assert np.bincount(data.train_y).tolist() == [5, 5, 5]
    assert data.test_y.tolist() == [0, 0, 2, 2]


def test_hidden_files_and_links(tmp_path: Path) -> None:
    task(tmp_path / "elsewhere", "a", "b")
    (tmp_path / "data" / "t").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "data" / "t" / name).symlink_to(tmp_path / "elsewhere" / name)
    for folder in ("", "t", "t/a"):
        (tmp_path / "data" / folder / ".DS_Store").write_text("x")
    assert len(read_tasks(tmp_path / "data").task(0).train_y) == 8


def test_pictures_that_differ_show_the_choices(tmp_path: Path) -> None:
    task(tmp_path / "gray", "a", "b")
    picture(tmp_path / "colour" / "a" / "1.png", size=(2, 3), mode="RGB")
    picture(tmp_path / "colour" / "a" / "2.png", size=(2, 3), mode="RGB")
    task(tmp_path / "colour", "b")
    with pytest.raises(DataError) as caught:
        read_tasks(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: pictures differ: size 2 x 3 (task 'colour'), 4 x 4 (task 'colour'); mode "
        "rgb (task 'colour'), gray (task 'colour'); choose for all, such as size = 32 (--size 32) "
        "and mode = 'rgb' (--mode rgb)"
    )
    with pytest.raises(DataError, match=r"differ: mode rgb .*; choose for all, such as mode ="):
        read_tasks(tmp_path, size=4)
    with pytest.raises(DataError, match=r"differ: size 2 x 3 .*; choose for all, such as size ="):
        read_tasks(tmp_path, mode="gray")
    assert read_tasks(tmp_path, size=4, mode="gray").input_shape == (1, 4, 4)


def spoil(path: Path) -> Path:
    path.write_text("no picture")
    return path


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "one class": (lambda d: task(d / "t", "a"), "t: must have at least 2 classes, got 1"),
    "empty class": (
        lambda d: (task(d / "t", "a", "b"), made(d / "t" / "c")),
        "t/c: must hold pictures alone, got none",
    ),
    "deep": (
        lambda d: (task(d / "t", "a", "b"), made(d / "t" / "a" / "deep")),
        "t/a: must hold pictures alone, got the folder 'deep'",
    ),
    "file": (
        lambda d: (task(d / "t", "a", "b"), spoil(d / "notes.txt")),
        ": must hold a folder for each task alone, got the file 'notes.txt'",
    ),
    "file beside classes": (
        lambda d: (task(d / "t", "a", "b"), spoil(d / "t" / "1.png")),
        "t: must hold folders of classes alone, got the file '1.png'",
    ),
    "no task": (lambda _: None, ": must hold a folder for each task alone, got nothing"),
    "no class": (lambda d: made(d / "t"), "t: must hold folders of classes alone, got nothing"),
    "name": (
        lambda d: task(d / "t t", "a", "b"),
        "t t: a task's name must be 1 to 100 of .*; rename the folder, or name the task",
    ),
    "class name": (
        lambda d: task(d / "t", "a", "b\n"),
        r"t: names must be printable, got 'b\\n'; rename it",
    ),
    "one picture": (
        lambda d: (task(d / "t", "a", "b"), picture(d / "t" / "c" / "1.png")),
        "t: class 'c' must have at least 2 pictures, one of them for the test, got 1",
    ),
    "class in test alone": (
        lambda d: (task(d / "t" / "train", "a", "b"), task(d / "t" / "test", "a", "z")),
        "t/test: class 'z' must be one of a, b",
    ),
    "train, test and more": (
        lambda d: task(d / "t", "train", "test", "valid"),
        "t: must hold train and test alone, or classes alone, got test, train, valid",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_are_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    make(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path}/?{message}"):
        read_tasks(tmp_path)


def test_a_picture_that_does_not_open_is_named(tmp_path: Path) -> None:
    task(tmp_path / "t", "a", "b")
    spoil(tmp_path / "t" / "a" / "6.png")
    with pytest.raises(DataError, match=f"^{tmp_path}/t/a/6.png: must be a picture"):
        read_tasks(tmp_path)
    tasks = read_tasks(tmp_path, size=4, mode="gray")  # nothing is read yet
    with pytest.raises(DataError, match=f"^{tmp_path}/t/a/6.png: must be a picture"):
        tasks.task(0)


def test_pictures_that_do_not_open_are_skipped_and_counted(tmp_path: Path) -> None:
    task(tmp_path / "t", "a", "b", count=9)
    spoil(tmp_path / "t" / "a" / "9.png")
    whole = read_tasks(tmp_path, size=4, mode="gray", skip_unreadable=True)
    for tasks in (whole, read_tasks(tmp_path, skip_unreadable=True)):
        data = tasks.task(0)
        assert len(data.train_y) + len(data.test_y) == 18
        assert tasks.skipped is not None
        assert list(tasks.skipped["t"]) == ["t/a/9.png"]
        assert len(list(tasks.pictures(0))) == len(data.test_y)


def test_a_class_of_which_nothing_opens(tmp_path: Path) -> None:
    task(tmp_path / "t", "a", "b")
    for number in range(5):
        spoil(tmp_path / "t" / "b" / f"{number}.png")
    tasks = read_tasks(tmp_path, skip_unreadable=True)
    with pytest.raises(DataError, match=f"^{tmp_path}/t: no picture of class 'b' can be read"):
        tasks.task(0)
    for number in range(5):
        spoil(tmp_path / "t" / "a" / f"{number}.png")
    with pytest.raises(DataError, match="no picture can be read"):
        read_tasks(tmp_path, skip_unreadable=True)


def test_files_that_vanish_or_wait(tmp_path: Path) -> None:
    task(tmp_path / "t", "a", "b")
    tasks = read_tasks(tmp_path)
    (tmp_path / "t" / "a" / "0.png").unlink()
    for read in (tasks.task, tasks.fingerprint):
        with pytest.raises(DataError, match=r"a/0\.png"):
            read(0)
    os.mkfifo(tmp_path / "t" / "a" / "0.png")
    with pytest.raises(DataError, match="got no regular file"):
        tasks.task(0)


def test_arguments(tmp_path: Path) -> None:
    task(tmp_path / "t", "a", "b")
    with pytest.raises(DataError, match="layout must be one of flat, image, got 'deep'"):
        read_tasks(tmp_path, layout="deep")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="preprocessing: mode must be one of"):
        read_tasks(tmp_path, mode="grey")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="preprocessing: size must be two integers"):
        read_tasks(tmp_path, size=0)
    with pytest.raises(DataError, match=r"task 't': at most 4 pictures of that size fit .*, got 8"):
        read_tasks(tmp_path, size=32768)
    with pytest.raises(DataError, match=r"must be a tasks.toml, or a folder"):
        read_tasks(tmp_path / "missing")
    for index in (-1, 1):
        with pytest.raises(DataError, match=rf"index must be in \[0, 1\), got {index}"):
            read_tasks(tmp_path).task(index)


def test_pillow_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task(tmp_path / "t", "a", "b")
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match=r"needs? Pillow, .*'supsup\[pictures\]', or give arrays"):
        read_tasks(tmp_path)


def test_fingerprints(tmp_path: Path) -> None:
    def marks(tasks: OwnTasks) -> dict[str, str]:
        return {name: tasks.fingerprint(k) for k, name in enumerate(tasks.task_names)}

    task(tmp_path / "m", "a", "b")
    task(tmp_path / "z", "a", "c")
    before = marks(read_tasks(tmp_path))
    assert len(set(before.values())) == 2
    task(tmp_path / "k", "a", "b", count=9)  # a task more
    assert marks(read_tasks(tmp_path)).items() > before.items()
    assert marks(read_tasks(tmp_path, size=3))["m"] != before["m"]
    picture(tmp_path / "m" / "a" / "0.png", 1000)
    after = marks(read_tasks(tmp_path))
    assert after["m"] != before["m"]
    assert after["z"] == before["z"]
    (tmp_path / "z" / "c").rename(tmp_path / "z" / "d")
    assert marks(read_tasks(tmp_path))["z"] != before["z"]


def test_parts_of_one_task_and_names_that_differ_by_case_are_refused(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "one" / name / "class").mkdir(parents=True)
    with pytest.raises(DataError, match="one: has the parts of one task; give the folder above"):
        read_tasks(tmp_path / "one")
    for name in ("A", "a"):
        (tmp_path / "two" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"by more than upper and lower case, got '[Aa]'"):
        read_tasks(tmp_path / "two")
    (tmp_path / "three" / "a b").mkdir(parents=True)
    with pytest.raises(DataError, match=r"rename the folder, or name the task in a tasks\.toml"):
        read_tasks(tmp_path / "three")
