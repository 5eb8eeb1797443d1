"""A small builder of ONNX graphs: nodes in order, constants by content, names that never clash.

`onnx.helper` does the work; what is added is fresh names, one store of constants that a graph
shares with its subgraphs, and the copying of a whole program into a graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

__all__ = ["IR_VERSION", "OPSET", "Graph", "parse", "prune", "tensor_info"]

OPSET = 18
IR_VERSION = 8


def tensor_info(
    name: str, dtype: int, shape: Sequence[int | str | None] | None = None
) -> ValueInfoProto:
    """Name, type and shape of a graph's input or output; a string names a dynamic axis."""
    return helper.make_tensor_value_info(name, dtype, shape)


class _Shared:
    """What a graph and its subgraphs have in common: constants by content, and a counter."""

    def __init__(self) -> None:
        self.constants: dict[str, TensorProto] = {}
        self._by_content: dict[bytes, str] = {}
        self._counter = 0

    def fresh(self, hint: str) -> str:
        self._counter += 1
        return f"{hint}_{self._counter}"

    def constant(self, array: npt.NDArray[np.generic], name: str) -> str:
        content = f"{array.dtype.str}{array.shape}".encode() + array.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._by_content:
            unique = name if name not in self.constants else self.fresh(name)
            self.constants[unique] = numpy_helper.from_array(array, unique)
            self._by_content[key] = unique
        return self._by_content[key]


