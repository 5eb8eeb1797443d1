"""Folders of pictures by class, dealt to split tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from supsup_runtime.data import load_dataset
from supsup_runtime.data.own import read_classes, tasks
from supsup_runtime.data.own.classes import MEAN, STD, are_classes
from supsup_runtime.errors import DataError, FileError

NAMES = tuple(f"n{number}" for number in range(8, 14))  # natural order: 8, 9, 10, ...


def picture(path: Path, value: int, *, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.RandomState(value).randint(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(x).convert(mode).save(path)
    return path


def folders(folder: Path, test: str = "val", **settings: Any) -> Path:
    """Six classes of three pictures for training and one for the test."""
    for label, name in enumerate(NAMES):
        for number in range(3):
            picture(folder / "train" / name / f"{number}.png", 10 * label + number, **settings)
        picture(folder / test / name / "x.png", 10 * label + 5, **settings)
    return folder


@pytest.mark.parametrize("test", ["test", "val"])
def test_classes_are_dealt_in_natural_order(tmp_path: Path, test: str) -> None:
    dealt = read_classes(folders(tmp_path / "d", test), num_tasks=3)
    assert dealt.task_names == ("split-0-1", "split-2-3", "split-4-5")
    assert dealt.task_labels == (("n8", "n9"), ("n10", "n11"), ("n12", "n13"))
    assert (dealt.kind, dealt.real_outputs, dealt.input_shape) == ("split", 2, (3, 6, 5))
    data = dealt.task(1)
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1])
    steps = dealt.preprocessing
    assert (steps.mode, steps.mean, steps.std) == ("rgb", MEAN, STD)
    stored = np.asarray(Image.open(tmp_path / "d" / test / "n11" / "x.png"))
    mean, std = (np.array(value, np.float32) for value in (MEAN, STD))
    inputs = ((stored / np.float32(255) - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(data.test_x[1], inputs, rtol=0, atol=1e-6)


def test_a_seed_deals_them_as_numpy_does(tmp_path: Path) -> None:
    folder = folders(tmp_path / "d")
    dealt = read_classes(folder, num_tasks=2, classes_per_task=2, class_seed=1)
    order = np.random.RandomState(1).permutation(6)
    assert dealt.task_names == ("split-s1-c2-0000", "split-s1-c2-0001")
    assert dealt.task_labels[1] == tuple(NAMES[label] for label in order[2:4])
    assert [name for name, _ in dealt.pictures(1)] == [
        f"val/{NAMES[label]}/x.png" for label in order[2:4]
    ]
    longer = read_classes(folder, num_tasks=3, classes_per_task=2, class_seed=1)
    assert longer.task_labels[:2] == dealt.task_labels
    assert longer.fingerprint(1) == dealt.fingerprint(1)


def test_a_name_too_long_is_refused_in_one_line() -> None:
    with pytest.raises(FileError, match="train: cannot be read: File name too long; choose a"):
        are_classes("a" * 300)
    assert not are_classes(None)


def test_gray_pictures_and_other_sizes(tmp_path: Path) -> None:
    folder = folders(tmp_path / "d", mode="L")
    assert read_classes(folder, num_tasks=2).preprocessing.mean is None
    picture(folder / "train" / "n9" / "large.png", 7, size=(9, 9))
    with pytest.raises(DataError, match=r"pictures differ: size 6 x 5 .*, 9 x 9 .*--size 32"):
        read_classes(folder, num_tasks=2)
    dealt = read_classes(folder, num_tasks=2, size=4, mode="rgb", layout="flat")
    assert (dealt.input_shape, dealt.preprocessing.mean) == ((48,), MEAN)


def test_a_corrupt_picture_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    folder = folders(tmp_path / "d")
    bad = folder / "train" / "n9" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    given: dict[str, Any] = {"num_tasks": 3, "size": 6, "mode": "rgb"}
    with pytest.raises(DataError, match=f"{bad}: .*; or leave such out"):
        read_classes(folder, **given).task(0)
    dealt = read_classes(folder, **given, skip_unreadable=True)
    assert dealt.task(0).train_y.tolist() == [0, 0, 0, 1, 1]
    assert dealt.skipped is not None
    assert [*dealt.skipped["split-0-1"]] == ["train/n9/1.png"]
    deep = folder / "train" / "n10" / "0.png"
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(deep)
    with pytest.raises(DataError, match=f"{deep}: must be gray or RGB of 8 bits .*, got "):
        read_classes(folder, **given).task(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("empty class", "train/n9: must hold pictures alone, got none"),
        ("unknown class", "val: class 'other' must be one of n8, n9"),
        ("no test picture", "val: task 'split-0-1' needs a test picture, got none"),
        ("file", "train: must hold folders of classes alone, got the file 'a.txt'"),
        ("third part", "d: must hold train and test alone, or classes alone, got other, train"),
        ("no test", "d: must hold train, and test or val, of pictures by class"),
    ],
)
def test_a_folder_that_breaks_the_rules(tmp_path: Path, spoil: str, message: str) -> None:
    folder = folders(tmp_path / "d")
    if spoil == "empty class":
        for path in (folder / "train" / "n9").iterdir():
            path.unlink()
    elif spoil == "unknown class":
        picture(folder / "val" / "other" / "x.png", 0)
    elif spoil == "no test picture":
        for name in ("n8", "n9"):
            (folder / "val" / name).rename(tmp_path / name)
    elif spoil == "file":
        (folder / "train" / "a.txt").touch()
    elif spoil == "third part":
        (folder / "other").mkdir()
    else:
        (folder / "val").rename(tmp_path / "val")
    with pytest.raises(DataError, match=message):
        read_classes(folder, num_tasks=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_tasks": 7}, "has at most one task for each of the 6 classes, got 7"),
        ({"num_tasks": 4}, "6 classes must divide evenly into split tasks, got 4"),
        ({"num_tasks": 6}, "must have at least 2 classes, got 1"),
        ({"num_tasks": 2, "class_seed": -1}, r"class_seed must be an integer in \[0, 4294967295\]"),
        ({"num_tasks": 0}, r"num_tasks must be an integer in \[1, 100000\], got 0"),
    ],
)
def test_numbers_that_do_not_fit(tmp_path: Path, given: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(folders(tmp_path / "d"), **given)


def test_other_readers_say_who_takes_such_a_folder(tmp_path: Path) -> None:
    folder = folders(tmp_path / "d")
    with pytest.raises(DataError, match="is a folder of pictures, which stream split takes alone"):
        load_dataset(folder)
    with pytest.raises(DataError, match="deal its classes to tasks with stream split"):
        tasks.read_tasks(folder)


def test_a_task_is_bounded_by_the_bytes_of_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders(tmp_path / "d")
    monkeypatch.setattr(tasks, "MAX_PART_BYTES", 5 * 3 * 6 * 5)
    with pytest.raises(
        DataError, match="at most 5 pictures of that size fit into 450 bytes, got 6"
    ):
        read_classes(folder, num_tasks=3)
