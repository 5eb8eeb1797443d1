"""Graph parts that score tasks: ``-<M_i, W * dO/dW> - <state_i, dO/dstate>``.

This is ``-dO/dalpha_i`` (paper, equation 4, times -1), and the only work that grows with the number
of tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from supsup_export.bank_model.layout import ROW_BITS, Layout
from supsup_export.bank_model.weights import bit_table, packed_part, unpack
from supsup_export.graph import BOOL, FLOAT, INT32, INT64, Graph
from supsup_runtime.model.metadata import Target

Products: TypeAlias = Callable[[Graph, str, str], str]
"""``uint8 (tasks, blocks, 32)``, ``float32 (rows, blocks, 256)`` to ``float32 (tasks, rows)``."""
_CODE_BITS = {"cpu": 2, "cuda": 4}
"""MatMulNBits has 2, 4 and 8 bits on the CPU, 4 and 8 with CUDA."""
_TASKS_AT_ONCE = {"cpu": 1, "cuda": 8}
"""CUDA's kernel takes a multiple of these rows of codes, others are first made float32."""
_BLOCKS_AT_ONCE = {"cpu": 1 << 31, "cuda": 1536}
"""At most per product: CUDA's kernel keeps the scales of 8 rows in 48 KB of shared memory."""
_SMALL_BANK_BYTES = 1 << 20
"""Up to here a third row is cheap: 0.1 ms per MB of masks."""
_CHUNK_WEIGHTS = {"cpu": 4 << 20, "cuda": 256 << 20, "portable": 4 << 20}
"""Unpacked at a time: 16 MB of float32 fit a cache, 1 GB fills a card."""
_SUMMED_BLOCKS = 256
"""At most at a time if portable: cores with SME sum a product in one run, which loses digits."""
_LOOKUP_BLOCKS = 8
"""Looked up at a time: 256 KB of sums, which small caches hold."""
_LOOKUP_TASKS = 8
"""From here on looking sums up is faster than unpacking."""


def mask_scores(graph: Graph, layout: Layout, vector: str, target: Target) -> str:
    """Return scores from the masks: ``float32 (tasks,)``.

    `vector` is W * dO/dW, ``float32 (8 * row_bytes,)``, zero in the padding. ``portable`` uses
    ai.onnx only, other targets MatMulNBits.
    """
    scores = [
        part_scores(graph, layout, part, part_vector(graph, layout, part, vector), target)
        for part in range(len(layout.parts))
    ]
    return graph.op("Add", *scores) if len(scores) > 1 else scores[0]


def part_vector(graph: Graph, layout: Layout, part: int, vector: str) -> str:
    """Return the part of `vector` for one of `Layout.parts`."""
    if len(layout.parts) == 1:
        return vector
    blocks = graph.reshape(vector, [-1, ROW_BITS])
    chosen = graph.op("Gather", blocks, graph.constant(layout.parts[part]), axis=0)
    return graph.reshape(chosen, [-1])


def part_scores(graph: Graph, layout: Layout, part: int, vector: str, target: Target) -> str:
    """Return scores from one of `Layout.parts`: ``float32 (tasks,)``.

    MatMulNBits of int8 is accurate to 1e-5 of the largest, of float32 to 1e-6.
    """
    if target == "portable":
        blocks = graph.reshape(vector, [1, -1, ROW_BITS])
        if len(layout.masks) >= _LOOKUP_TASKS:
            total = _in_chunks(graph, layout, part, blocks, _LOOKUP_BLOCKS, _by_lookup)
        else:
            total = _by_unpacking(graph, layout, part, blocks, target)
        return graph.reshape(total, [-1])
    rows = exact_rows(graph, layout, by_bit(graph, vector, target), target)
    return row_products(graph, layout, part, rows, target)


def row_scores(graph: Graph, layout: Layout, vectors: str, target: Target) -> str:
    """Score vectors: ``float32 (rows, 8 * row_bytes)`` to ``(rows, tasks)``."""
    blocks = graph.reshape(vectors, [0, -1, ROW_BITS])
    scores = []
    for part, chosen in enumerate(layout.parts):
        mine = blocks
        if len(layout.parts) > 1:
            mine = graph.op("Gather", blocks, graph.constant(chosen), axis=1)
        scores.append(_by_unpacking(graph, layout, part, mine, target))
    total = graph.op("Add", *scores) if len(scores) > 1 else scores[0]
    return graph.op("Transpose", total, perm=[1, 0])


