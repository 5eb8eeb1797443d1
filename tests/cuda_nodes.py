"""The nodes of a model, their types, and where ONNX Runtime would put them with CUDA.

The rules of placement are those of its `GetCpuPreferredNodes`: a node without a kernel runs on the
host, and so does one that reads only values on the host, small constants and inputs of its graph,
unless its kernel takes those from the host anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnxruntime
from onnx import GraphProto, NodeProto, TensorProto, defs
from tools.cuda_kernels import kernels

HOST_INPUTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "TopK": (1,),
    **dict.fromkeys(("Squeeze", "Unsqueeze", "ReduceMax", "ReduceMean"), (1,)),
    **dict.fromkeys(("ReduceSum", "ReduceSumSquare"), (1,)),
}
"""Inputs that kernels take from the host."""
FOLDED = {("BitwiseOr", "uint8"), ("Pad", "uint8")}
"""Operators and types without kernels: ONNX Runtime folds these nodes on the CPU at load."""
_SMALL = 100
"""Elements of a constant that may move to the host."""


@dataclass(frozen=True)
class Placed:
    """A node: operator, element types by constraint of its schema, and where it runs."""

    domain: str
    op: str
    types: tuple[tuple[str, str], ...]
    place: str
    copies: int
    """Inputs and outputs that are copied between host and device in each call."""
    node: NodeProto = field(hash=False, compare=False, repr=False)


def optimised(path: Path, *, folded: bool) -> onnx.ModelProto:
    """Return what ONNX Runtime gives its providers, with constants folded or as exported."""
    levels = onnxruntime.GraphOptimizationLevel
    options, out = onnxruntime.SessionOptions(), path.with_suffix(".seen")
    level = levels.ORT_ENABLE_BASIC if folded else levels.ORT_DISABLE_ALL
    options.graph_optimization_level, options.log_severity_level = level, 4
    options.optimized_model_filepath = str(out)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(out)
    assert not model.functions
    return model


def placed(model: onnx.ModelProto) -> Iterator[Placed]:
    """Yield every node, of bodies too."""
    (opset,) = (each.version for each in model.opset_import if each.domain in {"", "ai.onnx"})
    yield from _graph(model.graph, {}, opset)


def _graph(graph: GraphProto, outer: Mapping[str, str], opset: int) -> Iterator[Placed]:
    types, made = {**outer}, dict[str, str]()  # value: device or host, of this graph
    for value in graph.input:
        types[value.name] = _name(value.type.tensor_type.elem_type)
    tensors = {t.name: t for t in graph.initializer}
    tensors |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    types |= {name: _name(tensor.data_type) for name, tensor in tensors.items()}
    free = {value.name for value in graph.input}
    free |= {name for name, tensor in tensors.items() if math.prod(tensor.dims) <= _SMALL}
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        bodies = [a.g for a in node.attribute if a.HasField("g")]
        for body in bodies:
            yield from _graph(body, types, opset)
        bound = _bound(node, types, opset)
        place = _place(node, bound, opset, made, free)
        takes = HOST_INPUTS.get(node.op_type, ())
        copies = 0
        for index, value in enumerate(node.input):
            where = "host" if place != "device" or index in takes else "device"
            copies += value in made and made[value] != where
        yield Placed(node.domain, node.op_type, tuple(sorted(bound.items())), place, copies, node)
        output = "host" if place != "device" or node.op_type in ("Shape", "Size") else "device"
        made.update(dict.fromkeys(node.output, output))


def _place(
    node: NodeProto, bound: Mapping[str, str], opset: int, made: Mapping[str, str], free: set[str]
) -> str:
    kernel = kernels().get(".".join(filter(None, (node.domain, node.op_type))))
    if kernel is None or not kernel.takes(1 if node.domain else opset, bound):
        return "no kernel"
    takes = HOST_INPUTS.get(node.op_type, ())
    given = [value for value in node.input if value]
    on_host = [value for value in given if made.get(value) == "host"]
    if not on_host or any(value not in free and value not in on_host for value in given):
        return "device"
    meant = any(made.get(v) == "host" and i in takes for i, v in enumerate(node.input))
    return "device" if meant else "host"


def _bound(node: NodeProto, types: dict[str, str], opset: int) -> dict[str, str]:
    """Return element types by constraint; add those of the node's outputs to `types`."""
    if node.domain == "com.microsoft":
        types[node.output[0]] = types[node.input[0]]
        return {"T1": types[node.input[0]], "T2": types[node.input[1]]}
    schema, bound = defs.get_schema(node.op_type, opset, ""), dict[str, str]()
    for index, value in enumerate(node.input):
        if value:
            name = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
            bound.setdefault(name, types[value])
    attributes = {a.name: a for a in node.attribute}
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    skipped = 1 if node.op_type == "Loop" else 0
    for index, value in enumerate(node.output):
        name = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
        if bodies:
            known = bodies[0].output[index + skipped].type.tensor_type.elem_type
            types[value] = _name(known)
        elif node.op_type == "Cast":
            types[value] = bound[name] = _name(attributes["to"].i)
        elif node.op_type == "ConstantOfShape":
            data = attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT
            types[value] = bound[name] = _name(data)
        else:
            types[value] = bound.get(name) or _only(schema, name)
    return {name: kind for name, kind in bound.items() if not name.startswith("tensor(")}


def _only(schema: defs.OpSchema, name: str) -> str:
    """Return the one type that an output may have."""
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    (kind,) = allowed.get(name, [name])
    return str(kind).removeprefix("tensor(").removesuffix(")")


def _name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)).lower()
