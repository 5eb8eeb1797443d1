from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from banks import make_bank
from conftest import random_task
from networks import NETWORKS, make_network
from supsup_export.exporter import export_task
from supsup_export.task_model import parity as single_parity
from supsup_export.task_model.compose import _Linear
from supsup_export.task_model.parity import NUM_INPUTS, Stored
from supsup_export.task_model.ternary import block_size, pack_codes, ternary, unpack_codes
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.network import MaskedParameter, Network
from supsup_runtime.errors import (
    BankError,
    ParityError,
)
from supsup_runtime.model.session import open_session
from supsup_train.networks.create_bank import create_bank
from supsup_train.programs.programs import ProgramError

Tensors = dict[str, npt.NDArray[np.float32]]
MODELS = ["mlp-7-9", "cnn", "lenet-300-100"]


@pytest.fixture
def real_bank(tmp_path: Path) -> MaskBank:
    return make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=5)


def masked(bank: MaskBank, name: str) -> Tensors:
    task = bank.task(name)
    weights = zip(bank.network.parameters, bank.network.weights(), strict=True)
    tensors: Tensors = {p.name: w * unpack_mask(task.masks[p.name], p.shape) for p, w in weights}
    return {**tensors, **task.state}


def reference(bank: MaskBank, name: str, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = open_session(bank.forward, place="forward")
    logits: npt.NDArray[np.float32] = session.run(["logits"], {"x": x, **masked(bank, name)})[0]
    return logits


def answer(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = open_session(path, place=str(path))
    logits: npt.NDArray[np.float32] = session.run(["logits"], {"x": x})[0]
    return logits


def inputs(bank: MaskBank, batch: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(batch)
    return rng.standard_normal((batch, *bank.network.input_shape)).astype(np.float32)


def int8_bound(bank: MaskBank, name: str, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the largest error of each logit of a perceptron by int8 rounding.

    A layer's input has the error of the layer before, which ReLU does not increase, and half a
    rounding step, peak / 254. Both are multiplied by the weights' magnitudes.
    """
    hidden, error = x.astype(np.float64), np.zeros(x.shape)
    for weight in masked(bank, name).values():
        peak = (np.abs(hidden) + error).max(axis=1, keepdims=True)  # of a row, at least a block's
        error = (error + peak / 254) @ np.abs(weight.T) + 1e-5
        hidden = np.maximum(hidden @ weight.T, 0)
    return error


@given(
    signs=hnp.arrays(
        np.int8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.integers(-1, 1)
    ),
    block=st.sampled_from([4, 16, 32, 64, 128]),
)
def test_unpack_inverts_pack(signs: npt.NDArray[np.int8], block: int) -> None:
    packed = pack_codes(signs, block)
    assert packed.shape == (len(signs), -(-signs.shape[1] // block), block // 4)
    np.testing.assert_array_equal(unpack_codes(packed, signs.shape[1]), signs)
    whole = unpack_codes(packed, packed[0].size * 4)
    assert not whole[:, signs.shape[1] :].any()


def test_codes_are_little_end_first() -> None:
    packed = pack_codes(np.array([[-1, 0, 1, 1, 1]], np.int8), 8)
    assert packed.tobytes() == bytes([0b11_11_10_01, 0b10_10_10_11])


@pytest.mark.parametrize(
    ("columns", "block"),
    [
        *[(1, 32), (5, 32), (32, 32), (33, 64), (64, 64), (97, 128), (128, 128), (129, 64)],
        *[(300, 128), (784, 128), (1024, 128)],
    ],
)
def test_blocks_are_wide_where_little_is_padded(columns: int, block: int) -> None:
    assert block_size(columns) == block


def test_weights_of_another_kind_have_no_two_bits() -> None:
    weight = np.array([0.5, -0.5, 0.25], np.float32)
    with pytest.raises(BankError, match=r"weights of 'fc' must all be \+-0.5 to fit two bits; ex"):
        ternary("fc", weight, np.ones(3, np.bool_), 0.5)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("model", MODELS)
def test_float32_is_the_forward_program(tmp_path: Path, model: str, batch: int) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=7, real_outputs=4, tasks=2)
    report = export_task(bank, "task-1", tmp_path / "one.onnx")
    x = inputs(bank, batch)
    got, want = answer(report.path, x), reference(bank, "task-1", x)
    # The same float32 operators; constant weights are laid out for other loops.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    assert report.parity is not None
    assert report.parity.logits <= 1e-5
    assert report.parity.same_labels == NUM_INPUTS


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("model", ["mlp-7-9", "lenet-300-100"])
def test_two_bits_differ_by_rounding_alone(tmp_path: Path, model: str, batch: int) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=7, real_outputs=4, tasks=2)
    report = export_task(bank, "task-1", tmp_path / "one.onnx", bits=2)
    x = inputs(bank, batch)
    got, want = answer(report.path, x), reference(bank, "task-1", x)
    assert (np.abs(got - want) <= int8_bound(bank, "task-1", x)).all()
    # Rounding errors of many terms cancel; 1e-2 is what is seen.
    assert np.abs(got - want).max() <= 3e-2 * np.abs(want).max()


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_two_bit_convolutions_are_exact(tmp_path: Path, batch: int) -> None:
    """Only the linear head rounds: without its level the model computes in float32."""
    bank = make_bank(tmp_path / "masks", "cnn", outputs=7, real_outputs=4, tasks=2)
    path = export_task(bank, "task-1", tmp_path / "one.onnx", bits=2).path
    x = inputs(bank, batch)
    want = reference(bank, "task-1", x)
    assert np.abs(answer(path, x) - want).max() <= 3e-2 * np.abs(want).max()
    model = onnx.load(path)
    for node in model.graph.node:
        kept = [a for a in node.attribute if a.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    onnx.save(model, path)
    np.testing.assert_allclose(answer(path, x), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("bits", [2, 32])
@pytest.mark.parametrize("model", MODELS)
def test_the_model_is_plain(tmp_path: Path, model: str, bits: int) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=7, real_outputs=4, tasks=2)
    report = export_task(bank, "task-0", tmp_path / "one.onnx", bits=bits)
    assert report.model_bytes == report.path.stat().st_size
    loaded = onnx.load(report.path, load_external_data=False)
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.ir_version == 8
    opsets = {o.domain: o.version for o in loaded.opset_import}
    assert opsets == ({"": 18} if bits == 32 else {"": 18, "com.microsoft": 1})
    assert not loaded.functions
    assert not any(t.external_data for t in loaded.graph.initializer)
    session = open_session(report.path, place="one.onnx")
    assert (session.input_names, session.output_names) == (("x",), ("logits",))


@pytest.mark.parametrize("bits", [2, 32])
def test_equal_banks_give_equal_bytes(tmp_path: Path, bits: int) -> None:
    written = []
    for name in ("a", "b"):
        bank = make_bank(tmp_path / name, "cnn", outputs=6, real_outputs=4, tasks=2)
        path = export_task(bank, "task-1", tmp_path / f"{name}.onnx", bits=bits).path
        written.append(path.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["fc", "signal", "transformer", "gru"])
def test_every_kind_of_layer(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed weights, biases, convolutions, transposed ones, attention, recurrence, state."""

    def refused(*_: object) -> NoReturn:
        raise ProgramError("no gradient: a model of one task has none, and it takes the most time")

    monkeypatch.setattr("supsup_train.programs.programs._differentiate", refused)
    network = NETWORKS[name]
    bank = create_bank(
        tmp_path / "masks",
        make_network(name),
        input_shape=network.input_shape,
        real_outputs=network.real_outputs,
        require_gradient=False,
    )
    task = random_task(bank.network, "one")
    state = {key: np.abs(value) + np.float32(0.5) for key, value in task.state.items()}
    bank.add(type(task)(name="one", masks=task.masks, state=state))
    sizes = {}
    for bits in (32, 2):
        report = export_task(bank, "one", tmp_path / f"{bits}.onnx", bits=bits)
        sizes[bits] = report.model_bytes
        products = str(onnx.load(report.path).graph).count('op_type: "MatMulNBits"')
        assert (products > 0) == (bits == 2)
    if name == "fc":
        assert sizes[2] <= sizes[32] / 14


def test_convolutions_are_plain_once_loaded(tmp_path: Path) -> None:
    import onnxruntime

    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=1)
    path = export_task(bank, "task-0", tmp_path / "one.onnx", bits=2).path
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert {"Conv", "MatMulNBits"} <= operators
    assert not operators & {"Gather", "Cast", "Expand"}


_PROGRAMS = {
    "as it is": ("v = MatMul (x, w)", (5, 6), 1),
    "transposed twice": (
        "t = Transpose (w)  u = Transpose <perm = [1, 0]> (t)  v = MatMul (x, u)",
        (5, 6),
        1,
    ),
    "gemm with a bias": ("v = Gemm <transB = 1> (x, w, b)", (6, 5), 1),
    "gemm of columns": ("v = Gemm (x, w, b)", (5, 6), 1),
    "gemm that scales": ("v = Gemm <alpha = 2.0> (x, w)", (5, 6), 0),
    "gemm that scales its bias": ("v = Gemm <beta = 2.0> (x, w, b)", (5, 6), 0),
    "gemm of x's transpose": (
        "t = Transpose (x)  v = Gemm <transA = 1, transB = 1> (t, w)",
        (6, 5),
        0,
    ),
    "on the left": (
        "t = Transpose (x)  u = MatMul (w, t)  v = Transpose (u)",
        (6, 5),
        0,
    ),
    "twice, once as numbers": (
        "p = MatMul (x, w)  s = ReduceSum <keepdims = 0> (w)  v = Add (p, s)",
        (5, 6),
        1,
    ),
    "with itself": ("t = Transpose (w)  u = MatMul (w, t)  v = MatMul (x, u)", (5, 6), 0),
}


def written_program(tmp_path: Path, code: str, shape: tuple[int, int]) -> MaskBank:
    """Return a bank of a program in ONNX text, with a parameter `w` and an unused one."""
    rows, columns = shape
    outputs = 5 if rows == columns or "MatMul (w, t)  v = MatMul" in code else 6
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    program (float[batch, 5] x, float[{rows}, {columns}] w, float[3] spare)
        => (float[batch, {outputs}] logits)
    <float[6] b = {{1, 2, 3, 4, 5, 6}}> {{ {code}  logits = Relu (v) }}"""
    program: onnx.ModelProto = onnx.parser.parse_model(text)
    network = Network(
        weight_seed=1,
        input_shape=(5,),
        outputs=outputs,
        real_outputs=2,
        parameters=(
            MaskedParameter.signed_kaiming("w", shape),
            MaskedParameter.signed_kaiming("spare", (3,)),
        ),
    )
    bank = MaskBank.create(tmp_path / "masks", network, forward=program.SerializeToString())
    bank.add(random_task(network, "one"))
    return bank


@pytest.mark.parametrize("bits", [2, 32])
@pytest.mark.parametrize("form", _PROGRAMS)
def test_every_form_of_product(tmp_path: Path, form: str, bits: int) -> None:
    code, shape, products = _PROGRAMS[form]
    bank = written_program(tmp_path, code, shape)
    path = export_task(bank, "one", tmp_path / "one.onnx", bits=bits).path
    x = inputs(bank, 3)
    want = reference(bank, "one", x)
    tolerance = 3e-2 if products and bits == 2 else 1e-6
    np.testing.assert_allclose(answer(path, x), want, rtol=0, atol=tolerance * np.abs(want).max())
    graph = onnx.load(path).graph
    assert sum(node.op_type == "MatMulNBits" for node in graph.node) == products * (bits == 2)
    assert not any("spare" in tensor.name for tensor in graph.initializer)


def refused(bank: MaskBank, path: Path, message: str, *, bits: int) -> None:
    path.write_text("precious")
    name = bank.task_names[0]
    with pytest.raises(ParityError, match=f"the model.s results differ from the bank.s: {message}"):
        export_task(bank, name, path, bits=bits, force=True)
    assert path.read_text() == "precious"
    assert [p.name for p in path.parent.iterdir() if "part" in p.name] == []
    report = export_task(bank, name, path, bits=bits, force=True, check=False)
    assert report.parity is None


def test_the_check_sees_wrong_weights(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "supsup_export.task_model.compose.unpack_mask",
        lambda _bits, shape: np.ones(shape, np.bool_),
    )
    refused(real_bank, tmp_path / "one.onnx", "logits differs by .*, allowed 1.0e-04", bits=32)
    refused(real_bank, tmp_path / "one.onnx", "the codes of 'layers.0.weight' differ", bits=2)


def test_the_check_sees_wrong_folded_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=1)
    monkeypatch.setattr("supsup_export.task_model.ternary._CODES", np.ones((256, 4), np.float32))
    refused(bank, tmp_path / "one.onnx", "the weights of 'stem.weight' differ", bits=2)


def test_the_check_sees_a_product_with_the_transpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right codes in the wrong place: a square weight fits either way."""

    def flipped(self: _Linear, node: onnx.NodeProto) -> tuple[str, bool] | None:
        found = weight_of(self, node)
        return found and (found[0], not found[1])

    bank = written_program(tmp_path, "v = MatMul (x, w)", (5, 5))
    weight_of = _Linear.weight_of
    monkeypatch.setattr(_Linear, "weight_of", flipped)
    refused(bank, tmp_path / "one.onnx", "logits with float32 activations differs by", bits=2)


def test_the_check_sees_more_than_rounding() -> None:
    """An error of one step in one activation exceeds the bound of half a step in each."""
    left = np.array([[127.0, 0.0]], np.float32)
    weight = np.array([[0.0, 1.0]], np.float32)
    node = onnx.helper.make_node("MatMulNBits", ["x"], ["y"], block_size=32)
    item = Stored(parameter="w", value="y", codes="c", left="x")
    for got, failures in ((0.4, 0), (0.6, 1), (np.nan, 1)):
        values = {"x": left, "y": np.array([[got]], np.float32)}
        assert len(single_parity._check_product(item, node, values, weight)) == failures