def state_scores(graph: Graph, layout: Layout, gradient: str) -> str:
    """Return ``-state @ gradient``, ``float32 (tasks,)``; of rows, ``(rows, tasks)``."""
    bank = graph.constant(layout.state, "state_bank")
    columns = graph.outermost.op("Transpose", bank, perm=[1, 0])  # folded at load
    return graph.op("Neg", graph.op("MatMul", gradient, columns))


def by_bit(graph: Graph, vector: str, target: Target) -> str:
    """Reorder ``float32 (256 * blocks,)``: bit 0 of each code, then bit 1, and so on."""
    codes = graph.reshape(vector, [-1, _CODE_BITS[target]])
    return graph.reshape(graph.op("Transpose", codes, perm=[1, 0]), [-1])


def block_size(target: Target) -> int:
    """Return the weights per scale of MatMulNBits: 32 bytes of codes."""
    return ROW_BITS // _CODE_BITS[target]


def rounding_factor(target: Target) -> int:
    """Return the largest factor of a rounded weight in `row_products`."""
    return (1 << (_CODE_BITS[target] - 1)) - 1


def block_peaks(graph: Graph, vector: str, target: Target) -> str:
    """Return the largest magnitude per block, in `by_bit` order: ``(blocks, 1)``."""
    blocks = graph.reshape(vector, [-1, block_size(target)])
    axis = graph.ints(1)
    return graph.op("ReduceMax", graph.op("Abs", blocks), axis, keepdims=1)


def num_rows(target: Target, packed_bytes: int) -> int:
    """Return the rows of `exact_rows`, for a bank of this size."""
    if target == "cuda":
        return 1
    return 3 if packed_bytes <= _SMALL_BANK_BYTES else 2


def exact_rows(graph: Graph, layout: Layout, vector: str, target: Target) -> str:
    """Split ``float32 (256 * blocks,)``, in `by_bit` order, into rows for `row_products`.

    For target cpu, MatMulNBits rounds activations to int8 by blocks. Two rows, what int8 holds
    exactly and the rest, reduce the error from 1e-2 to 1e-5 of the largest score. Small banks get a
    third row, because scores of few terms may cancel. For cuda it computes in float32: one row.
    """
    count = num_rows(target, layout.masks.nbytes)
    rest = graph.reshape(vector, [-1, block_size(target)])
    rows = []
    for _ in range(count - 1):
        peak = block_peaks(graph, rest, target)
        floored = graph.op("Max", peak, graph.scalar(1e-30))  # blocks may be zero
        scale = graph.op("Div", floored, graph.scalar(127))
        rows.append(graph.op("Mul", graph.op("Round", graph.op("Div", rest, scale)), scale))
        rest = graph.op("Sub", rest, rows[-1])
    flat = [graph.reshape(row, [-1]) for row in [*rows, rest]]
    return stack_rows(graph, flat, target)


def stack_rows(graph: Graph, rows: list[str], target: Target) -> str:
    """Stack rows in `by_bit` order: ``(bits, rows, n / bits)``."""
    each = [graph.reshape(row, [_CODE_BITS[target], 1, -1]) for row in rows]
    return graph.join(each, axis=1)


def row_products(graph: Graph, layout: Layout, part: int, rows: str, target: Target) -> str:
    """Return minus the products of masks and `stack_rows`, summed: ``float32 (tasks,)``.

    MatMulNBits runs once per bit of a code, and per `_BLOCKS_AT_ONCE`.
    """
    num_tasks, num_blocks = len(layout.masks), len(layout.parts[part])
    outer, step = graph.outermost, _BLOCKS_AT_ONCE[target]
    sizes = [min(step, num_blocks - start) for start in range(0, num_blocks, step)]
    masks = outer.split(packed_part(graph, layout, part), sizes, axis=1)  # folded at load
    vectors = graph.split(rows, [size * block_size(target) for size in sizes], axis=2)
    chunks = zip(masks, vectors, sizes, strict=True)
    terms = [
        term
        for chunk, vector, size in chunks
        for term in _bit_products(graph, chunk, (num_tasks, size), vector, target)
    ]
    total = graph.op("Sum", *terms)
    if num_tasks % _TASKS_AT_ONCE[target] == 0:
        return total
    return graph.op("Slice", total, *map(graph.ints, (0, num_tasks, 0)))


