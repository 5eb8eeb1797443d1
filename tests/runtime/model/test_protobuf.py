from __future__ import annotations

import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    helper,
)

from banks import make_bank
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.errors import FileError, ModelError
from supsup_runtime.model.metadata import PREFIX, Target
from supsup_runtime.model.model import load
from supsup_runtime.model.protobuf import (
    MAX_METADATA_BYTES,
    read_metadata,
    read_operators,
    refuse_unsafe,
)
from supsup_runtime.model.session import open_session
from supsup_runtime.recovery.model import load_hopfield

VALUES = {"org.supsup.a": "", "org.supsup.tasks": "ä" * 300, "org.supsup": "no", "b": "1"}


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
        assert read_metadata(path) == {k: v for k, v in values.items() if k.startswith(PREFIX)}


def test_every_cut_is_refused_or_at_the_end_of_a_field(tmp_path: Path) -> None:
    path, whole = tmp_path / "m.onnx", model_bytes(VALUES)
    read = 0
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with suppress(ModelError):
            assert len(read_metadata(path)) <= 2
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
    key, value = b"\x0a\x0corg.supsup.k", b"\x12\x01v"
    path = tmp_path / "m.onnx"
    for entry in (key + value, value + other + key + b"\x08\x05", b"\x0a\x01a" + key + value):
        path.write_bytes(other + b"\x72" + _varint(len(entry)) + entry + other)
        assert read_metadata(path) == {"org.supsup.k": "v"}
    path.write_bytes(b"\x72\x03\x12\x01v")
    assert read_metadata(path) == {}


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


def entry_of(key: bytes, value_bytes: int) -> bytes:
    """The beginning of an entry, whose value follows."""
    begun = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(value_bytes)
    return b"\x72" + _varint(len(begun) + value_bytes) + begun


def test_metadata_are_bounded_together(tmp_path: Path) -> None:
    """Their values are holes in the file, which take no space on the disk."""
    path, half = tmp_path / "m.onnx", MAX_METADATA_BYTES // 2
    with path.open("wb") as file:
        for key in (b"org.supsup.a", b"other.b", b"other.c", b"org.supsup.d"):
            file.write(entry_of(key, half))
            file.seek(half, 1)
        file.truncate()
    with pytest.raises(ModelError, match=f"must have at most {MAX_METADATA_BYTES} bytes, got more"):
        read_metadata(path)


def test_metadata_of_others_are_not_read(tmp_path: Path) -> None:
    path, size = tmp_path / "m.onnx", 1 << 34
    path.write_bytes(entry_of(b"other", size))
    os.truncate(path, path.stat().st_size + size)
    assert read_metadata(path) == {}


def test_a_hole_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ModelError, match="unknown field 0 of wire type 0"):
        read_metadata(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe, link = tmp_path / "m.onnx", tmp_path / "link.onnx"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link, Path("/dev/zero"), tmp_path):
        with pytest.raises(
            ModelError, match=r"^[^:]*: must be a regular file, is a .* the path of"
        ):
            read_metadata(path)
    for name in ("none.onnx", "m.onnx/x", "a\0b", "a\ud800"):
        with pytest.raises(ModelError, match=r"no such file; make it with supsup-export$"):
            read_metadata(tmp_path / name)


def test_what_the_system_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    refused = {
        tmp_path / ("a" * 300): "cannot be opened: File name too long; choose a shorter path",
        tmp_path / ("a/" * 5000): "cannot be opened: File name too long; choose a shorter path",
        loop: "cannot be opened: Too many levels of symbolic links; check the disk, and the path",
        Path("/proc/self/mem"): "cannot be read: Invalid argument; check the disk, and the path",
    }
    for path, reason in refused.items():
        for read in (read_metadata, load, load_hopfield):
            with pytest.raises(FileError) as caught:
                read(path)
            assert str(caught.value) == f"{path}: {reason}"


def test_ort_format_is_refused_by_name(tmp_path: Path) -> None:
    named, unnamed = tmp_path / "m.ort", tmp_path / "m.onnx"
    named.write_bytes(model_bytes(VALUES))
    unnamed.write_bytes(b"\x18\x00\x00\x00ORTM" + bytes(8))
    for path in (named, unnamed):
        with pytest.raises(ModelError, match=r"ORT format are not loaded.*load the \.onnx file"):
            read_metadata(path)


OUTSIDE = helper.make_tensor("secret", TensorProto.FLOAT, [2], [1.0, 2.0])
OUTSIDE.ClearField("float_data")
OUTSIDE.data_location = TensorProto.EXTERNAL
OUTSIDE.external_data.add(key="location", value="secret.bin")


def constant(**values: Any) -> NodeProto:
    return helper.make_node("Constant", [], ["c"], **values)


