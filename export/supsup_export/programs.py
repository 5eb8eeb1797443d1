"""Read the programs of a bank, which a stranger may have made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Literal

import onnx
from onnx import GraphProto, ValueInfoProto

from supsup_export.graph import FLOAT, OPSET, prune
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import BankError, ModelError
from supsup_runtime.model.protobuf import refuse_unsafe


def program_of(
    bank: MaskBank, name: Literal["forward", "gradient"], outputs: Sequence[str]
) -> GraphProto:
    """Return the graph of a bank's program, with only what `outputs` need.

    Raises:
        BankError: If the program is damaged or missing, or its inputs or outputs are not those of
            docs/FORMAT.md.
    """
    data = bank.forward if name == "forward" else bank.gradient or b""
    place, network = f"{bank.path}/programs/{name}.onnx", bank.network
    try:
        refuse_unsafe(BytesIO(data), place=place)
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        "".join(_names(model.graph))  # fails for names that are no text: protobuf gives bytes
    except ModelError as error:
        raise BankError(str(error)) from error
    except Exception as error:  # protobuf, onnx and its checker have no common base
        line = " ".join(str(error).split())
        raise BankError(f"{place}: not a valid ONNX model: {line:.300}") from error
    shapes = {t.name: list(t.shape) for t in network.parameters}
    shapes |= {t.name: list(t.shape) for t in network.state}
    inputs = {"x": [0, *network.input_shape]} | shapes
    wanted = {key: shapes.get(key.partition(".")[2], [0, network.outputs]) for key in outputs}
    graph, opset = model.graph, {each.domain: each.version for each in model.opset_import}
    found = {value.name: _declared(value) for value in graph.output}
    fits = {value.name: _declared(value) for value in graph.input} == inputs
    if (
        opset != {"": OPSET}
        or model.functions
        or graph.sparse_initializer
        or not fits
        or {key: found.get(key) for key in outputs} != wanted
        or {tensor.name for tensor in graph.initializer} & set(inputs)
    ):
        raise BankError(
            f"{place}: must be a program of this network, opset {OPSET}, with float32 inputs "
            f"{list(inputs)!s:.200} and outputs {list(outputs)!s:.200} of their shapes; create the "
            "bank again"
        )
    return prune(graph, outputs)


def _names(graph: GraphProto) -> Iterator[str]:
    yield graph.name
    yield from (value.name for value in (*graph.input, *graph.output, *graph.initializer))
    for node in graph.node:
        yield from (node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            yield from _names(attribute.g)


def _declared(value: ValueInfoProto) -> list[int] | None:
    """Return the sizes of a float32 tensor, 0 for any; None of other values."""
    kind = value.type.tensor_type
    return [d.dim_value for d in kind.shape.dim] if kind.elem_type == FLOAT else None