def _bit_products(
    graph: Graph, masks: str, shape: tuple[int, int], rows: str, target: Target
) -> list[str]:
    """Return a term of `row_products` per bit of a code: ``float32 (tasks,)`` or more, for padding.

    `masks` is a constant ``uint8 (*shape, 32)``. A BitwiseOr, folded at load, makes ``8 / bits``
    codes of a byte: it keeps bit `h` of each, and sets the others. MatMulNBits subtracts ``2 **
    (bits - 1)`` from a code, so its factor is ``2 ** h * bit + 2 ** (bits - 1) - 1 - 2 ** h``. The
    constant times the vector's sum is removed, and ``2 ** h`` divided out.
    """
    bits, (num_tasks, blocks) = _CODE_BITS[target], shape
    outer = graph.outermost  # ONNX Runtime folds there, and frees repacked codes
    names = [graph.fresh("bit") for _ in range(bits)]  # bits `bits * i + h` of each byte
    graph.ops("Split", [rows], names, axis=0, num_outputs=bits)
    padding = -num_tasks % _TASKS_AT_ONCE[target]
    minus_one = outer.constant(np.array([-1], np.float32))  # minus the products
    scales = outer.op("Expand", minus_one, outer.ints((num_tasks + padding) * blocks))
    axes = graph.ints(0, 1)
    terms = []
    for h, row in enumerate(names):
        others = 0xFF & ~sum(1 << (bits * i + h) for i in range(8 // bits))
        codes = outer.op("BitwiseOr", masks, outer.constant(np.uint8(others)))
        if padding:
            codes = outer.op("Pad", codes, outer.ints(0, 0, 0, padding, 0, 0))
        sizes = (num_tasks + padding, blocks * ROW_BITS // bits)
        how: dict[str, int] = {"bits": bits, "block": block_size(target)}
        product = graph.matmul_nbits(row, codes, scales, sizes, int8=target == "cpu", **how)
        total = graph.op("ReduceSum", product, axes, keepdims=0)
        constant = 2 ** (bits - 1) - 1 - 2**h
        if constant:
            whole = graph.op("ReduceSum", row, keepdims=0)
            total = graph.op("Add", total, graph.op("Mul", whole, graph.scalar(constant)))
        terms.append(graph.op("Mul", total, graph.scalar(2.0**-h)) if h else total)
    return terms


def _by_unpacking(graph: Graph, layout: Layout, part: int, vectors: str, target: Target) -> str:
    """Return minus the products of masks and ``float32 (rows, blocks, 256)``: ``(tasks, rows)``."""
    step = max(1, _CHUNK_WEIGHTS[target] // (ROW_BITS * len(layout.masks)))
    if target == "portable":
        step = min(step, _SUMMED_BLOCKS)
    return _in_chunks(graph, layout, part, vectors, step, _unpacked_products)


def _in_chunks(
    graph: Graph, layout: Layout, part: int, vectors: str, step: int, products: Products
) -> str:
    """Subtract `products` in a Loop over chunks of `step` blocks.

    From ``float32 (rows, blocks, 256)`` to ``float32 (tasks, rows)``.
    """
    num_tasks, num_blocks = len(layout.masks), len(layout.parts[part])
    step = min(num_blocks, step)
    body = graph.subgraph("chunk")
    index, go, scores = body.fresh("index"), body.fresh("go"), body.fresh("scores")
    size = body.ints(step)
    start = body.op("Mul", index, size)
    bounds = [start, body.op("Add", start, size), body.ints(1)]
    masks = body.op("Slice", packed_part(body, layout, part), *bounds)  # clips the last chunk
    total = body.op("Sub", scores, products(body, masks, body.op("Slice", vectors, *bounds)))
    onward = body.op("Identity", go)
    shape = [num_tasks, None]
    loop = body.close(
        [(index, INT64, []), (go, BOOL, []), (scores, FLOAT, shape)],
        [(onward, BOOL, []), (total, FLOAT, shape)],
    )
    chunks = graph.constant(-(-num_blocks // step))
    forever = graph.constant(True)
    tasks = graph.ints(num_tasks)
    zeros = graph.op("Concat", tasks, graph.op("Shape", vectors, start=0, end=1), axis=0)
    return graph.op("Loop", chunks, forever, graph.op("ConstantOfShape", zeros), body=loop)


def _unpacked_products(graph: Graph, masks: str, vectors: str) -> str:
    columns = graph.op("Transpose", graph.reshape(vectors, [0, -1]), perm=[1, 0])
    return graph.op("MatMul", unpack(graph, masks), columns)


def _by_lookup(graph: Graph, masks: str, vector: str) -> str:
    """Multiply masks with one row, by the sum that each value of each byte gives."""
    of_byte = graph.op("Transpose", graph.reshape(vector, [-1, 8]), perm=[1, 0])
    sums = graph.op("MatMul", bit_table(graph), of_byte)  # (256, bytes)
    index = graph.op("Cast", graph.op("Flatten", masks, axis=1), to=INT32)
    terms = graph.op("GatherElements", sums, index, axis=0)
    return graph.op("ReduceSum", terms, graph.ints(1), keepdims=1)
