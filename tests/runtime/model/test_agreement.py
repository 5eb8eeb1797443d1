"""Models that contradict themselves are refused where they are loaded, or where they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

import supsup_runtime as supsup
from banks import make_bank
from stores import store_bank
from supsup_export import Request, export, export_recovery
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.errors import ModelError
from supsup_runtime.model.metadata import ModelInfo, TaskInfo
from supsup_runtime.model.protobuf import read_metadata

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
Change = Callable[[ModelInfo], ModelInfo]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two tasks for each mode."""
    folder = tmp_path_factory.mktemp("models")
    bank = make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    wanted = {
        "full": None,
        "known": ("logits", "parameters"),
        "infer": ("logits", "task", "task_scores"),
    }
    return {
        mode: export(bank, folder / f"{mode}.onnx", request=Request(outputs=outputs)).path
        for mode, outputs in wanted.items()
    }


def info_of(path: Path) -> ModelInfo:
    return ModelInfo.from_metadata(read_metadata(path), place="m")


def changed(path: Path, folder: Path, change: Change) -> Path:
    """A copy with other metadata, whose digest fits them."""
    model, info = onnx.load(path), change(info_of(path))
    info = replace(info, digest=info.network.digest(info.forward))
    helper.set_model_props(model, info.to_metadata())
    onnx.save(model, folder / "lie.onnx")
    return folder / "lie.onnx"


def with_network(**fields: Any) -> Change:
    return lambda info: replace(info, network=replace(info.network, **fields))


def with_parameters(change: Callable[[Network], tuple[MaskedParameter, ...]]) -> Change:
    return lambda info: replace(
        info, network=replace(info.network, parameters=change(info.network))
    )


def more_tasks(info: ModelInfo) -> ModelInfo:
    return replace(info, tasks=(*info.tasks, TaskInfo(index=2, name="more", real_outputs=1)))


LIES: dict[str, tuple[str, Change, str]] = {
    "width": ("full", with_network(outputs=7), r"output logits must be .*\(None, 7\).*'batch', 6"),
    "fewer outputs": ("infer", with_network(outputs=5), "output logits must be"),
    "inputs": ("full", with_network(input_shape=(6,)), r"input x must be .*\(None, 6\).*, 5\)"),
    "rank": ("known", with_network(input_shape=(5, 1)), r"input x must be .*\(None, 5, 1\)"),
    "no weights": ("full", with_parameters(lambda n: n.parameters[:-1]), "output parameters must"),
    "more weights": (
        "known",
        with_parameters(lambda n: (*n.parameters, MaskedParameter.ones("more", (9,)))),
        "output parameters must be",
    ),
    "other names": (
        "full",
        with_parameters(lambda n: (replace(n.parameters[0], name="other"), *n.parameters[1:])),
        r"its forward program: the graph contradicts its metadata: inputs must be",
    ),
    "other shapes": (
        "full",
        with_parameters(lambda n: (replace(n.parameters[0], shape=(5, 7)), *n.parameters[1:])),
        r"its forward program: .*input layers.0.weight must be .*\(5, 7\).*got .*\(7, 5\)",
    ),
    "state": (
        "full",
        with_network(state=(StateTensor(name="mean", shape=(2,)),)),
        r"its forward program: .*inputs must be .*'mean'",
    ),
    "mode": ("full", lambda i: replace(i, mode="known", objective=""), "inputs must be"),
    "infers": ("full", lambda i: replace(i, mode="infer"), "inputs must be"),
    "tasks": ("full", more_tasks, "ONNX Runtime cannot run it: .*indices element out of data"),
    "known tasks": ("known", more_tasks, "ONNX Runtime cannot run it: .*indices element out of"),
    "inferred tasks": ("infer", more_tasks, r"output task_scores must be .*\(3,\).*got .*\(2,\)"),
}


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_contradict_the_graph_are_refused(
    models: dict[str, Path], tmp_path: Path, lie: str
) -> None:
    mode, change, message = LIES[lie]
    with pytest.raises(ModelError, match=rf"lie\.onnx.*{message}"):
        supsup.load(changed(models[mode], tmp_path, change))


def test_fewer_tasks_than_the_graph_are_refused_when_it_scores(
    models: dict[str, Path], tmp_path: Path
) -> None:
    path = changed(models["full"], tmp_path, lambda info: replace(info, tasks=info.tasks[:1]))
    with pytest.raises(ModelError, match=r"task_scores must have shape \(1,\), got \(2,\)"):
        supsup.load(path).infer_task(X, method="one-shot")


