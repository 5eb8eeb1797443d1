from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from supsup_runtime.data.own import OwnTasks, read_tasks
from supsup_runtime.errors import DataError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 3, 5)).astype(np.uint8)
RGB = RNG.integers(0, 256, (12, 3, 5, 3)).astype(np.uint8)
Y = np.arange(12) % 3


def read(folder: Path, section: str, common: str = "") -> OwnTasks:
    path = folder / "tasks.toml"
    path.write_text(f'{common}\n[[task]]\nname = "t"\n{section}\n')
    return read_tasks(path)


def npz(folder: Path, x: npt.NDArray[Any] = X, y: npt.NDArray[Any] = Y, **more: Any) -> str:
    np.savez(folder / "a.npz", x_train=x, y_train=y, **more)
    return 'data = "a.npz"'


def npy(folder: Path, x: npt.ArrayLike = X, y: npt.NDArray[Any] = Y) -> str:
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return 'data = ["x.npy", "y.npy"]'


def idx(path: Path, magic: int, array: npt.NDArray[Any]) -> None:
    data = struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def csv(folder: Path, text: str) -> str:
    (folder / "a.csv").write_text(text)
    return 'data = "a.csv"\nshape = [3, 5]'


def lines(names: tuple[str, ...] = ("0", "1", "2")) -> list[str]:
    return [",".join([names[y], *map(str, x.ravel())]) for x, y in zip(X, Y, strict=True)]


def pictures(tasks: OwnTasks) -> dict[str, npt.NDArray[Any]]:
    return {name: x for test in (False, True) for name, x in tasks.pictures(0, test=test)}


def test_all_kinds_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "idx").mkdir()
    for part, stem in (("train", "train"), ("t10k", "t10k")):
        idx(tmp_path / "idx" / f"{stem}-images-idx3-ubyte.gz", 0x803, X)
        idx(tmp_path / "idx" / f"{part}-labels-idx1-ubyte", 0x801, Y)
    idx(tmp_path / "x.idx", 0x803, X)
    idx(tmp_path / "y.idx", 0x801, Y)
    heading = "label," + ",".join(f"pixel{k}" for k in range(15))
    kinds = {
        "npz": npz(tmp_path),
        "npy": npy(tmp_path),
        "idx": 'data = ["x.idx", "y.idx"]',
        "csv": csv(tmp_path, "\n".join([heading, *lines()]) + "\n"),
    }
    expected = read(tmp_path, kinds["npz"])
    assert expected.preprocessing.scale == 255
    assert expected.input_shape == (1, 3, 5)
    for section in kinds.values():
        tasks = read(tmp_path, section)
        assert tasks.task_labels == (("0", "1", "2"),)
        assert tasks.fingerprint(0) == expected.fingerprint(0)
        data = tasks.task(0)
        np.testing.assert_array_equal(data.train_x, expected.task(0).train_x)
        np.testing.assert_array_equal(data.test_y, [0, 1, 2])
    folder = read(tmp_path, 'data = "idx"')
    np.testing.assert_array_equal(folder.task(0).test_y, Y)
    np.testing.assert_array_equal(folder.task(0).train_x, folder.task(0).test_x)


def test_arrays_need_no_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(read(tmp_path, npz(tmp_path)).task(0).test_y) == 3


def test_pictures_by_name(tmp_path: Path) -> None:
    found = pictures(read(tmp_path, npz(tmp_path)))
    for row, x in enumerate(X):
        np.testing.assert_array_equal(found[f"a.npz[{row}]"], x)


