"""One reader of .npy files: what numpy saves is read, all else is a line, nothing is evaluated."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from supsup_runtime.errors import InputError
from supsup_runtime.npyfile import read_array, read_npy


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def headed(text: str, data: bytes = b"", *, version: bytes = b"\1\0") -> bytes:
    length = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + text.encode("latin-1") + data


def header(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


KINDS = (npst.boolean_dtypes, npst.integer_dtypes, npst.floating_dtypes, npst.complex_number_dtypes)
NUMBERS: st.SearchStrategy[np.dtype[Any]] = st.one_of([kind() for kind in KINDS])


@given(npst.arrays(NUMBERS, npst.array_shapes(min_dims=0, max_dims=4, min_side=0)), st.booleans())
def test_what_numpy_saves_is_read(array: np.ndarray, in_columns: bool) -> None:
    data = saved(np.asfortranarray(array) if in_columns else array)
    read = read_array(io.BytesIO(data), len(data), "x.npy")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_version_2_is_read() -> None:
    data = headed(header("(1,)"), np.ones(1, np.float32).tobytes(), version=b"\2\0")
    assert read_array(io.BytesIO(data), len(data), "x.npy").tolist() == [1]


REFUSED = {
    "empty": (b"", "must be a .npy array of numbers; save one"),
    "text": (b"not an array", "must be a .npy array of numbers; save one"),
    "archive": (b"PK\3\4" + bytes(100), "must be a .npy array of numbers; save one"),
    "brace": (headed("{"), "got the header '{'"),
    "many braces": (headed("{" * 9000), "got the header '{{{{"),
    "deep": (headed(header("(" * 4000 + ")" * 4000)), "got the header"),
    "code": (headed(header("__import__('os').abort()")), "got the header"),
    "minus": (headed(header("(-1,)")), "got the header"),
    "true": (headed(header("(True,)")), "got the header"),
    "no tuple": (headed(header("(3)"), bytes(12)), "got the header"),
    "two numbers": (headed(header("(1 2,)"), bytes(48)), "got the header"),
    "zero first": (headed(header("(03,)"), bytes(12)), "got the header"),
    "other space": (headed(header("(3,)")[:-1] + "\xa0\n", bytes(12)), "got the header"),
    "2**64": (headed(header(f"({2**64},)")), "got the header"),
    "10**12": (headed(header(f"({10**12},)")), "at most 4294967296 bytes, its header claims"),
    "0 x 10**17": (headed(header(f"(0, {10**17}, {10**17})")), "at most 4294967296 bytes"),
    "rank": (headed(header("(" + "1," * 33 + ")"), bytes(4)), "at most 32 dimensions, got 33"),
    "no type": (headed(header("(1,)", "<f3"), bytes(3)), "got the header"),
    "objects": (saved(np.array([None])), "got the header"),
    "text array": (saved(np.array(["a"])), "got the header"),
    "fields": (saved(np.zeros(1, [("a", "<f4")])), "got the header"),
    "version 3": (b"\x93NUMPY\3\0" + bytes(100), "must be 1.0 or 2.0, got 3.0"),
    "cut short": (headed(header("(3,)"), bytes(11)), "bytes with its header, got"),
    "too long": (headed(header("(3,)"), bytes(13)), "bytes with its header, got"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    data, message = REFUSED[case]
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_npy(tmp_path / "x.npy")
    assert str(caught.value).startswith(f"{tmp_path}/x.npy: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_no_file(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path in (tmp_path, tmp_path / "x.npy", pipe, loop, Path("/dev/zero")):
        with pytest.raises(InputError, match="no such file"):
            read_npy(path)
    with pytest.raises(InputError, match=r"cannot be read: File name too long|no such file"):
        read_npy(tmp_path / ("x" * 1000))  # since Python 3.14 there is none of that name
    with pytest.raises(InputError, match="/proc/self/mem: cannot be read: Input/output error"):
        read_npy(Path("/proc/self/mem"))


@pytest.mark.parametrize("text", [header("(3,)"), header("(3, )")[:-1], header(" ( 3 , ) ")])
def test_spaces_are_where_numpy_takes_them(text: str) -> None:
    data = headed(text, np.ones(3, np.float32).tobytes())
    read = read_array(io.BytesIO(data), len(data), "x.npy")
    np.testing.assert_array_equal(read, np.load(io.BytesIO(data)))


@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    whole = bytearray(saved(np.arange(6, dtype=np.float32).reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = read_array(io.BytesIO(whole), len(whole), "x.npy")
    except InputError:
        return
    assert array.nbytes <= len(whole)
