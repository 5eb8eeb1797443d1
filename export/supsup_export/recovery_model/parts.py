"""Graph parts of Hopfield recovery: entropy, energy, and the gradient of each by the mask.

Wortsman et al. 2020, HopSupSup. A model that recovers step by step is made of them, and one that
recovers a whole stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from supsup_export.bank_model import layout
from supsup_export.bank_model.inference import state_tensors
from supsup_export.graph import Graph, parse, prune
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import Mode, ModelInfo, TaskInfo

__all__ = ["OBJECTIVE", "add_energy", "add_network", "add_weighted", "recovery_info"]

OBJECTIVE = "entropy"
_FLOAT = TensorProto.FLOAT


def recovery_info(bank: MaskBank, store: HopfieldStore, mode: Mode) -> ModelInfo:
    """What a model that recovers a bank's masks says of itself; no task of the bank is read.

    Args:
        bank: Whose network and programs are used.
        store: With at least one task, of the same network.
        mode: What the model is for.

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
    return ModelInfo(
        network=bank.network,
        digest=bank.digest,
        tasks=tuple(
            TaskInfo(index=index, name=task.name, labels=task.labels)
            for index, task in enumerate(store.tasks)
        ),
        objective=OBJECTIVE,
        mode=mode,
        target="portable",
        forward=bank.forward,
        hopfield=HopfieldInfo.of(store),
    )


def add_energy(
    graph: Graph, store: HopfieldStore, mask: str, *, names: Sequence[str] = ("", "")
) -> tuple[str, str]:
    """``-1/2 z^T Psi z``, summed over parameters, and its gradient by the mask ``(z + 1) / 2``.

    Args:
        graph: Receives the nodes.
        store: Whose matrices become constants.
        mask: ``float32 (num_masked,)``.
        names: Of the two values; fresh ones if empty.

    Returns:
        Energy ``float32 ()`` and gradient ``float32 (num_masked,)``.
    """
    two, one = (graph.constant(np.float32(value)) for value in (2, 1))
    pattern = graph.op("Sub", graph.op("Mul", mask, two), one)
    parameters = store.network.parameters
    parts = graph.split(pattern, [p.size for p in parameters])
    fields = []
    for p, part in zip(parameters, parts, strict=True):
        scaled = store.matrices[p.name].scaled  # d Psi, which float16 holds as it is stored
        if store.dtype == "float16":  # half the file; ONNX Runtime widens it once, when it loads
            stored = graph.constant(scaled.astype(np.float16), "scaled_psi")
            matrix = graph.outermost.op("Cast", stored, to=_FLOAT)
        else:
            matrix = graph.constant(scaled, "scaled_psi")
        row = graph.op("MatMul", graph.reshape(part, [1, p.size]), matrix)  # Psi is symmetric
        row = graph.op("Div", row, graph.constant(np.float32(p.size)))
        fields.append(graph.reshape(row, [p.size]))
    field = fields[0] if len(fields) == 1 else graph.op("Concat", *fields, axis=0)
    product = graph.op("ReduceSum", graph.op("Mul", pattern, field), keepdims=0)
    energy = graph.op("Mul", product, graph.constant(np.float32(-0.5)), name=names[0])
    slope = graph.constant(np.float32(-2))  # -Psi z by the pattern, twice that by the mask
    return energy, graph.op("Mul", field, slope, name=names[1])


def add_network(graph: Graph, bank: MaskBank, *, x: str, mask: str, state: str) -> list[str]:
    """The bank's programs, run on a batch of at least one row.

    Args:
        graph: Receives the nodes.
        bank: With a gradient program.
        x: ``float32 (batch, *input_shape)``.
        mask: ``float32 (num_masked,)``.
        state: ``float32 (num_state,)``; not looked at where the network has none.

    Returns:
        Logits ``float32 (batch, outputs)``, their mean entropy ``float32 ()``, and its gradient
        by the mask ``float32 (num_masked,)``.
    """
    network = bank.network
    names = [f"{OBJECTIVE}.{p.name}" for p in network.parameters]
    feeds = {"x": x, **_parameters(graph, network, mask)}
    if network.state:
        feeds |= state_tensors(graph, network, state)
    logits = graph.inline(parse(bank.forward), feeds)["logits"]
    slopes = graph.inline(prune(parse(bank.gradient or b""), names), feeds)
    flat = [graph.reshape(slopes[name], [-1]) for name in names]
    whole = flat[0] if len(flat) == 1 else graph.op("Concat", *flat, axis=0)
    return [logits, _entropy(graph, logits), _times_weights(graph, network, whole)]


def add_weighted(
    graph: Graph, strengths: Sequence[str], values: Sequence[str], *, name: str = ""
) -> str:
    """The sum of two values, each times its strength ``float32 ()``."""
    parts = [graph.op("Mul", s, v) for s, v in zip(strengths, values, strict=True)]
    return graph.op("Add", *parts, name=name)


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


def _parameters(graph: Graph, network: Network, mask: str) -> dict[str, str]:
    """The masked parameters by name: the mask times the fixed weights."""
    masked = _times_weights(graph, network, mask)
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
