"""CIFAR in its published pickles, which call nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cifar
from cifar import NAMES, Python2, cifar10, cifar100
from own_tasks import one_line
from supsup_runtime.arrays import Bytes
from supsup_runtime.data import load_dataset, make_stream
from supsup_runtime.data.cifar import KINDS, kind_of
from supsup_runtime.data.pickles import MAX_READS, read_pickle
from supsup_runtime.errors import DataError
from tiny_data import tiny

DONE = ", as CIFAR has them"


def test_the_writer_of_these_tests_writes_a_published_file_to_the_byte() -> None:
    meta = Python2().table(num_cases_per_batch=10000, label_names=[*NAMES], num_vis=3072)
    digest = hashlib.md5(meta, usedforsecurity=False).hexdigest()
    assert digest == "5ff9c542aee3614f3951f8cda6e48888"  # of batches.meta


def test_cifar10_is_read(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "cifar-10-batches-py")
    data = load_dataset(folder)
    assert (data.train_x.shape, data.test_x.shape) == ((50, 32, 32, 3), (10, 32, 32, 3))
    assert (data.class_names, data.num_classes) == (NAMES, 10)
    rows = [np.random.default_rng(n).integers(0, 256, (10, 3072), np.uint8) for n in range(1, 7)]
    pictures = np.concatenate(rows[:5]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(data.train_x.transpose(0, 3, 1, 2), pictures)
    np.testing.assert_array_equal(data.test_x[3, 1, 2], rows[5][3].reshape(3, 32, 32)[:, 1, 2])
    np.testing.assert_array_equal(data.train_y, np.arange(50) % 10)


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    data = load_dataset(cifar100(tmp_path / "cifar-100-python"))
    assert data.class_names[1:100:98] == ("class_01", "class_99")
    stream = make_stream("split", data, num_tasks=20, class_seed=3, layout="image")
    order = np.random.RandomState(3).permutation(100)
    assert stream.task_names[::19] == ("split-s3-c5-0000", "split-s3-c5-0019")
    other = make_stream("split", data, num_tasks=10, class_seed=3, labels="shared")
    assert not {*stream.task_names} & {*other.task_names}  # a bank has tasks by name
    assert stream.task_labels[7] == tuple(f"class_{label:02}" for label in order[35:40])
    task = stream.task(7)
    np.testing.assert_array_equal(order[35:40][task.train_y], np.sort(order[35:40]))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_python_3_writes_again_is_read(tmp_path: Path, protocol: int) -> None:
    rows = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    path = tmp_path / "part"
    for text in (str, str.encode):
        table = {text(key): value for key, value in (("data", rows), ("labels", [0, 1]))}
        path.write_bytes(pickle.dumps(table, protocol))
        found = read_pickle(path)
        np.testing.assert_array_equal(found["data"], rows)
        assert found["labels"] == [0, 1]


@pytest.mark.parametrize("kind", ["permuted", "mixed"])
def test_moments_of_channels_are_permuted_with_the_values(tmp_path: Path, kind: str) -> None:
    data = load_dataset(cifar10(tmp_path / "c"))
    stream = make_stream(kind, data, num_tasks=4, seed=5)
    index = 1 if kind == "permuted" else 3
    mean, std = (np.array(value, np.float32).reshape(3, 1, 1) for value in (data.mean, data.std))
    flat = ((data.test_x.transpose(0, 3, 1, 2) / np.float32(255) - mean) / std).reshape(10, -1)
    assert stream.task_names[index] == "permuted-0001"
    order = np.random.RandomState(6).permutation(3072)
    got = stream.task(index).test_x.reshape(10, -1)
    np.testing.assert_allclose(got, flat[:, order], rtol=0, atol=1e-6)


def test_inputs_are_those_of_the_preprocessing_to_the_bit(tmp_path: Path) -> None:
    data = load_dataset(cifar10(tmp_path / "c"))
    stream = make_stream("split", data, num_tasks=5, layout="image")
    steps = stream.preprocessing
    assert steps is not None
    assert (steps.mode, steps.size, steps.std) == ("rgb", (32, 32), (0.2470, 0.2435, 0.2616))
    pictures = data.test_x[data.test_y < 2]
    np.testing.assert_array_equal(stream.task(0).test_x, steps.apply(pictures))
    for other in ("permuted", "rotated", "mixed"):
        assert make_stream(other, data, num_tasks=2).preprocessing is None


class Calls:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.made


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


_DEEP = b"}" + b")\x85" + 60 * b"q\x00h\x00\x86" + b"K\x01s."
"""A key of 2**60 parts."""
HOSTILE: dict[str, tuple[bytes, str]] = {
    "calls": (pickle.dumps(Calls(os.system, "touch called"), 2), "it names posix.system"),
    "calls, protocol 4": (pickle.dumps(Calls(eval, "1"), 4), "it names builtins.eval"),
    "another of numpy": (_named("numpy", "load") + b".", "it names numpy.load"),
    "a name with dots": (
        b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.all\x93.",
        "it names numpy.ndarray.all",
    ),
    "long name": (b"c" + b"a" * 1000 + b"\nb\n.", "it names " + "a" * 99),
    "instance": (b"(i__builtin__\neval\n.", "opcode 105"),
    "extension": (b"\x82\x01.", "opcode 130"),
    "persistent": (b"Pabc\n.", "opcode 80"),
    "new object": (b")\x81.", "opcode 129"),
    "set": (b"\x8f.", "opcode 143"),
    "text as number": (b"I" + b"1" * 5000 + b"\n.", "opcode 73"),
    "state of a name": (_named("_codecs", "encode") + b"}b.", "it builds a str"),
    "state of a table": (b"}}b.", "it builds a _Table"),
    "call of a list": (b"])R.", "it makes another object than"),
    "call with a text": (
        _named("numpy.core.multiarray", "_reconstruct") + b"U\x03abcR.",
        "it makes another object than",
    ),
    "call with much": (
        _named("numpy.core.multiarray", "_reconstruct") + b"(" + 4 * b"K\x00" + b"tR.",
        "it makes another object than",
    ),
    "deep dtype": (
        _named("numpy", "dtype") + _DEEP[1:-4] + b"\x85R.",
        "it makes another object than",
    ),
    "call of a text": (b"U\x01a(K\x01tR.", "it makes another object than"),
    "other codec": (
        b"}U\x01d" + _named("_codecs", "encode") + b"(U\x01aU\x03hextRs.",
        "it makes another object than an array of bytes",
    ),
    "objects": (
        _named("numpy", "dtype") + b"(U\x02O8K\x00K\x01tR.",
        "it makes another object than an array of bytes",
    ),
    "no table": (b"].", "it has a list, not a table"),
    "no end": (b"}", "it is truncated"),
    "long text": (b"}U\x01aT\xff\xff\xff\x7fabc", "it is truncated"),
    "negative text": (b"}T\xff\xff\xff\xffabc", "negative byte count"),
    "huge text": (b"}\x8e" + b"\xff" * 7 + b"\x7fabc", "truncated|exceeds"),
    "list as key": (b"}]K\x01s.", "a table has a key of type list"),
    "long key": (
        b"}T\x65\x00\x00\x00" + 101 * b"k" + b"Ns.",
        "a table has a key of type bytes, not a text of at most 100 characters",
    ),
    "long text as key": (b"}X\x65\x00\x00\x00" + 101 * b"k" + b"Ns.", "a key of type str, not"),
    "deep key": (_DEEP, "a table has a key of type tuple"),
    "memo": (b"h\x07.", "Memo value not found"),
    "nothing": (b"", "it is truncated"),
    "mark": (b"u.", "IndexError"),
    "array without state": (
        b"}U\x01a" + _named("numpy.core.multiarray", "_reconstruct") + b"K\x00\x85Rs.",
        "TypeError",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data, reason = HOSTILE[name]
    path = tmp_path / "train"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as refused:
        read_pickle(path)
    assert str(refused.value).startswith(f"{path}: must be a pickle of plain data{DONE} (")
    assert str(refused.value).endswith("; remove the folder, then download it again")
    assert "\n" not in str(refused.value)
    assert [each.name for each in tmp_path.iterdir()] == ["train"]


def test_a_pickle_of_many_pieces_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(b"]" * (MAX_READS + 1))
    with pytest.raises(DataError, match=f"it has more than {MAX_READS} pieces"):
        read_pickle(path)


def test_a_text_is_not_encoded_again_and_again(tmp_path: Path) -> None:
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000 + b"q\x00"
    again = _named("_codecs", "encode") + b"q\x01(h\x00U\x06latin1tR"
    path = tmp_path / "train"
    path.write_bytes(b"]" + text + again + 20 * b"h\x01(h\x00U\x06latin1tR" + b".")
    with pytest.raises(DataError, match="it makes another object"):
        read_pickle(path)


def _rows(count: int = 10) -> Bytes:
    return np.zeros((count, 3072), np.uint8)


WRONG: dict[str, tuple[str, dict[str, object], str]] = {
    "no data": ("test_batch", {"labels": [1]}, "must have data as an array, got labels"),
    "no labels": (
        "data_batch_2",
        {"data": _rows(), "fine_labels": [1]},
        "must have labels as a list, got data, fine_labels",
    ),
    "fewer labels": (
        "data_batch_2",
        {"data": _rows(), "labels": [1]},
        r"data must be \(1, 3072\), a row for each of the labels, got \(10, 3072\)",
    ),
    "label": (
        "data_batch_3",
        {"data": _rows(1), "labels": [10]},
        r"labels must be whole numbers in \[0, 10\)",
    ),
    "text as label": (
        "data_batch_3",
        {"data": _rows(1), "labels": ["1"]},
        r"labels must be whole numbers in \[0, 10\)",
    ),
    "empty": ("test_batch", {"data": _rows(0), "labels": []}, "data must be"),
    "names": (
        "batches.meta",
        {"label_names": ["a\nb"]},
        "label_names must be printable names",
    ),
    "no names": ("batches.meta", {"num_vis": 3072}, "must have label_names as a list, got num_vis"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_pickle_that_is_not_cifar_is_refused(tmp_path: Path, name: str) -> None:
    file, values, reason = WRONG[name]
    folder = cifar10(tmp_path / "c")
    (folder / file).write_bytes(Python2().table(**values))
    with pytest.raises(DataError, match=reason) as refused:
        load_dataset(folder)
    assert str(refused.value).startswith(f"{folder / file}: ")
    assert str(refused.value).endswith(
        "; remove the folder, then download it again with supsup-data download"
    )


def test_a_missing_file_and_a_pipe_are_refused(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "c")
    path = folder / "data_batch_4"
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: missing; remove the folder, then download"):
        load_dataset(folder)
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"{path}: must be a regular file"):
        load_dataset(folder)


@pytest.mark.parametrize("name", ["meta", "train", "test"])
def test_a_stray_file_makes_no_cifar(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"notes")
    assert kind_of(tmp_path) is None


def test_idx_files_make_no_cifar(tmp_path: Path) -> None:
    folder = cifar100(tmp_path / "c")
    assert kind_of(folder) == KINDS[1]
    (folder / "train-images-idx3-ubyte").write_bytes(b"")
    assert kind_of(folder) is None


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    folder = cifar10(tmp_path / "c")
    os.truncate(folder / "test_batch", 2**28 + 1)
    with pytest.raises(DataError, match="must have at most 268435456 bytes, got 268435457"):
        load_dataset(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_change_is_read_or_refused(tmp_path: Path, places: list[tuple[float, int]]) -> None:
    data = bytearray(cifar.part(1, 10, 0))
    head = [at for at in range(len(data)) if not 300 < at < 3300]  # rarely a pixel
    for place, value in places:
        data[head[int(place * (len(head) - 1))]] = value
    path = tmp_path / "part"
    path.write_bytes(data)
    one_line(lambda: read_pickle(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("a", "b")}, "labels must use each of the 2 class_names, got 6 classes"),
        ({"mean": (0.1, 0.2)}, "mean and std must be one number each, or one for each of the 3 ch"),
        ({"std": (0.1, 0.2, 0.3)}, "mean and std must be one number each, or one for each"),
        ({"mean": (0, 0, 0), "std": (1, 0, 1)}, "std must be within"),
        ({"mean": (0, float("nan"), 0), "std": (1, 1, 1)}, "mean must be within"),
    ],
)
def test_names_and_moments_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(tiny(4, 4, 3), **{"class_names": (), **changes})
