"""Preprocessing in the graph: from pictures of any size to the network's inputs.

The steps and the float32 formulas are those of `supsup_runtime.preprocessing`.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from supsup_export.graph import FLOAT, UINT8, Graph, Value
from supsup_runtime.arrays import check_choice
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import Preprocess
from supsup_runtime.preprocessing import EPSILON, GRAY, Preprocessing, spread


def bakes(bank: MaskBank, preprocess: Preprocess) -> bool:
    """Return whether a bank's preprocessing is asked for; raise `InputError` if it has none."""
    check_choice("preprocess:", preprocess, get_args(Preprocess))
    if preprocess == "baked" and bank.network.preprocessing is None:
        raise InputError(
            f"preprocess: baked needs a bank with preprocessing, {bank.path} has none; create it "
            "with preprocessing, as supsup-train own does, or leave this out"
        )
    steps = bank.network.preprocessing
    if preprocess == "baked" and steps is not None and not steps.takes_bytes:
        raise InputError(
            f"preprocess: baked needs a bank of uint8 pictures, {bank.path} is of floats of scale "
            f"{steps.scale:g}; leave this out, and prepare inputs with model.prepare"
        )
    return preprocess == "baked"


def input_of(network: Network, *, baked: bool) -> Value:
    """Return the graph's input `x`: the network's or, if baked, pictures."""
    if baked:
        return "x", UINT8, ["batch", "height", "width", "channels"]
    return "x", FLOAT, ["batch", *network.input_shape]


def inputs(graph: Graph, network: Network) -> str:
    """Append the network's preprocessing of `x`; return ``float32 (batch, *input_shape)``."""
    steps = network.preprocessing
    if steps is None:
        return "x"
    batch, height, width, channels = _sizes(graph)
    columns_and_channels = graph.op("Mul", width, channels)
    rows, columns = _sampling(graph, steps, height, width)
    x = graph.op("Cast", "x", to=FLOAT)
    x = graph.op("Reshape", x, graph.join([batch, height, columns_and_channels]))
    # not broadcast: onnxruntime 1.29 refuses that for a batch of no rows
    rows = graph.op("Expand", rows, graph.join([batch, graph.ints(1, 1)]))
    x = graph.op("MatMul", rows, x)
    wanted = graph.ints(steps.size[0])
    x = graph.op("Reshape", x, graph.join([batch, wanted, width, channels]))
    x = graph.op("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.op("MatMul", x, graph.op("Transpose", columns, perm=[1, 0]))
    x = graph.op("Expand", x, graph.ints(1, 3, *steps.size))  # refuses 2 or 4 channels
    if steps.mode == "gray":
        weights = graph.constant(np.array(GRAY, np.float32).reshape(3, 1, 1))
        x = graph.op("ReduceSum", graph.op("Mul", x, weights), graph.ints(1), keepdims=1)
    return graph.reshape(_normalised(graph, steps, x), [0, *network.input_shape])


def _sizes(graph: Graph) -> list[str]:
    """Return the four sizes of `x`, ``int64 (1,)`` each."""
    names = [graph.fresh(axis) for axis in ("batch", "height", "width", "channels")]
    return graph.ops("Split", [graph.op("Shape", "x"), graph.ints(1, 1, 1, 1)], names, axis=0)


def _sampling(graph: Graph, steps: Preprocessing, height: str, width: str) -> list[str]:
    """See `preprocessing.sampling`; sizes are ``int64 (1,)``."""
    have = [graph.op("Cast", size, to=FLOAT) for size in (height, width)]
    pairs = zip(steps.size, have, strict=True)
    scale = graph.op("Max", *(graph.op("Div", graph.scalar(side), size) for side, size in pairs))
    reach = graph.op("Max", graph.scalar(1), graph.op("Div", graph.scalar(1), scale))
    return [
        _axis(graph, side, size, scale, reach)
        for side, size in zip(steps.size, (height, width), strict=True)
    ]


def _axis(graph: Graph, want: int, have: str, scale: str, reach: str) -> str:
    offsets = np.arange(want, dtype=np.float32) + np.float32(0.5 - want / 2)
    middle = graph.op("Mul", graph.scalar(0.5), graph.op("Cast", have, to=FLOAT))
    center = graph.op("Div", graph.constant(offsets[:, None]), scale)
    center = graph.op("Add", center, middle)
    zero, one = (graph.constant(np.int64(value)) for value in (0, 1))
    pixel = graph.op("Range", zero, graph.reshape(have, []), one)
    pixel = graph.op("Add", graph.op("Cast", pixel, to=FLOAT), graph.scalar(0.5))
    distance = graph.op("Abs", graph.op("Sub", pixel, center))
    weights = graph.op("Sub", graph.scalar(1), graph.op("Div", distance, reach))
    weights = graph.op("Max", graph.scalar(0), weights)
    total = graph.op("ReduceSum", weights, graph.ints(1), keepdims=1)
    return graph.op("Div", weights, total)


def _normalised(graph: Graph, steps: Preprocessing, x: str) -> str:
    x = graph.op("Div", x, graph.scalar(steps.scale))
    if steps.mean is not None and steps.std is not None:
        mean, std = (graph.constant(spread(value)) for value in (steps.mean, steps.std))
        return graph.op("Div", graph.op("Sub", x, mean), std)
    axes = graph.ints(1, 2, 3)
    x = graph.op("Sub", x, graph.op("ReduceMean", x, axes, keepdims=1))
    variance = graph.op("ReduceMean", graph.op("Mul", x, x), axes, keepdims=1)
    deviation = graph.op("Add", graph.op("Sqrt", variance), graph.scalar(EPSILON))
    return graph.op("Div", x, deviation)
