"""Graph parts that turn packed masks into weights (select, then unpack).

A row is gathered before it is unpacked: ONNX Runtime would fold an unpacked bank into 32 bits a
weight at load. Unpacking is a lookup table of 256 x 8, which every provider has.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from supsup_export.bank_model.layout import BLOCK_BYTES, ROW_BITS, Layout
from supsup_export.graph import Graph
from supsup_runtime.bank.network import Network

__all__ = [
    "Weights",
    "fixed_weights",
    "packed_part",
    "packed_rows",
    "state_of",
    "superposed_mask",
    "superposed_weights",
    "uniform_mask",
    "unpack",
]

_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (byte, bit), least significant first


class Weights:
    """The fixed random weights as values of a graph.

    Attributes:
        flat: ``float32 (num_masked,)``.
        network: Shapes and order of the parameters.
    """

    def __init__(self, flat: str, network: Network) -> None:
        self.flat = flat
        self.network = network

    def masked(self, graph: Graph, mask: str, name: str | None = None) -> str:
        """``float32 (num_masked,)``: the weights times a flat mask."""
        return graph.op("Mul", mask, self.flat, name=name)

    def tensors(self, graph: Graph, flat: str) -> dict[str, str]:
        """Cut a flat value into the parameters by name, each in its shape."""
        parameters = self.network.parameters
        if not parameters:
            return {}
        parts = graph.split(flat, [p.size for p in parameters])
        return {
            p.name: graph.reshape(part, p.shape) for p, part in zip(parameters, parts, strict=True)
        }


def packed_part(graph: Graph, layout: Layout, part: int) -> str:
    """One of `Layout.parts`, once in a model: ``uint8 (tasks, blocks, 32)``."""
    masks = layout.masks.reshape(len(layout.masks), -1, BLOCK_BYTES)
    if len(layout.parts) > 1:
        masks = masks[:, layout.parts[part]]
    return graph.constant(masks, "masks")


def packed_rows(graph: Graph, layout: Layout, tasks: str) -> str:
    """The packed masks of some tasks: ``uint8 (n, blocks, 32)``, blocks in the weights' order."""
    parts = [
        graph.op("Gather", packed_part(graph, layout, i), tasks, axis=0)
        for i in range(len(layout.parts))
    ]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(layout.parts))
    joined = graph.op("Concat", *parts, axis=1)
    return graph.op("Gather", joined, graph.constant(order), axis=1)


def unpack(graph: Graph, packed: str) -> str:
    """``uint8 (rows, blocks, 32)`` to ``float32 (rows, 256 * blocks)``; any number of rows."""
    table = graph.constant(_BITS.astype(np.float32), "bits")
    index = graph.op("Cast", packed, to=TensorProto.INT32)
    return graph.op("Flatten", graph.op("Gather", table, index), axis=1)


def fixed_weights(graph: Graph, layout: Layout, network: Network) -> Weights:
    """The weights regrown from their sign plane; ONNX Runtime folds this at load."""
    if not network.parameters:
        return Weights(graph.constant(np.zeros(0, np.float32)), network)
    width = layout.signs.size
    signs = graph.constant(layout.signs.reshape(1, width), "signs")
    table = graph.constant((2 * _BITS - 1).astype(np.float32), "plus_minus")
    index = graph.op("Cast", signs, to=TensorProto.INT32)
    plus_minus = graph.reshape(graph.op("Gather", table, index), [-1])
    sizes = [p.size for p in network.parameters]
    padding = 8 * width - network.num_masked
    parts = graph.split(plus_minus, sizes + [padding] * bool(padding))
    scaled = [
        graph.op("Mul", part, graph.constant(np.float32(p.constant)))
        for part, p in zip(parts, network.parameters, strict=False)  # the padding is left out
    ]
    flat = scaled[0] if len(scaled) == 1 else graph.op("Concat", *scaled, axis=0)
    return Weights(flat, network)


def superposed_mask(graph: Graph, layout: Layout, network: Network, tasks: str, alphas: str) -> str:
    """``sum_j alphas[j] M[tasks[j]]`` (paper, equation 2): ``float32 (num_masked,)``."""
    # a matrix of one row: with a 1-D operand ONNX Runtime's MatMul takes ten times as long
    rows = unpack(graph, packed_rows(graph, layout, tasks))
    mask = graph.reshape(graph.op("MatMul", graph.reshape(alphas, [1, -1]), rows), [-1])
    return _unpadded(graph, network, mask)


def superposed_weights(
    graph: Graph, layout: Layout, weights: Weights, tasks: str, alphas: str
) -> str:
    """The weights times `superposed_mask`, named ``parameters``: ``float32 (num_masked,)``.

    One task goes a short way: its mask is not multiplied with an alpha of 1.
    """
    network = weights.network
    if not network.parameters:
        return graph.op("Identity", weights.flat, name="parameters")

    def one_task(body: Graph) -> list[str]:
        rows = body.reshape(unpack(body, packed_rows(body, layout, tasks)), [-1])
        return [weights.masked(body, _unpadded(body, network, rows))]

    def several(body: Graph) -> list[str]:
        mask = superposed_mask(body, layout, network, tasks, alphas)
        return [weights.masked(body, mask)]

    one = graph.constant(np.array(1, np.int64))
    sizes = [graph.op("Equal", graph.op("Size", value), one) for value in (tasks, alphas)]
    total = graph.op("ReduceSum", alphas, keepdims=0)
    whole = graph.op("Equal", total, graph.constant(np.float32(1)))
    short = graph.op("And", graph.op("And", *sizes), whole)
    return graph.branch(short, one_task, several, [TensorProto.FLOAT], ["parameters"])[0]


def _unpadded(graph: Graph, network: Network, flat: str) -> str:
    if network.num_masked % ROW_BITS == 0:
        return flat
    bounds = [graph.constant(np.array([v], np.int64)) for v in (0, network.num_masked, 0)]
    return graph.op("Slice", flat, *bounds)


def uniform_mask(graph: Graph, layout: Layout) -> str:
    """The superposition of all tasks with equal alphas, from the counts; folded at load."""
    counts = graph.op("Cast", graph.constant(layout.counts, "counts"), to=TensorProto.FLOAT)
    share = graph.constant(np.float32(1 / len(layout.masks)))
    return graph.op("Mul", counts, share)


def state_of(
    graph: Graph, layout: Layout, tasks: str | None = None, alphas: str | None = None
) -> str:
    """State superposed like masks: ``float32 (num_state,)``; of all tasks equally without both."""
    bank = graph.constant(layout.state, "state_bank")
    if tasks is None or alphas is None:
        share = np.full(len(layout.state), 1 / len(layout.state), np.float32)
        return graph.op("MatMul", graph.constant(share), bank)
    return graph.op("MatMul", alphas, graph.op("Gather", bank, tasks, axis=0))