class Graph:
    """A graph in the making. Values are strings, as in the file.

    Attributes:
        scope: Name of the body of an If or Loop; empty for the outermost graph.
        nodes: The nodes so far, in order.
        outermost: The graph that all others are within; itself for that one.
    """

    def __init__(self) -> None:
        self.scope = ""
        self.nodes: list[NodeProto] = []
        self.outermost = self
        self._shared = _Shared()

    def subgraph(self, scope: str) -> Graph:
        """A graph for the body of an If or Loop; it sees this graph's values and constants."""
        body = Graph()
        body.scope = self.fresh(scope)
        body.outermost, body._shared = self.outermost, self._shared
        return body

    def fresh(self, hint: str) -> str:
        """A name that no other value of the model has."""
        return self._shared.fresh(hint)

    def constant(self, value: npt.ArrayLike, name: str = "const") -> str:
        """An initializer of the outermost graph; equal arrays are stored once."""
        return self._shared.constant(np.asarray(value), name)

    def default(self, name: str, value: npt.ArrayLike) -> None:
        """Give an input of the model a value for hosts that do not feed it."""
        self._shared.constants[name] = numpy_helper.from_array(np.asarray(value), name)

    def op(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output, named `name` or afresh; return the output's name."""
        return self.ops(op_type, inputs, [name or self.fresh(op_type.lower())], **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Append a node with the given output names; return them."""
        self.nodes.append(helper.make_node(op_type, list(inputs), list(outputs), **attributes))
        return list(outputs)

    def split(self, flat: str, sizes: Sequence[int]) -> list[str]:
        """Cut a 1-D value into consecutive parts."""
        if len(sizes) == 1:
            return [flat]
        names = [self.fresh("part") for _ in sizes]
        return self.ops("Split", [flat, self.constant(np.array(sizes, np.int64))], names, axis=0)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """``Reshape`` to a constant shape."""
        return self.op("Reshape", value, self.constant(np.array(shape, np.int64)))

    def branch(
        self,
        condition: str,
        then_branch: Callable[[Graph], list[str]],
        else_branch: Callable[[Graph], list[str]],
        types: Sequence[int],
        names: Sequence[str] = (),
    ) -> list[str]:
        """Append an ``If``.

        Args:
            condition: A bool scalar.
            then_branch: Fills the graph it is given and returns its outputs.
            else_branch: Likewise.
            types: ONNX element type of each output.
            names: Of the outputs; fresh ones if empty.
        """
        bodies = []
        for scope, fill in (("then", then_branch), ("else", else_branch)):
            body = self.subgraph(scope)
            outputs = body.own(fill(body))
            infos = [tensor_info(n, t) for n, t in zip(outputs, types, strict=True)]
            bodies.append(body.close([], infos))
        names = names or [self.fresh("if") for _ in types]
        return self.ops("If", [condition], names, then_branch=bodies[0], else_branch=bodies[1])

    def own(self, values: Sequence[str]) -> list[str]:
        """Values as a body's outputs must be: made by its own nodes, each once."""
        made = {value for node in self.nodes for value in node.output}
        outputs: list[str] = []
        for value in values:
            plain = value in made and value not in outputs
            outputs.append(value if plain else self.op("Identity", value))
        return outputs

    def close(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> GraphProto:
        """End a subgraph."""
        return helper.make_graph(self.nodes, self.scope, list(inputs), list(outputs))

    def inline(self, program: ModelProto, inputs: Mapping[str, str]) -> dict[str, str]:
        """Copy a program's nodes into this graph.

        Args:
            program: Its inputs are values of this graph by the program's own names.
            inputs: Value of this graph for each of the program's inputs.

        Returns:
            Value of this graph for each of the program's outputs.
        """
        names = dict(inputs)
        for tensor in program.graph.initializer:
            names[tensor.name] = self.constant(numpy_helper.to_array(tensor))
        self.copy_nodes(program.graph, names)
        return {value.name: names[value.name] for value in program.graph.output}

    def copy_nodes(self, source: GraphProto, names: dict[str, str]) -> None:
        """Append copies of `source`'s nodes; `names` maps its values, and learns the new ones."""
        for node in source.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.ClearField("name")
            copy.input[:] = [names[value] if value else "" for value in node.input]
            for value in node.output:
                if value:
                    names[value] = self.fresh("p")
            copy.output[:] = [names[value] if value else "" for value in node.output]
            for attribute in copy.attribute:
                if attribute.HasField("g"):
                    attribute.g.CopyFrom(self._copy_body(attribute.g, names))
            self.nodes.append(copy)

    def _copy_body(self, source: GraphProto, outer: Mapping[str, str]) -> GraphProto:
        """Copy the body of a program's If or Loop; it sees the values of the graph around it."""
        body, names = self.subgraph("body"), dict(outer)
        for value in source.input:
            names[value.name] = self.fresh("p")
        for tensor in source.initializer:
            names[tensor.name] = self.constant(numpy_helper.to_array(tensor))
        body.copy_nodes(source, names)
        graph = helper.make_graph(body.nodes, body.scope, [], [])
        for field, target in ((source.input, graph.input), (source.output, graph.output)):
            for value in field:
                copy = target.add()
                copy.CopyFrom(value)
                copy.name = names[value.name]
        return graph

    def model(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        metadata: Mapping[str, str],
    ) -> ModelProto:
        """Close the outermost graph: drop what no output needs, and make the model."""
        nodes = _needed(self.nodes, {value.name for value in outputs})
        used = {value for node in nodes for value in _reads(node)}
        constants = [t for key, t in self._shared.constants.items() if key in used]
        graph = helper.make_graph(nodes, name, list(inputs), list(outputs), constants)
        domains = {node.domain for node in _all_nodes(nodes)} - {""}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="supsup"
        )
        helper.set_model_props(model, dict(metadata))
        return model


def _needed(nodes: Sequence[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """The nodes that `wanted` depends on, in their order."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: NodeProto) -> set[str]:
    """Values that a node reads, its subgraphs included."""
    return {value for inner in _all_nodes([node]) for value in inner.input} | {
        value.name
        for inner in _all_nodes([node])
        for attribute in inner.attribute
        if attribute.HasField("g")
        for value in attribute.g.output
    }


def _all_nodes(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    found = []
    for node in nodes:
        found.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _all_nodes(attribute.g.node)
    return found


def prune(program: ModelProto, outputs: Sequence[str]) -> ModelProto:
    """A program with `outputs` alone, and only the nodes and constants that they need."""
    pruned = ModelProto()
    pruned.CopyFrom(program)
    graph = pruned.graph
    nodes = _needed(graph.node, set(outputs))
    used = {value for node in nodes for value in _reads(node)} | set(outputs)
    kept = {value.name: value for value in graph.output}
    tensors = [t for t in graph.initializer if t.name in used]
    for field, items in (
        (graph.node, nodes),
        (graph.initializer, tensors),
        (graph.output, [kept[name] for name in outputs]),
    ):
        copies = [type(item)() for item in items]
        for copy, item in zip(copies, items, strict=True):
            copy.CopyFrom(item)
        del field[:]
        field.extend(copies)
    return pruned


def parse(program: bytes) -> ModelProto:
    """Read a program's bytes."""
    return onnx.load_model_from_string(program)