def model_of(*nodes: NodeProto, **more: Any) -> ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], **more))


def models_with_data_outside() -> dict[str, ModelProto]:
    """By where the tensor is."""
    sparse = SparseTensorProto(values=OUTSIDE, dims=[2])
    body = helper.make_graph([constant(value=OUTSIDE)], "body", [], [])
    several = constant()
    several.attribute.add(name="tensors", type=AttributeProto.TENSORS).tensors.append(OUTSIDE)
    bodies = constant()
    bodies.attribute.add(name="graphs", type=AttributeProto.GRAPHS).graphs.append(body)
    function = helper.make_function("d", "F", [], ["c"], [constant(value=OUTSIDE)], [])
    default = helper.make_function("d", "F", [], [], [], [])
    default.attribute_proto.append(helper.make_attribute("value", OUTSIDE))
    made = {
        "initializer": model_of(initializer=[OUTSIDE]),
        "sparse initializer": model_of(sparse_initializer=[sparse]),
        "attribute": model_of(constant(value=OUTSIDE)),
        "attribute of several": model_of(several),
        "sparse attribute": model_of(constant(sparse_value=sparse)),
        "branch": model_of(helper.make_node("If", ["c"], ["y"], then_branch=body)),
        "graphs": model_of(bodies),
        "function": model_of(),
        "default of a function": model_of(),
        "training": model_of(),
    }
    made["function"].functions.append(function)
    made["default of a function"].functions.append(default)
    made["training"].training_info.add().algorithm.CopyFrom(body)
    return made


@pytest.mark.parametrize("where", models_with_data_outside())
def test_data_in_other_files_are_refused(where: str) -> None:
    model = models_with_data_outside()[where]
    message = r"^m: tensors must have their data in the model, got b'secret' with data in another"
    with pytest.raises(ModelError, match=message):
        refuse_unsafe(BytesIO(model.SerializeToString()), place="m")


def test_half_of_what_says_that_data_are_outside_is_enough() -> None:
    where = b"\x42\x08location"  # as a tensor's name
    for tensor in (b"\x70\x01", b"\x70\x81\x80\x80\x80\x10", b"\x6a\x00", b"\x72\x01\x01"):
        with pytest.raises(ModelError, match="must have their data in the model"):
            refuse_unsafe(BytesIO(nested(b"\x3a\x2a", tensor + where)), place="m")
    refuse_unsafe(BytesIO(nested(b"\x3a\x2a", b"\x70\x00" + where)), place="m")


def test_large_messages_are_searched_in_parts() -> None:
    for value in (b"a" * (1 << 21), b"location"):
        text = TensorProto(name="t", data_type=TensorProto.STRING, dims=[1], string_data=[value])
        model = model_of(initializer=[text])
        refuse_unsafe(BytesIO(model.SerializeToString()), place="m")
        model.graph.node.append(constant(value=OUTSIDE))
        with pytest.raises(ModelError, match="got b'secret' with data in another file"):
            refuse_unsafe(BytesIO(model.SerializeToString()), place="m")


@pytest.mark.parametrize("outputs", [("", "b"), ("a", ""), ("a", "", "c")])
def test_outputs_whose_lack_ends_onnx_runtime_are_refused(outputs: tuple[str, ...]) -> None:
    node = helper.make_node("Split", ["k"], outputs)
    bodies = helper.make_node("If", ["c"], ["y"], then_branch=model_of(node).graph)
    for model in (model_of(node), model_of(bodies)):
        message = r"^m: b'Split' must name each of its outputs, got an empty name; name it"
        with pytest.raises(ModelError, match=message):
            refuse_unsafe(BytesIO(model.SerializeToString()), place="m")
    node.op_type = "Unique"  # which may leave them out
    refuse_unsafe(BytesIO(model_of(node).SerializeToString()), place="m")


def test_data_outside_without_a_location_are_refused_by_onnx_runtime() -> None:
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    model = model_of(helper.make_node("Identity", ["secret"], ["y"]), initializer=[tensor])
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]))
    with pytest.raises(ModelError, match=r"^m: ONNX Runtime cannot load it: "):
        open_session(model.SerializeToString(), place="m")


def test_tags_of_more_than_32_bits_are_refused() -> None:
    """Protobuf takes the lowest 32 bits of this one, which say graph."""
    with pytest.raises(ModelError, match="unknown field"):
        read_operators(BytesIO(b"\xba\x80\x80\x80\x10\x00"), place="m")


def nested(tags: bytes, data: bytes) -> bytes:
    for tag in reversed(tags):
        data = bytes([tag]) + _varint(len(data)) + data
    return data


@given(st.binary(max_size=200))
def test_only_our_error_escapes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("peek") / "m.onnx"
    path.write_bytes(data)
    with suppress(ModelError):
        read_metadata(path)
