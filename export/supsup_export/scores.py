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
from supsup_export.masks import unpack

__all__ = ["Target", "mask_scores", "state_scores"]

Target = Literal["cpu", "portable"]
_BLOCK = 128
_CPU_CHUNK_BYTES = 32 << 20
"""Packed masks of one MatMulNBits: bounds what folding needs at a time, at load."""
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
    """MatMulNBits, two bits a weight: code 2 is 0 and code 3 is 1, as its zero point is 2.

    The operator rounds a row of activations to int8 by blocks. The vector is therefore given as
    two rows, what int8 holds exactly and the rest: 1e-5 of the largest score in place of 1e-2.
    Small banks get a third row, the rest of the rest: their scores may be sums of few terms that
    cancel, and the row costs them nothing.
    """
    num_tasks, width = layout.masks.shape
    count = 3 if layout.masks.nbytes <= _SMALL_BANK_BYTES else 2
    rows = _int8_rows(graph, vector, 8 * width, count)
    step = max(1, _CPU_CHUNK_BYTES // width)
    parts = [
        _product(graph, layout, rows, start, min(start + step, num_tasks))
        for start in range(0, num_tasks, step)
    ]
    both = parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=1)
    return graph.op("ReduceSum", both, graph.constant(np.array([0])), keepdims=0)


def _int8_rows(graph: Graph, vector: str, size: int, count: int) -> str:
    """``float32 (count, size)`` that sum to the vector; int8 holds all but the last exactly."""
    rest = graph.reshape(vector, [-1, _BLOCK])
    axis = graph.constant(np.array([1], np.int64))
    floor = graph.constant(np.float32(1e-30))  # a block of zeros has no scale
    steps = graph.constant(np.float32(127))
    parts = []
    for _ in range(count - 1):
        peak = graph.op("ReduceMax", graph.op("Abs", rest), axis, keepdims=1)
        scale = graph.op("Div", graph.op("Max", peak, floor), steps)
        parts.append(graph.op("Mul", graph.op("Round", graph.op("Div", rest, scale)), scale))
        rest = graph.op("Sub", rest, parts[-1])
    rows = [graph.reshape(part, [1, size]) for part in (*parts, rest)]
    return graph.op("Concat", *rows, axis=0)


def _product(graph: Graph, layout: Layout, rows: str, start: int, stop: int) -> str:
    """``float32 (rows, stop - start)``: minus `rows` times the masks of some tasks."""
    num_tasks, width = layout.masks.shape
    bank = graph.constant(layout.masks, "masks")
    if stop - start < num_tasks:
        bounds = [graph.constant(np.array([v], np.int64)) for v in (start, stop, 0)]
        bank = graph.op("Slice", bank, *bounds)
    index = graph.op("Cast", bank, to=TensorProto.INT32)
    codes = graph.op("Gather", graph.constant(_spread(), "two_bit_codes"), index)
    blocks = 8 * width // _BLOCK
    codes = graph.reshape(codes, [stop - start, blocks, _BLOCK // 4])
    minus_one = graph.constant(np.array([-1], np.float32))
    count = graph.constant(np.array([(stop - start) * blocks], np.int64))
    return graph.op(
        "MatMulNBits",
        rows,
        codes,
        graph.op("Expand", minus_one, count),
        domain="com.microsoft",
        K=8 * width,
        N=stop - start,
        bits=2,
        block_size=_BLOCK,
        accuracy_level=4,  # int8; without it the operator takes seconds
    )


def _spread() -> np.typing.NDArray[np.uint8]:
    """``uint8 (256, 2)``: the two bytes of 2-bit codes that eight mask bits become."""
    table = np.zeros((256, 2), np.uint8)
    for bit in range(8):
        code = ((np.arange(256) >> bit) & 1) | 2
        table[:, bit // 4] |= (code << (2 * (bit % 4))).astype(np.uint8)
    return table


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
    rows = body.op("Slice", body.constant(layout.masks, "masks"), start, stop, axis)
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
