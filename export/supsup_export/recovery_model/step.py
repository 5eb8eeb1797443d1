"""The graph of one step of Hopfield recovery: what is to be known of a batch and a mask.

The runtime takes the step. docs/CONTRACT.md, "Recovering", describes inputs and outputs.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto

from supsup_export.graph import Graph, tensor_info
from supsup_export.recovery_model.parts import add_energy, add_network, add_weighted, recovery_info
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.hopfield.store import HopfieldStore

__all__ = ["compose_recovery"]

STRENGTHS = ("entropy_strength", "energy_strength")
_FLOAT, _BOOL = TensorProto.FLOAT, TensorProto.BOOL


def compose_recovery(bank: MaskBank, store: HopfieldStore) -> ModelProto:
    """Make the model that recovers a bank's masks; no task of the bank is read.

    Args:
        bank: Whose network and programs are used.
        store: With at least one task, of the same network.

    Raises:
        BankError: If the bank has no gradient program, the store is of another network or empty,
            or the model would pass 2 GB.
    """
    info = recovery_info(bank, store, "recover")
    graph, network = Graph(), bank.network
    energy, energy_gradient = add_energy(graph, store, "mask", names=("energy", "energy_gradient"))
    logits, entropy, entropy_gradient = _network(graph, bank)
    add_weighted(graph, STRENGTHS, (entropy, energy), name="loss")
    add_weighted(graph, STRENGTHS, (entropy_gradient, energy_gradient), name="gradient")
    flat = [network.num_masked]
    inputs = [
        tensor_info("x", _FLOAT, ["batch", *network.input_shape]),
        tensor_info("mask", _FLOAT, flat),
        *[tensor_info(name, _FLOAT, []) for name in STRENGTHS],
    ]
    if network.state:
        inputs.append(tensor_info("state", _FLOAT, [network.num_state]))
        graph.default("state", HopfieldInfo.of(store).state)
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


def _network(graph: Graph, bank: MaskBank) -> tuple[str, str, str]:
    """Logits, entropy, and its gradient by the mask; a batch of no rows runs no network."""
    network = bank.network

    def run(body: Graph) -> list[str]:
        return add_network(body, bank, x="x", mask="mask", state="state")

    def none(body: Graph) -> list[str]:
        shapes = ((0, network.outputs), (), (network.num_masked,))
        return [body.constant(np.zeros(shape, np.float32)) for shape in shapes]

    rows = graph.op("Shape", "x", start=0, end=1)
    some = graph.op("Cast", graph.reshape(rows, []), to=_BOOL)
    outputs = ["logits", "entropy", "entropy_gradient"]
    found = graph.branch(some, run, none, [_FLOAT] * 3, outputs)
    return found[0], found[1], found[2]
