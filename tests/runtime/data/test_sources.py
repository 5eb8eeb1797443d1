from __future__ import annotations

import gzip
import io
import struct
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_data import shared_data
from supsup_runtime.data import reading, sources
from supsup_runtime.data.dataset import Dataset
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.errors import DataError

IMAGES, LABELS = 0x803, 0x801
PARTS = {
    "train-images-idx3-ubyte": (IMAGES, (6, 3, 2)),
    "train-labels-idx1-ubyte": (LABELS, (6,)),
    "t10k-images-idx3-ubyte": (IMAGES, (4, 3, 2)),
    "t10k-labels-idx1-ubyte": (LABELS, (4,)),
}


def idx_bytes(magic: int, shape: tuple[int, ...], *, claimed: tuple[int, ...] = ()) -> bytes:
    """An IDX file of labels 0, 1, 2, 0, ... or of pixels 0, 7, 14, ...; `claimed` may lie."""
    count = int(np.prod(shape))
    step, modulus = (1, 3) if magic == LABELS else (7, 256)
    values = (np.arange(count) * step % modulus).astype(np.uint8)
    return struct.pack(f">I{len(shape)}I", magic, *(claimed or shape)) + values.tobytes()


def write_idx(folder: Path, *, gz: bool = False, dot: str = "-") -> Path:
    for name, (magic, shape) in PARTS.items():
        data = idx_bytes(magic, shape)
        path = folder / name.replace("-idx", f"{dot}idx")
        if gz:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            path.write_bytes(data)
    return folder