def test_channels(tmp_path: Path) -> None:
    turned = RGB.transpose(0, 3, 1, 2)
    first = 'channels = "first"'
    assert read(tmp_path, npz(tmp_path, RGB)).preprocessing.mode == "rgb"
    for x, section, common in (
        (RGB, "", ""),
        (turned, "", first),
        (turned, first, ""),
        (turned, first, 'channels = "last"'),
        (RGB.reshape(12, -1), "shape = [3, 5, 3]", ""),
        (turned.reshape(12, -1), "shape = [3, 3, 5]", first),
    ):
        found = pictures(read(tmp_path, f"{npz(tmp_path, x)}\n{section}", common))
        for row, expected in enumerate(RGB):
            np.testing.assert_array_equal(found[f"a.npz[{row}]"], expected)
    # three rows of pictures are never taken for channels, nor the other way round
    assert read(tmp_path, npz(tmp_path, RGB.reshape(12, 3, 15, 1))).input_shape == (1, 3, 15)
    with pytest.raises(DataError, match=r"\(height, width, channels\) with 1 or 3 .*\(3, 15, 5\)"):
        read(tmp_path, npz(tmp_path, np.zeros((12, 3, 15, 5), np.uint8)))
    with pytest.raises(DataError, match=r"\(channels, height, width\) with 1 or 3 channels, got"):
        read(tmp_path, npz(tmp_path, RGB[:, :2]), 'channels = "first"')


def test_floats(tmp_path: Path) -> None:
    tasks = read(tmp_path, npz(tmp_path, (X / 255).astype(np.float32)))
    assert tasks.preprocessing.scale == 1
    np.testing.assert_array_equal(pictures(tasks)["a.npz[3]"], X[3])
    expected = read(tmp_path, npy(tmp_path)).task(0).test_x
    np.testing.assert_allclose(tasks.task(0).test_x, expected, atol=1e-5)


def test_floats_beside_whole_numbers(tmp_path: Path) -> None:
    second = f'\n[[task]]\nname = "u"\n{npy(tmp_path, X.astype(np.float32))}'
    section = npz(tmp_path) + second
    with pytest.raises(DataError, match=r"must be all uint8 or all float32, got both"):
        read(tmp_path, section)
    tasks = read(tmp_path, section, "scale = 255")
    np.testing.assert_array_equal(tasks.task(0).train_x, tasks.task(1).train_x)


def test_names_in_a_csv_file(tmp_path: Path) -> None:
    section = csv(tmp_path, "\n".join(lines(("s10", "s9", "s1"))))
    assert read(tmp_path, section).task_labels == (("s1", "s9", "s10"),)
    given = read(tmp_path, section + '\nclasses = ["s9", "s1", "s10"]')
    assert given.task_labels == (("s9", "s1", "s10"),)
    with pytest.raises(DataError, match=r"a.csv: class 's10' must be one of s1, s9"):
        read(tmp_path, section + '\nclasses = ["s1", "s9"]')


def test_a_test_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x_test=X[:2], y_test=Y[:2])
    data = read(tmp_path, npz(tmp_path) + '\ntest = "b.npz"').task(0)
    assert (len(data.train_y), data.test_y.tolist()) == (12, [0, 1])
    np.savez(tmp_path / "b.npz", x_test=X[:2], y_test=Y[:2] + 2)
    with pytest.raises(DataError, match=r"b.npz: labels must be below 3, .*, got 3"):
        read(tmp_path, npz(tmp_path) + '\ntest = "b.npz"')


