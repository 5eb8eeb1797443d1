"""Compose a step of Hopfield recovery (Wortsman et al. 2020, HopSupSup).

docs/CONTRACT.md, "Recovering", describes inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto

from supsup_export.graph import FLOAT, Graph, Value, refuse_large
from supsup_export.programs import program_of
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import Mode, ModelInfo, described

OBJECTIVE = "entropy"
STRENGTHS = ("entropy_strength", "energy_strength")


def compose_recovery(bank: MaskBank, store: HopfieldStore) -> tuple[ModelProto, ModelInfo]:
    """Return a model of mode ``recover``, and its metadata; see `recovery_info`."""
    info = recovery_info(bank, store, "recover")
    graph, network = Graph(), bank.network
    energy, energy_gradient = add_energy(graph, store, "mask", names=("energy", "energy_gradient"))

    def run(body: Graph) -> list[str]:
        return add_network(body, bank, x="x", mask="mask", state="state")

    names = ["logits", "entropy", "entropy_gradient"]
    shapes = ((0, network.outputs), (), (network.num_masked,))
    logits, entropy, entropy_gradient = graph.if_rows("x", run, shapes, names)
    add_weighted(graph, STRENGTHS, (entropy, energy), name="loss")
    add_weighted(graph, STRENGTHS, (entropy_gradient, energy_gradient), name="gradient")
    flat = [network.num_masked]
    inputs: list[Value] = [
        ("x", FLOAT, ["batch", *network.input_shape]),
        ("mask", FLOAT, flat),
        *[(name, FLOAT, []) for name in STRENGTHS],
    ]
    if network.state:
        inputs.append(("state", FLOAT, [network.num_state]))
        graph.default("state", HopfieldInfo.of(store).state)
    outputs: list[Value] = [
        (logits, FLOAT, ["batch", network.outputs]),
        *[(name, FLOAT, []) for name in (entropy, energy)],
        *[(name, FLOAT, flat) for name in (entropy_gradient, energy_gradient)],
        ("loss", FLOAT, []),
        ("gradient", FLOAT, flat),
    ]
    return graph.model("supsup", inputs, outputs, info.to_metadata()), info


def recovery_info(bank: MaskBank, store: HopfieldStore, mode: Mode) -> ModelInfo:
    """Return the metadata of a recovery model, without reading a task.

    Raises:
        BankError: If the bank has no gradient program, the store is empty or of another network, or
            the model would exceed 2 GB.
    """
    if bank.gradient is None:
        raise BankError(
            f"{bank.path}: no gradient program, which recovery requires; create the bank from a "
            "network whose gradient can be exported"
        )
    if store.digest != bank.digest:
        raise BankError(
            f"{bank.path}: the Hopfield store must belong to network {bank.digest}, got "
            f"{store.digest}; encode the bank's own tasks"
        )
    if not len(store):
        raise BankError(f"{bank.path}: the Hopfield store is empty; encode a task first")
    size = np.dtype(store.dtype).itemsize * sum(p.size**2 for p in bank.network.parameters)
    size += len(bank.forward) * 7 // 3 + len(bank.gradient)  # base64: 4 bytes for 3
    what = f"the store's matrices and the programs take {size}"
    refuse_large(bank.path, size, f"{what}; encode with --dtype float16, or mask fewer units")
    return ModelInfo(
        network=bank.network,
        digest=bank.digest,
        tasks=described(bank.network, ((task.name, task.labels, {}) for task in store.tasks)),
        objective=OBJECTIVE,
        mode=mode,
        target="portable",
        forward=bank.forward,
        hopfield=HopfieldInfo.of(store),
    )


def add_energy(
    graph: Graph, store: HopfieldStore, mask: str, *, names: Sequence[str] = ("", "")
) -> tuple[str, str]:
    """Append the energy ``-1/2 z^T Psi z`` of all parameters, and its gradient by `mask`.

    `mask` is ``(z + 1) / 2``, ``float32 (num_masked,)``. Matrices become constants.

    Returns:
        Energy ``float32 ()`` and gradient ``float32 (num_masked,)``.
    """
    two, one = graph.scalar(2), graph.scalar(1)
    pattern = graph.op("Sub", graph.op("Mul", mask, two), one)
    parameters = store.network.parameters
    parts = graph.split(pattern, [p.size for p in parameters])
    fields = []
    for p, part in zip(parameters, parts, strict=True):
        scaled = store.matrices[p.name].scaled  # d Psi; float16 stores are exact
        if store.dtype == "float16":  # half the file; cast once, at load
            stored = graph.constant(scaled.astype(np.float16), "scaled_psi")
            matrix = graph.outermost.op("Cast", stored, to=FLOAT)
        else:
            matrix = graph.constant(scaled, "scaled_psi")
        row = graph.op("MatMul", graph.reshape(part, [1, p.size]), matrix)  # Psi is symmetric
        row = graph.op("Div", row, graph.scalar(p.size))
        fields.append(graph.reshape(row, [p.size]))
    field = graph.join(fields)
    product = graph.op("ReduceSum", graph.op("Mul", pattern, field), keepdims=0)
    energy = graph.op("Mul", product, graph.scalar(-0.5), name=names[0])
    slope = graph.scalar(-2)  # -Psi z by the pattern, twice that by the mask
    return energy, graph.op("Mul", field, slope, name=names[1])


def add_network(graph: Graph, bank: MaskBank, *, x: str, mask: str, state: str) -> list[str]:
    """Append the bank's programs on a batch of at least one row.

    `x` is ``float32 (batch, *input_shape)``, `mask` ``float32 (num_masked,)``, `state` ``float32
    (num_state,)`` if there is any.

    Returns:
        Logits ``float32 (batch, outputs)``, mean entropy ``float32 ()``, and its gradient by the
            mask ``float32 (num_masked,)``.
    """
    network = bank.network
    names = [f"{OBJECTIVE}.{p.name}" for p in network.parameters]
    feeds = {"x": x} | graph.cut(_times_weights(graph, network, mask), network.parameters)
    feeds |= graph.cut(state, network.state)
    logits = graph.inline(program_of(bank, "forward", ["logits"]), feeds)["logits"]
    slopes = graph.inline(program_of(bank, "gradient", names), feeds)
    slope = graph.join([graph.reshape(slopes[name], [-1]) for name in names])
    return [logits, _entropy(graph, logits), _times_weights(graph, network, slope)]


def add_weighted(
    graph: Graph, strengths: Sequence[str], values: Sequence[str], *, name: str = ""
) -> str:
    """Append the sum of two values times their strengths ``float32 ()``."""
    parts = [graph.op("Mul", s, v) for s, v in zip(strengths, values, strict=True)]
    return graph.op("Add", *parts, name=name)


def _times_weights(graph: Graph, network: Network, flat: str) -> str:
    weights = np.concatenate([w.reshape(-1) for w in network.weights()])
    if (weights == 1).all():  # masks over units
        return flat
    return graph.op("Mul", flat, graph.constant(weights, "weights"))


def _entropy(graph: Graph, logits: str) -> str:
    log_p = graph.op("LogSoftmax", logits, axis=1)
    terms = graph.op("Mul", graph.op("Softmax", logits, axis=1), log_p)
    by_row = graph.op("ReduceSum", terms, graph.ints(1), keepdims=0)
    return graph.op("Neg", graph.op("ReduceMean", by_row, keepdims=0))
