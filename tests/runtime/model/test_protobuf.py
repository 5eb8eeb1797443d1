from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from supsup_runtime.errors import ModelError
from supsup_runtime.model.protobuf import MAX_ENTRY_BYTES, read_metadata

VALUES = {"a": "", "org.supsup.tasks": "ä" * 300, "b": "1"}


def model_bytes(values: dict[str, str]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    node = helper.make_node("Identity", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), producer_name="p")
    helper.set_model_props(model, values)
    return bytes(model.SerializeToString())


def test_metadata_are_those_that_onnx_wrote(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for values in (VALUES, {}):
        path.write_bytes(model_bytes(values))
        assert read_metadata(path) == values


def test_every_cut_is_refused_or_at_the_end_of_a_field(tmp_path: Path) -> None:
    path, whole = tmp_path / "m.onnx", model_bytes(VALUES)
    read = 0
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with suppress(ModelError):
            assert len(read_metadata(path)) < len(VALUES)
            read += 1
    assert read <= 12  # a cut between two fields is a shorter message
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="not an ONNX model, or cut short: field 14 of"):
        read_metadata(path)


def test_an_entry_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path, size = tmp_path / "m.onnx", MAX_ENTRY_BYTES + 1
    header = b"\x72\x81\x80\x80\x80\x01"  # field 14, length 2**28 + 1
    path.write_bytes(header)
    os.truncate(path, len(header) + size)  # a hole, which takes no space on the disk
    message = f"a metadata entry must have at most {MAX_ENTRY_BYTES} bytes, got {size}"
    with pytest.raises(ModelError, match=message):
        read_metadata(path)


@given(st.binary(max_size=200))
def test_only_our_error_escapes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("peek") / "m.onnx"
    path.write_bytes(data)
    with suppress(ModelError):
        read_metadata(path)
