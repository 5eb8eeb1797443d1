"""Programs that a stranger made: all that is wrong with them is a `BankError`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from banks import make_bank, programs
from conftest import random_task
from supsup_export import export, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import BankError, SupSupError

MODEL = ("mlp-7-9", 6, 4)


def bank_of(folder: Path, forward: bytes, gradient: bytes) -> MaskBank:
    network = programs(*MODEL)[2]
    bank = MaskBank.create(folder / "masks", network, forward=forward, gradient=gradient)
    bank.extend(random_task(network, f"task-{i}", seed=i) for i in range(2))
    return bank


def external(model: ModelProto) -> None:
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[6])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    model.graph.initializer.append(tensor)


def renamed(model: ModelProto) -> None:
    model.graph.input[1].name = "other"
    for node in model.graph.node:
        node.input[:] = ["other" if v == "layers.0.weight" else v for v in node.input]


def without_output(model: ModelProto) -> None:
    del model.graph.output[:]


def opset(model: ModelProto) -> None:
    model.opset_import[0].version = 19


def unknown_value(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "nobody"


def default_of_x(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 5), np.float32), "x"))


def function(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function("d", "F", [], [], [], [helper.make_opsetid("", 18)])
    )


def wide(model: ModelProto) -> None:
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[-1].dim_value = 99


DAMAGE: list[tuple[Callable[[ModelProto], None], str]] = [
    (external, "tensors must have their data in the model, got b'secret'"),
    (renamed, "must be a program of this network, opset 18, with float32 inputs"),
    (without_output, "(must be a program of this network|not a valid ONNX model)"),
    (opset, "must be a program of this network, opset 18"),
    (unknown_value, "not a valid ONNX model: .*nobody"),
    (default_of_x, "must be a program of this network"),
    (function, "(must be a program of this network|not a valid ONNX model)"),
    (wide, "must be a program of this network"),
]


@pytest.mark.parametrize("name", ["forward", "gradient"])
@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damaged_programs_are_refused_by_name(
    tmp_path: Path, damage: Callable[[ModelProto], None], message: str, name: str
) -> None:
    forward, gradient, _ = programs(*MODEL)
    data = {"forward": forward, "gradient": gradient}
    model = onnx.load_model_from_string(data[name])
    damage(model)
    bank = bank_of(tmp_path, **data | {name: model.SerializeToString()})
    with pytest.raises(BankError, match=rf"masks/programs/{name}\.onnx: {message}"):
        export(bank, tmp_path / "out.onnx")
    if name == "forward":
        with pytest.raises(BankError, match=rf"masks/programs/{name}\.onnx: {message}"):
            export_task(bank, "task-0", tmp_path / "one.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_program_that_is_none_is_refused(tmp_path: Path) -> None:
    for number, data in enumerate((b"garbage", b"\x08", b"", b"\x3a\x00")):
        bank = bank_of(tmp_path / str(number), data, programs(*MODEL)[1])
        with pytest.raises(BankError, match=r"programs/forward\.onnx: not a"):
            export(bank, tmp_path / "out.onnx")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Protobuf reads them as bytes."""
    forward, gradient, _ = programs(*MODEL)
    model = onnx.load_model_from_string(forward)
    model.graph.name = "NAME"
    damaged = model.SerializeToString().replace(b"NAME", b"\xff\xfe\xfd\xfc")
    bank = bank_of(tmp_path, damaged, gradient)
    with pytest.raises(BankError, match=r"programs/forward\.onnx: not a valid ONNX model"):
        export(bank, tmp_path / "out.onnx")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["forward", "gradient"]))
def test_only_our_errors_come_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    forward, gradient, _ = programs(*MODEL)
    both = {"forward": forward, "gradient": gradient}
    damaged = bytearray(both[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    bank = bank_of(folder, **both | {name: bytes(damaged)})
    with suppress(SupSupError):
        export(bank, folder / "out.onnx")


def test_a_bank_of_the_real_programs_is_exported(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    assert export(bank, tmp_path / "out.onnx").parity
