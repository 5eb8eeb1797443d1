"""onnx.compose and onnx.utils change a model as they change any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnx.utils
import pytest
from onnx import ModelProto, TensorProto, helper

import supsup_runtime as supsup
from banks import make_bank
from stores import images, store_bank
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery, export_task
from supsup_runtime.errors import ModelError
from supsup_runtime.model.session import Session, open_session

X = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
NONE = {"tasks": np.zeros(0, np.int64), "alphas": np.zeros(0, np.float32)}
FEEDS: dict[str, list[dict[str, Any]]] = {
    "full": [
        {
            "x": X,
            "tasks": np.array([1]),
            "alphas": np.ones(1, np.float32),
            "infer": np.array(False),
        },
        {"x": X, **NONE, "infer": np.array(True)},
        {"x": X, **NONE, "infer": np.array(True), "per_image": np.array(True)},
    ],
    "portable": [{"x": X, **NONE, "infer": np.array(True)}],
    "infer": [{"x": X}],
    "task": [{"x": X}],
    "rounded": [{"x": X[:, 0, :5, :6].reshape(2, 30), **NONE, "infer": np.array(True)}],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    bank = make_bank(folder / "masks", "cnn", outputs=6, real_outputs=4, tasks=3)
    many = make_bank(folder / "many", "mlp-64-48", outputs=20, real_outputs=6, tasks=70)
    units = store_bank(folder / "units")
    requests = {
        "full": (bank, Request()),
        "portable": (bank, Request(target="portable")),
        "infer": (bank, Request(outputs=("task", "task_scores", "logits"))),
        "rounded": (many, Request(scoring="rounded")),
    }
    made = {
        name: export(source, folder / f"{name}.onnx", request=request, check=False).path
        for name, (source, request) in requests.items()
    }
    made["task"] = export_task(bank, "task-1", folder / "task.onnx", check=False).path
    made["recover"] = export_recovery(units, folder / "recover.onnx", check=False).path
    made["stream"] = export_recovery(units, folder / "s.onnx", stream=True, check=False).path
    network, rng = units.network, np.random.default_rng(0)
    x, mask = images(4), rng.random(network.num_masked, np.float32)
    strengths = {f"{name}_strength": np.array(0.5, np.float32) for name in ("entropy", "energy")}
    state = rng.random(network.num_state, np.float32)
    FEEDS["recover"] = [{"x": x, "mask": mask, "state": state, **strengths}]
    shares = {f"{name}_strengths": np.ones(2, np.float32) for name in ("entropy", "energy")}
    FEEDS["stream"] = [{"batches": np.stack([x, x]), **shares}]
    return made


KINDS = ("full", "portable", "infer", "rounded", "task", "recover", "stream")


def session_of(model: ModelProto) -> Session:
    onnx.checker.check_model(model)
    return open_session(model.SerializeToString(), place="m")


@pytest.mark.parametrize("kind", KINDS)
def test_prefixed_models_answer_as_before(models: dict[str, Path], kind: str) -> None:
    prefixed = session_of(onnx.compose.add_prefix(onnx.load(models[kind]), "p/"))
    session = open_session(models[kind], place="m")
    for feeds in FEEDS[kind]:
        want = session.run(session.output_names, feeds)
        named = {f"p/{name}": value for name, value in feeds.items()}
        got = prefixed.run([f"p/{name}" for name in session.output_names], named)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_each_output_can_be_extracted(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    session, path = open_session(models[kind], place="m"), tmp_path / "one.onnx"
    inputs = [value.name for value in onnx.load(models[kind]).graph.input]
    for name in session.output_names:
        onnx.utils.extract_model(models[kind], path, inputs, [name])
        extracted = open_session(path, place="m")
        for feeds in FEEDS[kind]:
            want = session.run([name], feeds)[0]
            np.testing.assert_array_equal(extracted.run([name], feeds)[0], want)


def model_of(op: str, *, output: str) -> ModelProto:
    """A normaliser ``(x - 1) / 2``, or a softmax."""
    shape: list[str | int] = ["batch", 1, 8, 8] if op == "normalise" else ["batch", 6]
    nodes = [
        helper.make_node("Sub", ["x", "one"], ["away"]),
        helper.make_node("Div", ["away", "two"], [output]),
    ]
    if op == "softmax":
        nodes = [helper.make_node("Softmax", ["x"], [output], axis=1)]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", output)]
    numbers = [
        helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("one", 1), ("two", 2))
    ]
    graph = helper.make_graph(nodes, op, infos[:1], infos[1:], numbers * (op == "normalise"))
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_normaliser_in_front_answers_right_or_is_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """A task's weights run through the forward program, which has no normaliser."""
    first = model_of("normalise", output="normal")
    merged = onnx.compose.merge_models(first, onnx.load(models["full"]), [("normal", "x")])
    path = tmp_path / "merged.onnx"
    onnx.save(merged, path)
    plain, model = supsup.load(models["full"]), supsup.load(path, cache_bytes=0)
    for given in ({"task": 1}, {}, {"per_image": True}):
        want = plain.predict((X - np.float32(1)) / np.float32(2), **given)
        got = model.predict(X, **given)
        np.testing.assert_array_equal(got.logits, want.logits)
        assert got.tasks == want.tasks
    model = supsup.load(path)
    with pytest.raises(ModelError, match=r"must compute the same logits.*load with cache_bytes=0"):
        model.predict(X, 1)
    assert supsup.load(models["full"]).predict(X, 1).tasks


def test_a_softmax_behind_is_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    model, last = onnx.load(models["full"]), model_of("softmax", output="p")
    last = onnx.compose.add_prefix(last, "s_")
    path = tmp_path / "merged.onnx"
    onnx.save(onnx.compose.merge_models(model, last, [("logits", "s_x")]), path)
    with pytest.raises(ModelError, match=r"outputs must be .*'logits'.*got .*'s_p'"):
        supsup.load(path)


def test_other_names_are_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "prefixed.onnx"
    onnx.save(onnx.compose.add_prefix(onnx.load(models["full"]), "p_"), path)
    with pytest.raises(ModelError, match=r"inputs must be .*'x'.*got .*'p_x'"):
        supsup.load(path)


def test_an_extracted_model_has_no_metadata(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    inputs = ["x", "tasks", "alphas", "infer", "per_image"]
    onnx.utils.extract_model(models["full"], path, inputs, ["logits"])
    with pytest.raises(ModelError, match=r"not a supsup model: metadata org\.supsup\.contract"):
        supsup.load(path)


def names_in_bodies(model: ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from (value for inner in attribute.g.node for value in inner.input)


@pytest.mark.parametrize("kind", KINDS)
def test_no_body_reads_an_initializer(models: dict[str, Path], kind: str) -> None:
    model = onnx.load(models[kind])
    inputs = {value.name for value in model.graph.input}
    initializers = {tensor.name for tensor in model.graph.initializer}
    assert not (initializers - inputs) & set(names_in_bodies(model))