def test_a_store_of_another_size_is_refused(tmp_path: Path) -> None:
    path = export_recovery(store_bank(tmp_path / "masks"), tmp_path / "r.onnx").path
    other = MaskedParameter.ones("more", (9,))
    model, info = onnx.load(path), info_of(path)
    network = replace(info.network, parameters=(*info.network.parameters, other))
    store = info.hopfield
    assert store is not None
    longer = [np.pad(values, (0, 9)) for values in (store.mean, store.diagonal)]
    marks = tuple((*own, own[0]) for own in store.fingerprints)
    store = replace(store, mean=longer[0], diagonal=longer[1], fingerprints=marks)
    digest = network.digest(info.forward)
    info = replace(info, network=network, hopfield=store, digest=digest)
    helper.set_model_props(model, info.to_metadata())
    onnx.save(model, path)
    with pytest.raises(ModelError, match="contradicts its metadata: input mask must be"):
        supsup.load_hopfield(path)


def answering(declared: dict[str, list[int | str]], **values: Any) -> Callable[[ModelProto], None]:
    """Answer `values`, or one zero, whatever the inputs are, and declare other shapes."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        graph.ClearField("node")
        graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
        graph.node.append(helper.make_node("Size", ["x"], ["size"]))
        graph.node.append(helper.make_node("GreaterOrEqual", ["size", "zero"], ["yes"]))
        for output in graph.output:
            kind = output.type.tensor_type.elem_type
            value = values.get(output.name, np.zeros(1, helper.tensor_dtype_to_np_dtype(kind)))
            # of two sizes, so that ONNX Runtime does not know which
            bodies = {
                f"{branch}_branch": body_of(value if branch == "then" else np.pad(value, 1), branch)
                for branch in ("then", "else")
            }
            graph.node.append(helper.make_node("If", ["yes"], [output.name], **bodies))
            if output.name in declared:
                shape = declared[output.name]
                output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shape))

    return change


def body_of(value: npt.NDArray[Any], name: str) -> GraphProto:
    tensor = numpy_helper.from_array(value, "value")
    node = helper.make_node("Constant", [], ["made"], value=tensor)
    made = helper.make_tensor_value_info("made", tensor.data_type, value.shape)
    return helper.make_graph([node], name, [], [made])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([5], r"the inferred task must be in \[0, 2\), got 5"),
        ([-1], r"the inferred task must be in \[0, 2\), got -1"),
        ([0, 1], r"task must have shape \(1,\), got \(2,\)"),
    ],
)
def test_a_task_that_is_none_is_refused(
    models: dict[str, Path], tmp_path: Path, task: list[int], message: str
) -> None:
    model = onnx.load(models["infer"])
    answers = {"logits": np.zeros((3, 6), np.float32), "task_scores": np.zeros(2, np.float32)}
    answering({"task": ["n"]}, task=np.array(task), **answers)(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=message):
        supsup.load(tmp_path / "m.onnx").predict(X)


def test_logits_of_another_width_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(models["infer"])
    answering({"logits": ["batch", "width"]}, logits=np.zeros((3, 9), np.float32))(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"logits must have shape \(3, 6\), got \(3, 9\)"):
        supsup.load(tmp_path / "m.onnx").predict(X)


def test_a_model_without_parameters_reads_no_memory(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Its graph says how long they are, and gives fewer: offsets into them must not leave them."""
    model = onnx.load(models["full"])
    values = {"logits": np.zeros((0, 6), np.float32), "task_scores": np.zeros(0, np.float32)}
    answering({"parameters": ["any"]}, **values)(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"parameters must have shape \(\d+,\), got \(1,\)"):
        supsup.load(tmp_path / "m.onnx")


def with_forward(path: Path, folder: Path, change: Callable[[ModelProto], None]) -> Path:
    forward = onnx.load_model_from_string(info_of(path).forward)
    change(forward)
    return changed(path, folder, lambda i: replace(i, forward=forward.SerializeToString()))


@pytest.mark.parametrize("width", [1, 7, 4096])
def test_a_forward_program_of_another_width_is_refused(
    models: dict[str, Path], tmp_path: Path, width: int
) -> None:
    def change(forward: ModelProto) -> None:
        answering({"logits": ["batch", "width"]}, logits=np.zeros((1, width), np.float32))(forward)

    model = supsup.load(with_forward(models["full"], tmp_path, change))
    with pytest.raises(ModelError, match="ONNX Runtime cannot run it"):
        model.predict(X, 0)


def test_a_fixed_batch_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    model = onnx.load(models["full"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"input x must be .*\(None, 5\)\), got .*\(1, 5\)"):
        supsup.load(tmp_path / "m.onnx")


def test_data_in_other_files_are_not_read(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[6])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")

    def add(model: ModelProto) -> None:
        model.graph.initializer.append(tensor)

    model = onnx.load(models["full"])
    add(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    path = with_forward(models["full"], tmp_path, add)
    for file, place in ((tmp_path / "m.onnx", ""), (path, ": its forward program")):
        message = rf"\.onnx{place}: tensors must have their data in the model, got b'secret'"
        with pytest.raises(ModelError, match=message):
            supsup.load(file)
