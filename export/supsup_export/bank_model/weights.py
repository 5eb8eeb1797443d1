"""Graph parts that turn packed masks into weights.

Gather, then unpack: ONNX Runtime would fold an unpacked bank into 32 bits per weight. Unpacking is
a lookup of 256 x 8, which every provider has.
"""

from __future__ import annotations

import numpy as np

from supsup_export.bank_model.layout import ROW_BITS, Layout
from supsup_export.graph import FLOAT, INT32, Graph
from supsup_runtime.bank.network import STORED

_BITS = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (byte, bit), least significant first


def packed_part(graph: Graph, layout: Layout, part: int) -> str:
    """Return one of `Layout.parts`: ``uint8 (tasks, blocks, 32)``."""
    return graph.constant(layout.packed[part], "masks")


def packed_rows(graph: Graph, layout: Layout, tasks: str) -> str:
    """Return masks of some tasks, in weight order: ``uint8 (n, blocks, 32)``."""
    parts = [
        graph.op("Gather", packed_part(graph, layout, i), tasks, axis=0)
        for i in range(len(layout.parts))
    ]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(layout.parts))
    return graph.op("Gather", graph.join(parts, axis=1), graph.constant(order), axis=1)


def bit_table(graph: Graph) -> str:
    """Return the bits of each byte, least significant first: ``float32 (256, 8)``."""
    return graph.constant(_BITS.astype(np.float32), "bits")


def unpack(graph: Graph, packed: str) -> str:
    """Unpack ``uint8 (rows, blocks, 32)`` to ``float32 (rows, 256 * blocks)``."""
    table = bit_table(graph)
    index = graph.op("Cast", packed, to=INT32)
    return graph.op("Flatten", graph.op("Gather", table, index), axis=1)


def fixed_weights(graph: Graph, layout: Layout) -> str:
    """Return ``float32 (num_masked,)`` from the sign plane or as stored; folded at load."""
    network = layout.network
    all_stored = len(network.stored) == len(network.parameters)
    signs = [""] * len(network.parameters) if all_stored else _signs(graph, layout)
    parts = []
    for p, plus_minus in zip(network.parameters, signs, strict=False):  # without padding
        if p.init == STORED:
            parts.append(graph.constant(p.weight(network.weight_seed, 0).reshape(-1), p.name))
        else:
            parts.append(graph.op("Mul", plus_minus, graph.scalar(p.constant)))
    return graph.join(parts) if parts else graph.constant(np.zeros(0, np.float32))


def _signs(graph: Graph, layout: Layout) -> list[str]:
    """Return the sign of each weight, ``float32 (size,)`` by parameter."""
    network, width = layout.network, layout.signs.size
    signs = graph.constant(layout.signs.reshape(1, width), "signs")
    table = graph.constant((2 * _BITS - 1).astype(np.float32), "plus_minus")
    index = graph.op("Cast", signs, to=INT32)
    plus_minus = graph.reshape(graph.op("Gather", table, index), [-1])
    sizes = [p.size for p in network.parameters]
    padding = 8 * width - network.num_masked
    return graph.split(plus_minus, sizes + [padding] * bool(padding))


def never_empty(graph: Graph, tasks: str, alphas: str) -> tuple[str, str]:
    """Return the same superposition with task 0 of alpha 0 added: CUDA sums no empty values."""
    none = graph.constant(np.zeros(1, np.float32))
    return graph.join([tasks, graph.ints(0)]), graph.join([alphas, none])


def superposed_mask(graph: Graph, layout: Layout, tasks: str, alphas: str) -> str:
    """Return ``sum_j alphas[j] M[tasks[j]]`` (paper, equation 2): ``float32 (num_masked,)``."""
    # a matrix of one row: ONNX Runtime's MatMul is ten times slower for 1-D operands
    rows = unpack(graph, packed_rows(graph, layout, tasks))
    mask = graph.reshape(graph.op("MatMul", graph.reshape(alphas, [1, -1]), rows), [-1])
    return _unpadded(graph, layout, mask)


def superposed_weights(graph: Graph, layout: Layout, weights: str, tasks: str, alphas: str) -> str:
    """Return weights times `superposed_mask`, named ``parameters``: ``float32 (num_masked,)``.

    One task with alpha 1 skips the product with alpha.
    """
    if not layout.network.parameters:
        return graph.op("Identity", weights, name="parameters")

    def one_task(body: Graph) -> list[str]:
        rows = body.reshape(unpack(body, packed_rows(body, layout, tasks)), [-1])
        return [body.op("Mul", _unpadded(body, layout, rows), weights)]

    def several(body: Graph) -> list[str]:
        return [body.op("Mul", superposed_mask(body, layout, *with_none), weights)]

    one = graph.constant(1)
    sizes = [graph.op("Equal", graph.op("Size", value), one) for value in (tasks, alphas)]
    with_none = never_empty(graph, tasks, alphas)
    total = graph.op("ReduceSum", with_none[1], keepdims=0)
    whole = graph.op("Equal", total, graph.scalar(1))
    short = graph.op("And", graph.op("And", *sizes), whole)
    return graph.branch(short, one_task, several, [FLOAT], ["parameters"])[0]


def _unpadded(graph: Graph, layout: Layout, flat: str) -> str:
    size = layout.network.num_masked
    if size % ROW_BITS == 0:
        return flat
    return graph.op("Slice", flat, *map(graph.ints, (0, size, 0)))


def uniform_mask(graph: Graph, layout: Layout) -> str:
    """Return the mean of all masks; folded at load."""
    counts = graph.op("Cast", graph.constant(layout.counts, "counts"), to=FLOAT)
    return graph.op("Mul", counts, graph.scalar(1 / len(layout.masks)))


def state_of(graph: Graph, layout: Layout, *given: str) -> str:
    """Return superposed state, of all tasks if none is given: ``float32 (num_state,)``."""
    bank = graph.constant(layout.state, "state_bank")
    if not given:
        share = np.full(len(layout.state), 1 / len(layout.state), np.float32)
        return graph.op("MatMul", graph.constant(share), bank)
    tasks, alphas = given
    return graph.op("MatMul", alphas, graph.op("Gather", bank, tasks, axis=0))
