"""Graph part that differentiates every row of a batch on its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from supsup_export.graph import Graph, tensor_info

__all__ = ["row_vectors"]


def row_vectors(
    graph: Graph, differentiate: Callable[[Graph, str], list[str]], x: str = "x"
) -> list[str]:
    """A Loop over the rows of `x`.

    Args:
        graph: Receives the nodes.
        differentiate: Fills a body: from a batch of one row to flat values.
        x: ``(rows, ...)``.

    Returns:
        Each value of `differentiate`, of all rows: ``(rows, n)``.
    """
    body = graph.subgraph("row")
    index, go = body.fresh("index"), body.fresh("go")
    position = body.reshape(index, [1])
    values = differentiate(body, body.op("Gather", x, position, axis=0))
    onward = body.op("Identity", go)
    outputs = [body.op("Identity", value) for value in values]
    loop = body.close(
        inputs=[
            tensor_info(index, TensorProto.INT64, []),
            tensor_info(go, TensorProto.BOOL, []),
        ],
        outputs=[
            tensor_info(onward, TensorProto.BOOL, []),
            *(tensor_info(output, TensorProto.FLOAT, [None]) for output in outputs),
        ],
    )
    rows = graph.reshape(graph.op("Shape", x, start=0, end=1), [])
    forever = graph.constant(np.array(True))
    stacked = [graph.fresh("rows") for _ in values]
    return graph.ops("Loop", [rows, forever], stacked, body=loop)
