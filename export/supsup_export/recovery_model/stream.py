"""Compose a whole Hopfield recovery: the runtime's descent as a Loop over batches.

docs/CONTRACT.md, "Recovering a stream in one call", describes inputs and outputs.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto

from supsup_export.graph import BOOL, FLOAT, INT64, Graph, Value
from supsup_export.recovery_model.step import add_energy, add_network, add_weighted, recovery_info
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.hopfield.metadata import HopfieldInfo, is_blend, with_batch_statistics
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.recovery.descent import Recovery

STRENGTHS = ("entropy_strengths", "energy_strengths")
SETTINGS = ("step_size", "momentum", "weight_decay")


def compose_stream(bank: MaskBank, store: HopfieldStore) -> tuple[ModelProto, ModelInfo]:
    """Return a model of mode ``recover-stream``, and its metadata; see `recovery_info`."""
    info = recovery_info(bank, store, "recover-stream")
    graph, network = Graph(), bank.network
    state = _used_state(graph, network) if network.state else ""
    starts = [graph.length("batches"), graph.constant(True), "scores", "velocity"]
    ends = ["next_scores", "next_velocity", "entropy", "energy", "masks"]
    graph.ops("Loop", starts, ends, body=_body(graph, bank, store, state))
    _mask_of(graph, "next_scores", name="mask")
    flat = [network.num_masked]
    inputs: list[Value] = [
        ("batches", FLOAT, ["steps", "batch", *network.input_shape]),
        *[(name, FLOAT, ["steps"]) for name in STRENGTHS],
        *[(name, FLOAT, flat) for name in ("scores", "velocity")],
        *[(name, FLOAT, []) for name in SETTINGS],
    ]
    # defaults: start at the store's mean, with the paper's settings
    graph.default("scores", HopfieldInfo.of(store).mean)
    graph.default("velocity", np.zeros(flat, np.float32))
    for name in SETTINGS:
        graph.default(name, np.float32(getattr(Recovery(), name)))
    if network.state:
        inputs.append(("state", FLOAT, [network.num_state]))
        running = HopfieldInfo.of(store).state
        graph.default("state", with_batch_statistics(network.state, running))
    outputs: list[Value] = [
        *[(name, FLOAT, flat) for name in ("mask", "next_scores", "next_velocity")],
        *[(name, FLOAT, ["taken"]) for name in ("entropy", "energy")],
        ("masks", BOOL, ["taken", *flat]),
    ]
    return graph.model("supsup", inputs, outputs, info.to_metadata()), info


def _body(outer: Graph, bank: MaskBank, store: HopfieldStore, state: str) -> GraphProto:
    graph, flat = outer.subgraph("step"), [bank.network.num_masked]
    index, go, scores, velocity = map(graph.fresh, ("index", "go", "scores", "velocity"))
    signs, mask = _mask_of(graph, scores)
    energy, energy_gradient = add_energy(graph, store, mask)
    x = graph.op("Gather", "batches", index, axis=0)
    _, entropy, entropy_gradient = add_network(graph, bank, x=x, mask=mask, state=state)
    strengths = [graph.op("Gather", name, index, axis=0) for name in STRENGTHS]
    gradient = add_weighted(graph, strengths, (entropy_gradient, energy_gradient))
    moved = _descend(graph, gradient, scores, velocity)
    fine = _all_finite(graph, (entropy, energy, moved[0]))
    old = (scores, velocity)
    kept = [graph.op("Where", fine, *values) for values in zip(moved, old, strict=True)]
    fine, *kept, entropy, energy, signs = graph.own([fine, *kept, entropy, energy, signs])
    outputs: list[Value] = [(fine, BOOL, []), *((value, FLOAT, flat) for value in kept)]
    outputs += [(entropy, FLOAT, []), (energy, FLOAT, []), (signs, BOOL, flat)]
    return graph.close(
        [(index, INT64, []), (go, BOOL, []), *((value, FLOAT, flat) for value in old)], outputs
    )


def _descend(graph: Graph, gradient: str, scores: str, velocity: str) -> list[str]:
    """Append `recovery.descent.Descent.step`, operation by operation."""
    step_size, momentum, weight_decay = SETTINGS
    slope = graph.op("Add", gradient, graph.op("Mul", weight_decay, scores))
    faster = graph.op("Add", graph.op("Mul", momentum, velocity), slope)
    return [graph.op("Sub", scores, graph.op("Mul", step_size, faster)), faster]


def _all_finite(graph: Graph, values: tuple[str, ...]) -> str:
    """Return whether all values are finite: only then each minus itself is 0."""
    rests = [graph.reshape(graph.op("Sub", value, value), [-1]) for value in values]
    rest = graph.op("ReduceSum", graph.op("Concat", *rests, axis=0), keepdims=0)
    return graph.op("Equal", rest, graph.scalar(0))


def _mask_of(graph: Graph, scores: str, *, name: str = "") -> tuple[str, str]:
    """Return whether scores are at least 0, as bool and float32."""
    signs = graph.op("GreaterOrEqual", scores, graph.scalar(0))
    return signs, graph.op("Cast", signs, name=name, to=FLOAT)


def _used_state(graph: Graph, network: Network) -> str:
    """Return the state; blends are 0 for batches of one row, which have no statistics."""
    blend = is_blend(network.state)
    if not blend.any():
        return "state"
    rows = graph.op("Shape", "batches", start=1, end=2)
    one = graph.op("Equal", rows, graph.ints(1))
    zeroed = graph.op("And", one, graph.constant(blend))
    return graph.op("Where", zeroed, graph.scalar(0), "state")
