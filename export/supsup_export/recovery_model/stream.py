"""The graph of a whole Hopfield recovery: the descent of the runtime as a Loop over batches.

docs/CONTRACT.md, "Recovering a stream in one call", describes inputs and outputs.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from supsup_export.graph import Graph, tensor_info
from supsup_export.recovery_model.parts import add_energy, add_network, add_weighted, recovery_info
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.hopfield.metadata import HopfieldInfo, is_blend, with_batch_statistics
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.recovery.descent import Recovery

__all__ = ["compose_stream"]

STRENGTHS = ("entropy_strengths", "energy_strengths")
SETTINGS = ("step_size", "momentum", "weight_decay")
_FLOAT, _BOOL, _INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def compose_stream(bank: MaskBank, store: HopfieldStore) -> ModelProto:
    """Make the model that recovers a mask from a stream in one call; no task file is read.

    Args:
        bank: Whose network and programs are used.
        store: With at least one task, of the same network.

    Raises:
        BankError: If the bank has no gradient program, the store is of another network or empty,
            or the model would pass 2 GB.
    """
    info = recovery_info(bank, store, "recover-stream")
    graph, network = Graph(), bank.network
    state = _used_state(graph, network) if network.state else ""
    steps = graph.reshape(graph.op("Shape", "batches", start=0, end=1), [])
    starts = [steps, graph.constant(np.array(True)), "scores", "velocity"]
    ends = ["next_scores", "next_velocity", "entropy", "energy", "masks"]
    graph.ops("Loop", starts, ends, body=_body(graph, bank, store, state))
    _mask_of(graph, "next_scores", name="mask")
    _set_defaults(graph, network, HopfieldInfo.of(store))
    return graph.model("supsup", _inputs(network), _outputs(network), info.to_metadata())


def _body(outer: Graph, bank: MaskBank, store: HopfieldStore, state: str) -> GraphProto:
    """A step: look at a batch through the mask of the scores, and move the scores."""
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
    kept = [
        graph.op("Where", fine, new, old)
        for new, old in zip(moved, (scores, velocity), strict=True)
    ]
    outputs = [(fine, _BOOL, []), *((value, _FLOAT, flat) for value in kept)]
    outputs += [(entropy, _FLOAT, []), (energy, _FLOAT, []), (signs, _BOOL, flat)]
    named = graph.own([value for value, _, _ in outputs])
    return graph.close(
        [
            tensor_info(index, _INT64, []),
            tensor_info(go, _BOOL, []),
            tensor_info(scores, _FLOAT, flat),
            tensor_info(velocity, _FLOAT, flat),
        ],
        [
            tensor_info(name, dtype, shape)
            for name, (_, dtype, shape) in zip(named, outputs, strict=True)
        ],
    )


def _descend(graph: Graph, gradient: str, scores: str, velocity: str) -> list[str]:
    """`recovery.descent.Descent.step`, operation by operation: scores and velocity."""
    step_size, momentum, weight_decay = SETTINGS
    slope = graph.op("Add", gradient, graph.op("Mul", weight_decay, scores))
    faster = graph.op("Add", graph.op("Mul", momentum, velocity), slope)
    return [graph.op("Sub", scores, graph.op("Mul", step_size, faster)), faster]


def _all_finite(graph: Graph, values: tuple[str, ...]) -> str:
    """Whether no value of several is NaN or infinite: only then is each 0 less itself."""
    rests = [graph.reshape(graph.op("Sub", value, value), [-1]) for value in values]
    rest = graph.op("ReduceSum", graph.op("Concat", *rests, axis=0), keepdims=0)
    return graph.op("Equal", rest, graph.constant(np.float32(0)))


def _mask_of(graph: Graph, scores: str, *, name: str = "") -> tuple[str, str]:
    """1 where a score is at least 0, else 0, as bool and as float32."""
    signs = graph.op("GreaterOrEqual", scores, graph.constant(np.float32(0)))
    return signs, graph.op("Cast", signs, name=name, to=_FLOAT)


def _used_state(graph: Graph, network: Network) -> str:
    """The state as given; for batches of one row, which have no statistics, with blends of 0."""
    blend = is_blend(network.state)
    if not blend.any():
        return "state"
    rows = graph.op("Shape", "batches", start=1, end=2)
    one = graph.op("Equal", rows, graph.constant(np.array([1], np.int64)))
    zeroed = graph.op("And", one, graph.constant(blend))
    return graph.op("Where", zeroed, graph.constant(np.float32(0)), "state")


def _set_defaults(graph: Graph, network: Network, store: HopfieldInfo) -> None:
    """What a host need not feed: the paper's settings, and a start from the store's mean."""
    paper = Recovery()
    graph.default("scores", store.mean)
    graph.default("velocity", np.zeros(network.num_masked, np.float32))
    for name in SETTINGS:
        graph.default(name, np.float32(getattr(paper, name)))
    if network.state:
        graph.default("state", with_batch_statistics(network.state, store.state))


def _inputs(network: Network) -> list[ValueInfoProto]:
    flat = [network.num_masked]
    inputs = [
        tensor_info("batches", _FLOAT, ["steps", "batch", *network.input_shape]),
        *[tensor_info(name, _FLOAT, ["steps"]) for name in STRENGTHS],
        *[tensor_info(name, _FLOAT, flat) for name in ("scores", "velocity")],
        *[tensor_info(name, _FLOAT, []) for name in SETTINGS],
    ]
    if network.state:
        inputs.append(tensor_info("state", _FLOAT, [network.num_state]))
    return inputs


def _outputs(network: Network) -> list[ValueInfoProto]:
    flat = [network.num_masked]
    return [
        *[tensor_info(name, _FLOAT, flat) for name in ("mask", "next_scores", "next_velocity")],
        *[tensor_info(name, _FLOAT, ["taken"]) for name in ("entropy", "energy")],
        tensor_info("masks", _BOOL, ["taken", *flat]),
    ]
