"""From a program that PyTorch exported to an ONNX file for every runtime.

The one module of the training side that knows ONNX. What leaves it is plain: opset 18, IR 8, only
operators of the standard domain, no functions, no external data, no trace of where it was made, and
the same bytes for the same program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

import onnx
import onnx.checker
import onnxscript.optimizer
import torch
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 8

# Larger results of constant expressions stay expressions: the zeros of an unused parameter, say.
_MAX_FOLDED_ELEMENTS = 1024

Shape = tuple[int | str, ...]
"""Of a tensor; a string names a dimension that is known only when the program runs."""


def to_onnx(
    program: torch.export.ExportedProgram,
    inputs: Mapping[str, Shape],
    constants: Mapping[str, torch.Tensor],
    outputs: Mapping[str, Shape],
) -> bytes:
    """Serialise an exported program as an ONNX model.

    The program takes the inputs and then the constants, and returns the outputs; all are float32,
    and no name occurs twice. The model has every input, used or not; constants only where used.

    Raises:
        torch.onnx.OnnxExporterError: If an operator has no translation.
    """
    exported = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False
    )
    if exported is None:  # as it does for a file
        raise TypeError("torch.onnx.export returned no model")
    model = exported.model_proto
    names = _bake(model.graph, constants, len(inputs))
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


def _bake(
    graph: onnx.GraphProto, constants: Mapping[str, torch.Tensor], num_inputs: int
) -> dict[str, str]:
    """Turn the inputs that take constants into initializers; the constant's name by theirs."""
    fed = [value.name for value in graph.input]
    names = dict(zip(fed[num_inputs:], constants, strict=True))
    for name, constant in names.items():
        array = constants[constant].detach().cpu().numpy()
        graph.initializer.append(numpy_helper.from_array(array, name))
    del graph.input[num_inputs:]
    return names


def _values(shapes: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]


def _rename(graph: onnx.GraphProto, names: dict[str, str], fresh: Iterator[str]) -> None:
    """Name the nodes and values of a graph in order, and those of the graphs inside it.

    Also strip them of notes on where they come from. `names` has the values that are named already,
    from old to new, and grows; `fresh` names the others.
    """

    def new(old: str) -> str:
        if old and old not in names:  # an empty name is an optional tensor left out
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
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, names, fresh)
        node.output[:] = [new(name) for name in node.output]
    for value in graph.output:
        value.name = new(value.name)
    graph.ClearField("value_info")
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
