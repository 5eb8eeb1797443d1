"""The graph of Hopfield recovery: entropy, energy, and the gradient of each by the mask.

One call is one step's worth of numbers (Wortsman et al. 2020, HopSupSup); the runtime takes the
step. docs/CONTRACT.md, "Recovering", describes inputs and outputs.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from supsup_export import layout
from supsup_export.graph import Graph, parse, prune, tensor_info
from supsup_export.inferring import state_tensors
from supsup_runtime.bank import MaskBank
from supsup_runtime.contract import ModelInfo, TaskInfo
from supsup_runtime.errors import BankError
from supsup_runtime.hopfield import HopfieldStore
from supsup_runtime.hopfield_info import HopfieldInfo
from supsup_runtime.network import Network

__all__ = ["compose_recovery"]

OBJECTIVE = "entropy"
STRENGTHS = ("entropy_strength", "energy_strength")
_FLOAT, _FLOAT16, _BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL


def compose_recovery(bank: MaskBank, store: HopfieldStore) -> ModelProto:
    """Make the model that recovers a bank's masks; no task of the bank is read.

    Args:
        bank: Whose network and programs are used.
        store: With at least one task, of the same network.

    Raises:
        BankError: If the bank has no gradient program, the store is of another network or empty,
            or the model would pass 2 GB.
    """
    if bank.gradient is None:
        raise BankError(
            f"{bank.path}: no gradient program, and recovery follows the entropy's gradient; "
            "make the bank of a network whose gradient can be exported"
        )
    if store.digest != bank.digest:
        raise BankError(
            f"{bank.path}: the Hopfield store must be of the network {bank.digest}, got "
            f"{store.digest}; encode the bank's own tasks"
        )
    if not len(store):
        raise BankError(f"{bank.path}: the Hopfield store must have a task; encode one first")
    _refuse_too_large(bank, store)
    info = ModelInfo(
        network=bank.network,
        digest=bank.digest,
        tasks=tuple(
            TaskInfo(index=index, name=task.name, labels=task.labels)
            for index, task in enumerate(store.tasks)
        ),
        objective=OBJECTIVE,
        mode="recover",
        target="portable",
        forward=bank.forward,
        hopfield=HopfieldInfo.of(store),
    )
    return _compose(bank, store, info)


def _refuse_too_large(bank: MaskBank, store: HopfieldStore) -> None:
    element = np.dtype(store.dtype).itemsize
    matrices = sum(element * p.size**2 for p in bank.network.parameters)
    programs = len(bank.forward) * 7 // 3 + len(bank.gradient or b"")  # base64 takes 4 for 3
    if matrices + programs > layout.MAX_MODEL_BYTES:
        raise BankError(
            f"{bank.path}: one ONNX file holds at most {layout.MAX_MODEL_BYTES} bytes, the store's "
            f"matrices and the programs take {matrices + programs}; encode with --dtype float16, "
            "or mask fewer units"
        )


def _compose(bank: MaskBank, store: HopfieldStore, info: ModelInfo) -> ModelProto:
    graph, network = Graph(), bank.network
    energy, energy_gradient = _energy(graph, store)
    logits, entropy, entropy_gradient = _network(graph, bank)

    def weighted(one: str, other: str, name: str) -> str:
        parts = [graph.op("Mul", s, v) for s, v in zip(STRENGTHS, (one, other), strict=True)]
        return graph.op("Add", *parts, name=name)

    weighted(entropy, energy, "loss")
    weighted(entropy_gradient, energy_gradient, "gradient")
    flat = [network.num_masked]
    inputs = [
        tensor_info("x", _FLOAT, ["batch", *network.input_shape]),
        tensor_info("mask", _FLOAT, flat),
        *[tensor_info(name, _FLOAT, []) for name in STRENGTHS],
    ]
    if network.state:
        inputs.append(tensor_info("state", _FLOAT, [network.num_state]))
        if info.hopfield is not None:
            graph.default("state", info.hopfield.state)
    outputs = [
        tensor_info(logits, _FLOAT, ["batch", network.outputs]),
        tensor_info(entropy, _FLOAT, []),
        tensor_info(energy, _FLOAT, []),
        tensor_info(entropy_gradient, _FLOAT, flat),
        tensor_info(energy_gradient, _FLOAT, flat),
        tensor_info("loss", _FLOAT, []),
        tensor_info("gradient", _FLOAT, flat),
    ]
    return graph.model("supsup", inputs, outputs, info.to_metadata())


def _energy(graph: Graph, store: HopfieldStore) -> tuple[str, str]:
    """``-1/2 z^T Psi z``, summed over parameters, and its gradient by the mask ``(z + 1) / 2``."""
    two, one = (graph.constant(np.float32(value)) for value in (2, 1))
    pattern = graph.op("Sub", graph.op("Mul", "mask", two), one)
    parameters = store.network.parameters
    parts = graph.split(pattern, [p.size for p in parameters])
    fields = []
    for p, part in zip(parameters, parts, strict=True):
        scaled = store.matrices[p.name].scaled  # d Psi, which float16 holds as it is stored
        if store.dtype == "float16":  # half the file; ONNX Runtime widens it once, when it loads
            stored = graph.constant(scaled.astype(np.float16), "scaled_psi")
            matrix = graph.op("Cast", stored, to=_FLOAT)
        else:
            matrix = graph.constant(scaled, "scaled_psi")
        row = graph.op("MatMul", graph.reshape(part, [1, p.size]), matrix)  # Psi is symmetric
        row = graph.op("Div", row, graph.constant(np.float32(p.size)))
        fields.append(graph.reshape(row, [p.size]))
    field = fields[0] if len(fields) == 1 else graph.op("Concat", *fields, axis=0)
    product = graph.op("ReduceSum", graph.op("Mul", pattern, field), keepdims=0)
    energy = graph.op("Mul", product, graph.constant(np.float32(-0.5)), name="energy")
    slope = graph.constant(np.float32(-2))  # -Psi z by the pattern, twice that by the mask
    return energy, graph.op("Mul", field, slope, name="energy_gradient")


def _network(graph: Graph, bank: MaskBank) -> tuple[str, str, str]:
    """Logits, entropy, and its gradient by the mask; a batch of no rows runs no network."""
    network = bank.network
    names = [f"{OBJECTIVE}.{p.name}" for p in network.parameters]
    gradient = prune(parse(bank.gradient or b""), names)
    forward = parse(bank.forward)

    def run(body: Graph) -> list[str]:
        feeds = {"x": "x", **_parameters(body, network)}
        if network.state:
            feeds |= state_tensors(body, network, "state")
        logits = body.inline(forward, feeds)["logits"]
        slopes = body.inline(gradient, feeds)
        flat = [body.reshape(slopes[name], [-1]) for name in names]
        whole = flat[0] if len(flat) == 1 else body.op("Concat", *flat, axis=0)
        return [logits, _entropy(body, logits), _times_weights(body, network, whole)]

    def none(body: Graph) -> list[str]:
        shapes = ((0, network.outputs), (), (network.num_masked,))
        return [body.constant(np.zeros(shape, np.float32)) for shape in shapes]

    rows = graph.op("Shape", "x", start=0, end=1)
    some = graph.op("Cast", graph.reshape(rows, []), to=_BOOL)
    outputs = ["logits", "entropy", "entropy_gradient"]
    found = graph.branch(some, run, none, [_FLOAT] * 3, outputs)
    return found[0], found[1], found[2]


def _parameters(graph: Graph, network: Network) -> dict[str, str]:
    """The masked parameters by name: the mask times the fixed weights."""
    masked = _times_weights(graph, network, "mask")
    parts = graph.split(masked, [p.size for p in network.parameters])
    return {
        p.name: graph.reshape(part, p.shape)
        for p, part in zip(network.parameters, parts, strict=True)
    }


def _times_weights(graph: Graph, network: Network, flat: str) -> str:
    weights = np.concatenate([w.reshape(-1) for w in network.weights()])
    if (weights == 1).all():  # units
        return flat
    return graph.op("Mul", flat, graph.constant(weights, "weights"))


def _entropy(graph: Graph, logits: str) -> str:
    """Mean Shannon entropy of the softmax, in nats."""
    log_p = graph.op("LogSoftmax", logits, axis=1)
    terms = graph.op("Mul", graph.op("Softmax", logits, axis=1), log_p)
    by_row = graph.op("ReduceSum", terms, graph.constant(np.array([1], np.int64)), keepdims=0)
    return graph.op("Neg", graph.op("ReduceMean", by_row, keepdims=0))
