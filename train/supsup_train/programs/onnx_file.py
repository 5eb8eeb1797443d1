"""Conversion of exported PyTorch programs to portable ONNX models.

The models have opset 18, IR 8, standard operators only, no functions, external data or source
locations, and equal programs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count

import onnx
import onnx.checker
import onnxscript.optimizer
import torch
from onnx import helper, numpy_helper
from onnxscript import rewriter

from supsup_train.programs.forward_ops import PORTABLE

OPSET = 18
IR_VERSION = 8

# Larger constant expressions are not folded, such as the zeros of an unused parameter.
_MAX_FOLDED_ELEMENTS = 1024

Shape = tuple[int | str, ...]
"""Shape of a tensor; a string names a dynamic dimension."""


def to_onnx(
    program: torch.export.ExportedProgram,
    inputs: Mapping[str, Shape],
    constants: Mapping[str, torch.Tensor],
    outputs: Mapping[str, Shape],
) -> bytes:
    """Serialise a program, from the inputs and then the constants, as an ONNX model.

    Tensors are float32 and names distinct. The model has all inputs, used or not.

    Raises:
        torch.onnx.OnnxExporterError: If an operator has no translation.
    """
    if any(node.target in PORTABLE for node in program.graph.nodes):
        program = program.run_decompositions(PORTABLE)
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False
    )
    if exported is None:  # as for a file
        raise TypeError("torch.onnx.export returned no model")
    model = exported.model_proto
    names = _bake(model.graph, constants, len(inputs))
    _make_columns(model.graph, {})
    with _linear_time():
        model = onnxscript.optimizer.optimize(model, output_size_limit=_MAX_FOLDED_ELEMENTS)
    names |= zip((value.name for value in model.graph.input), inputs, strict=True)
    names |= zip((value.name for value in model.graph.output), outputs, strict=True)
    reserved = set(names.values())
    _rename(model.graph, names, (name for i in count() if (name := f"v{i}") not in reserved))
    plain = helper.make_model(
        helper.make_graph(
            list(model.graph.node),
            "program",
            _values(inputs),
            _values(outputs),
            initializer=list(model.graph.initializer),
        ),
        producer_name="supsup",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    onnx.checker.check_model(plain, full_check=True)
    serialised: bytes = plain.SerializeToString(deterministic=True)
    return serialised


@contextmanager
def _linear_time() -> Iterator[None]:
    """Leave out the optimizer's rule of two slices, which counts all nodes again at each node.

    It took 9 in 10 seconds of optimizing the gradient of a ResNet-50.
    """
    rules = rewriter._DEFAULT_REWRITE_RULES  # noqa: SLF001 - an optimizer takes no other rules
    rewriter._DEFAULT_REWRITE_RULES = tuple(r for r in rules if r.name != "SlicesSplit")  # noqa: SLF001
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules  # noqa: SLF001


def _bake(
    graph: onnx.GraphProto, constants: Mapping[str, torch.Tensor], num_inputs: int
) -> dict[str, str]:
    """Turn inputs into initializers; return a map from old to new names."""
    fed = [value.name for value in graph.input]
    names = dict(zip(fed[num_inputs:], constants, strict=True))
    for name, constant in names.items():
        array = constants[constant].detach().cpu().numpy()
        graph.initializer.append(numpy_helper.from_array(array, name))
    del graph.input[num_inputs:]
    return names


def _make_columns(graph: onnx.GraphProto, ranks: dict[str, int]) -> None:
    """Turn vectors on the right of products into columns; `ranks` are of outer values.

    ONNX Runtime 1.32 fuses ``A.T @ v`` and then computes another product.
    """
    values = (*graph.input, *graph.value_info)
    ranks = ranks | {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    ranks |= {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for inner in _bodies(node):
            _make_columns(inner, ranks)
        if node.op_type != "MatMul" or ranks.get(node.input[1]) != 1:
            graph.node.append(node)
            continue
        (left, right), (product,) = node.input, node.output
        axis, column, wide = (f"{product}.{name}" for name in ("axis", "column", "wide"))
        graph.node.append(helper.make_node("Constant", [], [axis], value_ints=[-1]))
        graph.node.append(helper.make_node("Unsqueeze", [right, axis], [column]))
        graph.node.append(helper.make_node("MatMul", [left, column], [wide]))
        graph.node.append(helper.make_node("Squeeze", [wide, axis], [product]))


def _values(shapes: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _rename(graph: onnx.GraphProto, names: dict[str, str], fresh: Iterator[str]) -> None:
    """Rename nodes and values, subgraphs included, and strip metadata; `names` grows."""

    def new(old: str) -> str:
        if old and old not in names:  # an empty name marks an omitted optional input
            names[old] = next(fresh)
        return old and names[old]

    for value in graph.input:
        value.name = new(value.name)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    for index, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{index}"
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        node.attribute.sort(key=lambda attribute: attribute.name)
        node.input[:] = [new(name) for name in node.input]
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        for inner in _bodies(node):
            _rename(inner, names, fresh)
        node.output[:] = [new(name) for name in node.output]
    for value in graph.output:
        value.name = new(value.name)
    graph.ClearField("value_info")
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
