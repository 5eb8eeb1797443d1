"""Graph parts that score every task: ``-<M_i, W * dO/dW> - <state_i, dO/dstate>``.

This is ``-dO/dalpha_i`` at the present superposition (paper, equation 4, times -1: the higher the
likelier). It is the only work that grows with the number of tasks: a product of one-bit rows with
one vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from onnx import TensorProto

from supsup_export.graph import Graph, tensor_info
from supsup_export.layout import Layout
from supsup_export.masks import packed_masks, unpack

__all__ = ["Target", "mask_scores", "state_scores"]

Target = Literal["cpu", "portable"]
_BLOCK = 128
_SMALL_BANK_BYTES = 1 << 20
"""Packed masks up to which a third row is free: it costs some 0.1 ms a MB."""
_PORTABLE_CHUNK_WEIGHTS = 4 << 20
"""Weights that the portable loop unpacks at a time: 16 MB of float32."""


def mask_scores(graph: Graph, layout: Layout, vector: str, target: Target) -> str:
    """Scores from the masks.

    Args:
        graph: Receives the nodes.
        layout: The packed masks.
        vector: ``float32 (8 * row_bytes,)``, W * dO/dW, flat, zero in the padding.
        target: ``cpu`` uses MatMulNBits of ONNX Runtime, ``portable`` ai.onnx alone.

    Returns:
        ``float32 (tasks,)``.
    """
    make: dict[Target, Callable[[Graph, Layout, str], str]] = {
        "cpu": _by_two_bits,
        "portable": _by_unpacking,
    }
    return make[target](graph, layout, vector)


def state_scores(graph: Graph, layout: Layout, gradient: str) -> str:
    """``-state @ gradient``: ``float32 (tasks,)``."""
    bank = graph.constant(layout.state, "state_bank")
    return graph.op("Neg", graph.op("MatMul", bank, gradient))


def _by_two_bits(graph: Graph, layout: Layout, vector: str) -> str:
    """MatMulNBits, two bits a weight, once for the even bits of the masks and once for the odd.

    The operator rounds a row of activations to int8 by blocks. The vector is therefore given as
    two rows, what int8 holds exactly and the rest: 1e-5 of the largest score in place of 1e-2.
    Small banks get a third row, the rest of the rest: their scores may be sums of few terms that
    cancel, and the row costs them nothing.

    A byte becomes four codes by one BitwiseOr, which ONNX Runtime folds at load: with 0xAA the
    even bits are left as codes 2 and 3, with 0x55 the odd bits as codes 1 and 3. The operator's
    zero point is 2, so that they count 0 and 1, and -1 and 1; half of the latter, and half of the
    vector's sum, make 0 and 1 of them.
    """
    count = 3 if layout.masks.nbytes <= _SMALL_BANK_BYTES else 2
    halves = graph.reshape(vector, [-1, 4, 2])  # bit 2 i + h of each byte
    halves = graph.op("Transpose", halves, perm=[2, 0, 1])
    rows = _int8_rows(graph, halves, layout.signs.size, count)
    names = [graph.fresh("even"), graph.fresh("odd")]
    parts = graph.ops("Split", [rows], names, axis=0, num_outputs=2)
    axes = graph.constant(np.array([0, 1]))
    even = graph.op("ReduceSum", _product(graph, layout, parts[0], 0xAA, -1.0), axes, keepdims=0)
    odd = graph.op("ReduceSum", _product(graph, layout, parts[1], 0x55, -0.5), axes, keepdims=0)
    half = graph.op("Mul", graph.op("ReduceSum", parts[1], keepdims=0), _scalar(graph, 0.5))
    return graph.op("Sub", graph.op("Add", even, odd), half)


def _int8_rows(graph: Graph, halves: str, width: int, count: int) -> str:
    """``float32 (2, count, 4 * width)``: rows that sum to a half; int8 holds all but the last."""
    rest = graph.reshape(halves, [-1, _BLOCK])
    axis = graph.constant(np.array([1], np.int64))
    parts = []
    for _ in range(count - 1):
        peak = graph.op("ReduceMax", graph.op("Abs", rest), axis, keepdims=1)
        floored = graph.op("Max", peak, _scalar(graph, 1e-30))  # a block of zeros has no scale
        scale = graph.op("Div", floored, _scalar(graph, 127))
        parts.append(graph.op("Mul", graph.op("Round", graph.op("Div", rest, scale)), scale))
        rest = graph.op("Sub", rest, parts[-1])
    rows = [graph.reshape(part, [2, 1, 4 * width]) for part in (*parts, rest)]
    return graph.op("Concat", *rows, axis=1)


def _product(graph: Graph, layout: Layout, rows: str, fill: int, scale: float) -> str:
    """`scale` times `rows` ``(1, count, columns)`` times the codes of every task."""
    num_tasks, width = layout.masks.shape
    # Folded in the outermost graph: ONNX Runtime frees what it repacks there, not in a branch.
    outer = graph.outermost
    codes = outer.op("BitwiseOr", packed_masks(graph, layout), graph.constant(np.uint8(fill)))
    blocks = width // (_BLOCK // 4)
    scales = outer.op(
        "Expand",
        graph.constant(np.array([scale], np.float32)),
        graph.constant(np.array([num_tasks * blocks], np.int64)),
    )
    return graph.op(
        "MatMulNBits",
        rows,
        codes,
        scales,
        domain="com.microsoft",
        K=4 * width,
        N=num_tasks,
        bits=2,
        block_size=_BLOCK,
        accuracy_level=4,  # int8; without it the operator takes seconds
    )


def _scalar(graph: Graph, value: float) -> str:
    return graph.constant(np.float32(value))


def _by_unpacking(graph: Graph, layout: Layout, vector: str) -> str:
    """A Loop over chunks of tasks, each unpacked on the fly and never all at once."""
    num_tasks, width = layout.masks.shape
    step = min(num_tasks, max(1, _PORTABLE_CHUNK_WEIGHTS // (8 * width)))
    body = graph.subgraph("chunk")
    index, go, scores = body.fresh("index"), body.fresh("go"), body.fresh("scores")
    size = body.constant(np.array([step], np.int64))
    start = body.op("Mul", index, size)
    stop = body.op("Add", start, size)  # Slice clips the last one
    axis = body.constant(np.array([0], np.int64))
    rows = body.op("Slice", packed_masks(body, layout), start, stop, axis)
    product = body.op("MatMul", unpack(body, rows, None, width), vector)
    longer = body.op("Concat", scores, body.op("Neg", product), axis=0)
    onward = body.op("Identity", go)
    loop = body.close(
        inputs=[
            tensor_info(index, TensorProto.INT64, []),
            tensor_info(go, TensorProto.BOOL, []),
            tensor_info(scores, TensorProto.FLOAT, [None]),
        ],
        outputs=[
            tensor_info(onward, TensorProto.BOOL, []),
            tensor_info(longer, TensorProto.FLOAT, [None]),
        ],
    )
    chunks = graph.constant(np.array(-(-num_tasks // step), np.int64))
    forever = graph.constant(np.array(True))
    none_yet = graph.constant(np.zeros(0, np.float32))
    return graph.op("Loop", chunks, forever, none_yet, body=loop)
