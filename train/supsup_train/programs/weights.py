"""Which parameters of a traced module are weights, and not scales, tables or tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import fx
from torch.export import ExportedProgram

# Positions of the weights among the arguments of a layer's operator.
_LAYERS = {
    **dict.fromkeys(("linear", "convolution", "_convolution"), (1,)),
    **{f"conv{kind}{axes}d": (1,) for kind in ("", "_transpose") for axes in (1, 2, 3)},
    **dict.fromkeys(("bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu"), (2,)),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), (2, 3)),
}
# Here a weight is any operand that is independent of `x`, beside one that is not.
_PRODUCTS = frozenset(
    {
        *("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "addmm", "addmv", "addbmm"),
        *("baddbmm", "einsum", "tensordot", "embedding", "embedding_bag", "_embedding_bag"),
    }
)


def weights_of(program: ExportedProgram, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the tensors that a linear, convolution, product, recurrent layer or look-up weighs by.

    Each with the operator that uses it last, in order of this use.

    A tensor also counts if the operand is computed from it, unless it is smaller than the operand,
    as a scale is.

    Args:
        program: The traced module, with the inputs ``x`` and then the tensors.
        tensors: The tensors by name, in order.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    x, *held = [nodes[str(name)] for name in program.graph_signature.user_inputs]
    names = dict(zip(held, tensors, strict=True))
    from_x = {x}
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        if is_value(node) and not from_x.isdisjoint(node.all_input_nodes):
            from_x.add(node)
        uses = [
            names[source]
            for operand in set(_operands(node, from_x)) - from_x
            for source in sources(operand)
            if source in names and _size(source) >= _size(operand)
        ]
        for name in sorted(uses, key=[*tensors].index):
            found.pop(name, None)
            found[name] = _operator(node)
    return found


def is_value(node: fx.Node) -> bool:
    """Return whether a node is more than a size."""
    return not isinstance(node.meta.get("val"), torch.SymInt)


def sources(node: fx.Node) -> set[fx.Node]:
    """Return the nodes that a node's values depend on, other than through shapes."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node not in found and is_value(node):
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _operands(node: fx.Node, from_x: set[fx.Node]) -> list[fx.Node]:
    """Return the operands of a product that may be weights."""
    name = _operator(node)
    if name in _PRODUCTS and node in from_x:
        return list(node.all_input_nodes)
    operands: list[fx.Node] = []
    for position in _LAYERS.get(name, ()):
        fx.map_arg(node.args[position], operands.append)
    return operands


def _operator(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _size(node: fx.Node) -> int:
    """Return the number of elements; a symbolic size, of the batch, counts as 1."""
    shape = getattr(node.meta.get("val"), "shape", ())
    return math.prod(size for size in shape if isinstance(size, int))