def arrays(**changes: Any) -> dict[str, Any]:
    """Arrays of a legal ``.npz``; `changes` by name, None leaves one out."""
    rng = np.random.RandomState(0)
    whole = {
        "x_train": rng.randint(0, 256, (6, 3, 2)).astype(np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.randint(0, 256, (2, 3, 2)).astype(np.uint8),
        "y_test": np.array([2, 0]),
        **changes,
    }
    return {name: array for name, array in whole.items() if array is not None}


def write_npz(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def dataset(**changes: Any) -> Dataset:
    legal: dict[str, Any] = {f"{n[2:]}_{n[0]}": a for n, a in arrays().items()}
    legal |= {"name": "tiny", "mean": 0.5, "std": 0.25, "scale": 255.0}
    return Dataset(**(legal | changes))


# The bundled digits


def test_digits_are_split_as_documented() -> None:
    from sklearn.datasets import load_digits

    digits = load_dataset()
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(digits.train_x.reshape(1437, 64), images[order[:1437]])
    np.testing.assert_array_equal(digits.test_x.reshape(360, 64), images[order[1437:]])
    np.testing.assert_array_equal(digits.train_y, labels[order[:1437]])
    np.testing.assert_array_equal(digits.test_y, labels[order[1437:]])


def test_digits_are_fair_and_normalised_by_the_training_part() -> None:
    digits = load_dataset("digits")
    assert (digits.name, digits.scale, digits.num_classes) == ("digits", 16.0, 10)
    assert digits.train_x.dtype == np.uint8
    assert np.bincount(digits.test_y).min() >= 28
    assert digits.mean == pytest.approx((digits.train_x / 16).mean(), rel=1e-12)
    assert digits.std == pytest.approx((digits.train_x / 16).std(), rel=1e-12)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"scikit-learn.*pip install 'supsup\[train\]'"):
        load_dataset()


# IDX folders


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_idx_folder(tmp_path: Path, gz: bool, dot: str) -> None:
    data = load_dataset(write_idx(tmp_path, gz=gz, dot=dot))
    pixels = (np.arange(36) * 7 % 256).astype(np.uint8)
    np.testing.assert_array_equal(data.train_x, pixels.reshape(6, 3, 2))
    np.testing.assert_array_equal(data.train_y, [0, 1, 2, 0, 1, 2])
    assert data.train_y.dtype == np.int64
    assert (len(data.test_x), data.num_classes, data.name) == (4, 3, str(tmp_path))
    assert (data.mean, data.std, data.scale) == (0.1307, 0.3081, 255.0)


def test_idx_normalisation_of_ones_own(tmp_path: Path) -> None:
    data = load_dataset(str(write_idx(tmp_path)), mean=0.286, std=0.353)
    assert (data.mean, data.std) == (0.286, 0.353)


def test_missing_idx_file_names_the_spellings(tmp_path: Path) -> None:
    (write_idx(tmp_path) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte.*\.idx1-ubyte\.gz"):
        load_dataset(tmp_path)


IMAGE_REFUSALS = {
    "empty": (b"", r"magic number 0x00000803, got an empty file"),
    "magic": (idx_bytes(LABELS, (6,)), r"magic number 0x00000803, got 0x00000801"),
    "header": (idx_bytes(IMAGES, (6, 3, 2))[:9], r"its header is truncated"),
    "truncated": (idx_bytes(IMAGES, (6, 3, 2))[:-1], r"truncated.* 52 bytes, got 51"),
    "trailing": (idx_bytes(IMAGES, (6, 3, 2)) + b"x", r"has extra bytes.* 52 bytes, got 53"),
    "zero": (idx_bytes(IMAGES, (6, 3, 2), claimed=(0, 3, 2)), r"at least 1, got \(0, 3, 2\)"),
    "absurd": (
        idx_bytes(IMAGES, (6, 3, 2), claimed=(2**32 - 1,) * 3),
        r"at most 4294967296 bytes, its header claims 7922816",
    ),
    "forged": (
        idx_bytes(IMAGES, (6, 3, 2), claimed=(2**31, 1, 1)),
        r"claims 2147483648 bytes, but a file of \d+ bytes can hold at most \d+",
    ),
    "counts": (idx_bytes(IMAGES, (5, 3, 2)), r"train-labels.* the 5 images of .*, got 6"),
}


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("case", IMAGE_REFUSALS)
def test_bad_idx_images(tmp_path: Path, case: str, gz: bool) -> None:
    data, message = IMAGE_REFUSALS[case]
    path = write_idx(tmp_path, gz=gz) / ("train-images-idx3-ubyte" + ".gz" * gz)
    path.write_bytes(gzip.compress(data, mtime=0) if gz else data)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decompression_bomb_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 MiB of zeros behind an honest header of 36 pixels: only 37 of them are read."""
    bomb = idx_bytes(IMAGES, (6, 3, 2)) + bytes(2**26)
    path = write_idx(tmp_path, gz=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(bomb, mtime=0))
    with pytest.raises(DataError, match=r"has extra bytes.* 52 bytes, got 53"):
        load_dataset(tmp_path)
    monkeypatch.setattr(reading, "MAX_PART_BYTES", 35)
    with pytest.raises(DataError, match=r"at most 35 bytes, its header claims 36"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "not-gzip"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    path = write_idx(tmp_path, gz=True) / "train-images-idx3-ubyte.gz"
    good = path.read_bytes()
    flipped = bytes([*good[:-8], good[-8] ^ 1, *good[-7:]])  # the checksum
    bad = {"cut": good[:-9], "flipped": flipped, "garbage": good + b"no gzip", "not-gzip": b"no"}
    path.write_bytes(bad[damage])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read \("):
        load_dataset(tmp_path)


# .npz


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (5,)], ids=["grey", "colour", "features"])
@pytest.mark.parametrize("dtype", ["uint8", "<f4", ">f4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_npz(tmp_path: Path, shape: tuple[int, ...], dtype: str, compressed: bool) -> None:
    x_train = np.random.RandomState(0).randint(0, 256, (6, *shape)).astype(dtype)
    x_test = np.asfortranarray(x_train[:2])
    extra = np.array(["a", "b", "c"])
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "own.npz", **arrays(x_train=x_train, x_test=x_test, classes=extra))
    data = load_dataset(tmp_path / "own.npz")
    scale = 255.0 if dtype == "uint8" else 1.0
    np.testing.assert_array_equal(data.train_x, x_train)
    np.testing.assert_array_equal(data.test_x, x_test)
    assert data.train_x.dtype == np.dtype(dtype).newbyteorder("=")
    assert (data.scale, data.num_classes) == (scale, 3)
    assert data.mean == pytest.approx((x_train / scale).mean(dtype=np.float64), rel=1e-12)
    assert data.std == pytest.approx((x_train / scale).std(dtype=np.float64), rel=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u4", "int64", "uint64"])
def test_npz_labels_of_any_integer_type(tmp_path: Path, dtype: str) -> None:
    y = np.array([0, 1, 2, 0, 1, 2], dtype)
    data = load_dataset(write_npz(tmp_path / "own.npz", y_train=y))
    assert data.train_y.dtype == np.int64
    np.testing.assert_array_equal(data.train_y, y)


def test_chunked_moments_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_CHUNK_BYTES", 100)
    x = np.random.RandomState(0).normal(3, 2, (50, 7)).astype(np.float32)
    mean, std = sources._moments(x)
    assert mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-12)
    assert std == pytest.approx(x.std(dtype=np.float64), rel=1e-12)


def floats(value: float) -> npt.NDArray[np.float32]:
    x = np.zeros((6, 3, 2), np.float32)
    x[3, 1, 1] = value
    return x


U8 = np.uint8
NPZ_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"y_test": None}, r"must have an array y_test, has 'x_train', 'y_train', 'x_test'"),
    "float64": (
        {"x_train": np.zeros((6, 3, 2))},
        r"x_train: must be uint8 or float32, got float64",
    ),
    "object": (
        {"x_train": np.array([None] * 6)},
        r"x_train: must be a \.npy array of numbers, got",
    ),
    "float labels": ({"y_train": np.zeros(6)}, r"y_train: must be int8 or uint8 .*, got float64"),
    "no images": ({"x_train": np.zeros((0, 3, 2), U8)}, r"x_train: every dimension must be at"),
    "scalar": (
        {"y_test": np.int64(3)},
        r"y_test: every dimension must be at least 1, got shape \(\)",
    ),
    "dims": ({"x_train": np.zeros((6,), U8)}, r"training images: must be .*got uint8 \(6,\)"),
    "nan": ({"x_train": floats(np.nan)}, r"training images: must be finite"),
    "infinite": ({"x_train": floats(-np.inf)}, r"training images: must be finite"),
    "constant": (
        {"x_train": np.ones((6, 3, 2), U8)},
        r"std must be within.*pass a std of your own\), got 0\.0",
    ),
    "counts": ({"y_train": np.array([0, 1, 2])}, r"training labels: must be int64 \(6,\).*\(3,\)"),
    "negative": ({"y_test": np.array([-1, 0])}, r"test labels: must be in \[0, 100000\), got -1"),
    "from one": ({"y_train": np.array([1, 2, 3] * 2)}, r"class 0 has no image.*from 0"),
    "huge label": (
        {"y_train": np.array([0, 1, 2, 0, 1, 2**64 - 1], np.uint64)},
        r"y_train: labels must be below 100000, got 18446744073709551615",
    ),
    "new class": ({"y_test": np.array([0, 3])}, r"test labels must be below 3.*got 3"),
    "test shape": (
        {"x_test": np.zeros((2, 2, 3), U8)},
        r"test images must each be uint8 \(3, 2\)",
    ),
    "test dtype": ({"x_test": np.zeros((2, 3, 2), np.float32)}, r"got float32 \(3, 2\)"),
}


@pytest.mark.parametrize("case", NPZ_REFUSALS)
def test_bad_npz(tmp_path: Path, case: str) -> None:
    changes, message = NPZ_REFUSALS[case]
    path = write_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)


def test_constant_images_with_a_std_of_ones_own(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz", x_train=np.full((6, 3, 2), 51, U8))
    assert load_dataset(path, std=1.0).mean == pytest.approx(0.2)


def forge(path: Path, shape: tuple[int, ...], payload: int, method: int) -> None:
    """An archive whose `x_train` claims `shape` and holds `payload` zero bytes."""
    write_npz(path, x_train=None)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(payload), method)


@pytest.mark.parametrize(
    ("shape", "payload", "method", "message"),
    [
        ((2**20, 2**20), 10, zipfile.ZIP_STORED, r"at most 4294967296 bytes, its header claims"),
        ((2**31, 1), 10, zipfile.ZIP_STORED, r"takes 2147483776 bytes with its header, got 138"),
        ((6, 3, 2), 35, zipfile.ZIP_STORED, r"takes 164 bytes with its header, got 163"),
        ((6, 3, 2), 2**20, zipfile.ZIP_DEFLATED, r"takes 164 bytes with its header, got"),
        ((-6, 3), 10, zipfile.ZIP_STORED, r"must be a \.npy array of numbers, got the header"),
        ((6, 3, 2), 36, zipfile.ZIP_LZMA, r"stored or deflated, got zip method 14"),
    ],
)
def test_forged_npz(
    tmp_path: Path, shape: tuple[int, ...], payload: int, method: int, message: str
) -> None:
    forge(tmp_path / "own.npz", shape, payload, method)
    with pytest.raises(DataError, match=rf"own\.npz: x_train: .*{message}"):
        load_dataset(tmp_path / "own.npz")


def test_npy_version_3_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "own.npz", x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x03\x00" + bytes(100))
    with pytest.raises(DataError, match=r"version of the \.npy format must be 1\.0 or 2\.0"):
        load_dataset(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_npz_is_refused_or_read(
    tmp_path: Path, position: float, byte: int, cut: bool
) -> None:
    """One byte changed, or a tail lost: a `DataError` or a legal data set, nothing else."""
    data = bytearray(write_npz(tmp_path / "whole.npz").read_bytes())
    at = int(position * len(data))
    if cut:
        del data[at:]
    else:
        data[at] = byte
    (tmp_path / "own.npz").write_bytes(data)
    with suppress(DataError):
        loaded = load_dataset(tmp_path / "own.npz")
        assert len(loaded.train_x) == len(loaded.train_y)


# Sources and the data set itself


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", r"absent: expected .*, got a path that does not"), ("own.pkl", r"another kind")],
)
def test_no_such_source(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "own.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": np.nan}, r"tiny: mean must be within \+-1e\+30, got nan"),
        ({"std": 0.0}, r"tiny: std must be within \[1e-30, 1e\+30\] .*, got 0\.0"),
        ({"std": -1.0}, r"std must be within"),
        ({"scale": np.inf}, r"scale must be within"),
        ({"train_x": np.zeros((6, 3, 2), np.int32)}, r"training images: must be uint8 or float32"),
        ({"test_x": np.zeros((2, 3, 0), U8)}, r"test images: must be .* no dimension 0"),
        ({"test_y": np.zeros(2, np.int32)}, r"test labels: must be int64 \(2,\).*got int32"),
        ({"train_y": np.array([0, 1, 3] * 2)}, r"class 2 has no image"),
    ],
)
def test_dataset_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**changes)


# The real thing


def test_mnist() -> None:
    mnist = load_dataset(shared_data("mnist"))
    assert (mnist.train_x.shape, mnist.test_x.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert (mnist.train_x.dtype.name, mnist.num_classes) == ("uint8", 10)
    # The published constants are those of the training images, to four decimals.
    mean, std = sources._moments(mnist.train_x)
    assert mean / 255 == pytest.approx(mnist.mean, abs=5e-5)
    assert std / 255 == pytest.approx(mnist.std, abs=5e-5)


def test_cifar10_small() -> None:
    data = load_dataset(shared_data("cifar10-small") / "cifar10-small.npz")
    assert (data.train_x.shape, data.test_x.shape) == ((10000, 32, 32, 3), (2000, 32, 32, 3))
    assert (data.scale, data.num_classes) == (255.0, 10)