ROW = ",".join(["0"] + ["1"] * 15)
REFUSED: dict[str, tuple[Callable[[Path], str], str]] = {
    "no key": (
        lambda d: npz(d).replace("a.npz", "b.npz"),
        r"b.npz: must have an array x_train, has 'x'; save it with numpy.savez",
    ),
    "float64": (lambda d: npz(d, X.astype(float)), "must be uint8 or float32, got float64"),
    "NaN": (lambda d: npz(d, np.full((12, 3, 5), np.nan, np.float32)), "must be finite"),
    "counts": (lambda d: npz(d, X, Y[:11]), r"must be int64 \(12,\), one for each image"),
    "gap": (lambda d: npz(d, X, Y * 2), "class '1' must have at least 2 pictures"),
    "features": (lambda d: npz(d, X.reshape(12, -1)), r"a picture must be .*, got \(15,\); give"),
    "shape": (lambda d: npz(d) + "\nshape = [4, 4]", r"got \(3, 5\) and shape \[4, 4\]; give"),
    "negative": (lambda d: npy(d, X, Y - 1), r"y.npy: must be in \[0, 100000\), got -1 to 1"),
    "uint64": (lambda d: npy(d, X, Y.astype(np.uint64) + 2**63), "labels must be integers below"),
    "float labels": (lambda d: npy(d, X, Y / 1), "y.npy: labels must be integers below .*float64"),
    "objects": (
        lambda d: npy(d, X, Y.astype(object)),
        "y.npy: must be a .npy array of numbers, got the header",
    ),
    "text": (lambda d: npy(d, np.full((12, 3, 5), "x")), "x.npy: must be a .npy array of numbers"),
    "no array": (lambda d: npy(d, np.uint8(3)), "must be uint8 or float32"),
    "shape of pictures": (lambda d: csv(d, ROW).replace("\nshape = [3, 5]", ""), "needs the shape"),
    "short line": (
        lambda d: csv(d, ROW + "\n0,1,2"),
        "line 2 must be a class and 15 whole numbers",
    ),
    "long line": (lambda d: csv(d, ROW + ",1"), "line 1 must be a class and 15 whole numbers"),
    "endless line": (lambda d: csv(d, "1" * 10_000), "line 1 must be a class and 15 whole numbers"),
    "256": (
        lambda d: csv(d, ROW + "\n" + ROW.replace("1", "256")),
        "line 2 .* from 0 to 255; keep",
    ),
    "fraction": (lambda d: csv(d, ROW.replace("1", "0.5")), "line 1 .* from 0 to 255; keep others"),
    "empty": (lambda d: csv(d, ""), "a.csv: must have at least 2 classes, got 0"),
    "one class": (lambda d: csv(d, ROW + "\n" + ROW), "a.csv: must have at least 2 classes, got 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_are_refused(tmp_path: Path, case: str) -> None:
    np.savez(tmp_path / "b.npz", x=X)
    make, message = REFUSED[case]
    section = make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, section)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["a.npz", "x.npy", "x.idx", "a.csv"])
@pytest.mark.parametrize("keep", [0, 3, 60, -1])
def test_truncated_files(tmp_path: Path, name: str, keep: int) -> None:
    sections = {"a.npz": npz(tmp_path), "x.npy": npy(tmp_path), "a.csv": csv(tmp_path, ROW)}
    idx(tmp_path / "x.idx", 0x803, X)
    idx(tmp_path / "y.idx", 0x801, Y)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError):
        read(tmp_path, sections.get(name, 'data = ["x.idx", "y.idx"]'))


def test_a_header_that_claims_too_much(tmp_path: Path) -> None:
    section = npy(tmp_path)
    path = tmp_path / "x.npy"
    path.write_bytes(path.read_bytes().replace(b"(12, 3, 5)", b"(999999999, 99, 99)"))
    with pytest.raises(DataError, match=r"x.npy: (must hold at most|is truncated|.* takes)"):
        read(tmp_path, section)


def test_values_too_large(tmp_path: Path) -> None:
    section = npz(tmp_path, np.full((12, 3, 5), 1e38, np.float32))
    with pytest.raises(DataError, match="values are too large for scale, mean and std"):
        read(tmp_path, section).task(0)


def test_files_that_change(tmp_path: Path) -> None:
    tasks = read(tmp_path, npz(tmp_path))
    npz(tmp_path, X[:9], Y[:9])
    for use in (tasks.task, tasks.fingerprint):
        with pytest.raises(DataError, match=r"a.npz: changed while it was in use; start again"):
            use(0)
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DataError, match=r"a.npz: cannot be read"):
        list(tasks.pictures(0))
