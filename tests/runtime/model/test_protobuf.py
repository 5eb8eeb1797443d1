from __future__ import annotations

import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, TensorProto, helper

from banks import make_bank
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.errors import ModelError
from supsup_runtime.model.metadata import Target
from supsup_runtime.model.protobuf import MAX_ENTRY_BYTES, read_metadata, read_operators

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


def operators_of(graph: GraphProto) -> set[str]:
    found = set()
    for node in graph.node:
        found.add(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        for attribute in node.attribute:
            for within in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                found |= operators_of(within)
    return found


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_operators_are_those_that_onnx_finds(tmp_path: Path, target: Target) -> None:
    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=3)
    path = export(bank, tmp_path / "out.onnx", request=Request(target=target), check=False).path
    model = onnx.load(path)
    with path.open("rb") as file:
        opsets, operators = read_operators(file, place="m")
    assert opsets == {each.domain: each.version for each in model.opset_import}
    assert operators == operators_of(model.graph)
    assert {"If", "Loop"} <= operators if target == "portable" else "If" in operators


@given(st.binary(max_size=200))
def test_operators_of_garbage_are_refused_or_few(data: bytes) -> None:
    with suppress(ModelError):
        read_operators(BytesIO(data), place="m")


def test_deep_nesting_is_no_recursion() -> None:
    data, depth = b"\x0a\x05\x22\x03Erf", 3000
    for _ in range(depth):
        for tag in (0x32, 0x2A):  # graph of an attribute, attribute of a node
            data = bytes([tag]) + _varint(len(data)) + data
        data = b"\x22\x02If" + data
        data = b"\x0a" + _varint(len(data)) + data  # node of a graph
    operators = read_operators(BytesIO(b"\x3a" + _varint(len(data)) + data), place="m")[1]
    assert operators == {"Erf", "If"}
    name = b"\x22" + _varint(1 << 17) + b"a" * (1 << 17)
    node = b"\x0a" + _varint(len(name)) + name
    with pytest.raises(ModelError, match=r"m: not an ONNX model.*a name must have at most 65536"):
        read_operators(BytesIO(b"\x3a" + _varint(len(node)) + node), place="m")


@pytest.mark.parametrize(
    ("opset", "message"),
    [
        (b"\x10" + b"\xff" * 9 + b"\x7f", "a number must be below"),
        (b"\x10" + b"\xff" * 9 + b"\x01", "an opset must be below 2147483648"),
        (b"\x12\x02ab", "an opset must be below 2147483648, got b'ab'"),
        (b"\x11" + bytes(8), "an opset must be below 2147483648, got b"),
        (b"\x0a\x02\xff\xff", "codec can't decode"),
        (b"\x0a\x04a\x1b[2", "names must be printable text"),
        (b"\x08\x05", "names must be printable text, got 5"),
    ],
)
def test_what_no_opset_is_is_refused(opset: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=f"m: not an ONNX model.*{message}"):
        read_operators(BytesIO(b"\x42" + _varint(len(opset)) + opset), place="m")


def test_a_node_needs_an_operator_and_functions_have_nodes() -> None:
    with pytest.raises(ModelError, match="m: not an ONNX model"):
        read_operators(BytesIO(b"\x3a\x04\x0a\x02\x3a\x00"), place="m")
    function = b"\x3a\x05\x22\x03Erf"
    model = b"\xca\x01" + _varint(len(function)) + function
    assert read_operators(BytesIO(model), place="m") == ({}, {"Erf"})


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + _varint(rest)


def test_fields_of_every_wire_type_are_skipped(tmp_path: Path) -> None:
    """Numbers of 8 and 4 bytes, a varint of all 10 bytes, bytes; between and within entries."""
    other = b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18" + b"\xff" * 9 + b"\x01" + b"\x22\x01a"
    entry = b"\x0a\x01k\x12\x01v"
    path = tmp_path / "m.onnx"
    path.write_bytes(other + b"\x72" + _varint(len(entry)) + entry + other)
    assert read_metadata(path) == {"k": "v"}
    path.write_bytes(b"\x72\x03\x12\x01v")
    assert read_metadata(path) == {"": "v"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x02\x00", "unknown field 0 of wire type 2"),
        (b"\x0b\x00", "unknown field 1 of wire type 3"),
        (b"\x0e\x00", "unknown field 1 of wire type 6"),
        (b"\x09" + bytes(7), "field 1 of 8 bytes ends after byte 8"),
        (b"\x15" + bytes(3), "field 2 of 4 bytes ends after byte 4"),
        (b"\x08" + b"\xff" * 10 + b"\x01", r"a number must be below 2\*\*64"),
        (b"\x08" + b"\x80" * 10 + b"\x00", "a number ends too early"),
        (b"\x08", "a number ends too early"),
    ],
)
def test_other_fields_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=f"not an ONNX model, or cut short: {message}"):
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
