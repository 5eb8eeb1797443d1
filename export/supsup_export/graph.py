"""Build ONNX graphs: `onnx.helper` with unique names, shared constants and inlined programs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from supsup_runtime.arrays import Array
from supsup_runtime.bank.network import MaskedParameter, StateTensor
from supsup_runtime.errors import BankError

OPSET = 18
IR_VERSION = 8
MAX_MODEL_BYTES = 2**31 - 2**20
"""Largest sum of constants: an ONNX file without external data ends at 2 GB."""
_COPIED_BYTES = 1 << 10
"""Up to this size a constant is copied into each body that reads it."""
BOOL, FLOAT = TensorProto.BOOL, TensorProto.FLOAT
INT32, INT64, UINT8 = TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8
Value: TypeAlias = tuple[str, int, Sequence[int | str | None] | None]
"""Name, element type and shape; a string is a dynamic axis."""
Fill: TypeAlias = "Callable[[Graph], list[str]]"
"""Fills the body of a branch and returns its outputs."""


def refuse_large(place: Path, size: int, what: str) -> None:
    """Raise BankError if `size` bytes do not fit one file; `what` completes the message."""
    if size > MAX_MODEL_BYTES:
        raise BankError(f"{place}: one ONNX file holds at most {MAX_MODEL_BYTES} bytes, {what}")


class Graph:
    """A graph under construction; values are names.

    Attributes:
        scope: Name of an If or Loop body; empty for the outermost graph.
        nodes: Nodes so far, in order.
        outermost: Graph that contains all others.
    """

    def __init__(self) -> None:
        self.scope = ""
        self.nodes: list[NodeProto] = []
        self.outermost = self
        self._constants: dict[str, TensorProto] = {}
        self._by_content: dict[bytes, str] = {}
        self._by_identity: dict[int, tuple[npt.ArrayLike, str]] = {}
        self._numbers = count(1)

    def subgraph(self, scope: str) -> Graph:
        """Start the body of an If or Loop."""
        body = copy.copy(self)  # shares constants and counter
        body.scope, body.nodes = self.fresh(scope), []
        return body

    def fresh(self, hint: str) -> str:
        """Return a unique name."""
        return f"{hint}_{next(self._numbers)}"

    def constant(self, value: npt.ArrayLike, name: str = "const") -> str:
        """Return an initializer of the outermost graph; equal arrays are stored once.

        An array given again must not have changed.
        """
        if id(value) in self._by_identity:
            return self._by_identity[id(value)][1]
        array = np.asarray(value)
        content = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        content.update(array.tobytes())
        key = content.digest()
        if key not in self._by_content:
            unique = name if name not in self._constants else self.fresh(name)
            self._constants[unique] = numpy_helper.from_array(array, unique)
            self._by_content[key] = unique
        if isinstance(value, np.ndarray):
            self._by_identity[id(value)] = (
                value,
                self._by_content[key],
            )  # keeps the array, so its id stays unique
        return self._by_content[key]

    def ints(self, *values: int) -> str:
        """Return a constant ``int64 (n,)``."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Return a constant ``float32 ()``."""
        return self.constant(np.float32(value))

    def default(self, name: str, value: npt.ArrayLike) -> None:
        """Give an input of the model a default."""
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)

    def op(self, op_type: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; return its name."""
        return self.ops(op_type, inputs, [name or self.fresh(op_type.lower())], **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Append a node; return its output names."""
        self.nodes.append(helper.make_node(op_type, list(inputs), list(outputs), **attributes))
        return list(outputs)

    def split(self, value: str, sizes: Sequence[int], axis: int = 0) -> list[str]:
        """Split a value into consecutive parts."""
        if len(sizes) == 1:
            return [value]
        names = [self.fresh("part") for _ in sizes]
        return self.ops("Split", [value, self.ints(*sizes)], names, axis=axis)

    def cut(self, flat: str, tensors: Sequence[MaskedParameter | StateTensor]) -> dict[str, str]:
        """Split a flat value into shaped tensors by name."""
        if not tensors:
            return {}
        parts = self.split(flat, [t.size for t in tensors])
        return {t.name: self.reshape(p, t.shape) for t, p in zip(tensors, parts, strict=True)}

    def join(self, values: Sequence[str], axis: int = 0) -> str:
        """Concatenate one or more values."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=axis)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Reshape to a constant shape."""
        return self.op("Reshape", value, self.ints(*shape))

    def matmul_nbits(
        self,
        left: str,
        codes: str,
        scales: str,
        shape: tuple[int, int],
        *,
        bits: int,
        block: int,
        int8: bool = True,
    ) -> str:
        """Append ``left @ weight.T`` as MatMulNBits of ONNX Runtime.

        `shape` is the weight's ``(rows, columns)``, with a scale per `block` codes. On the CPU,
        activations are rounded to `int8`, without which 2 bits take seconds; CUDA never does.
        """
        sizes: dict[str, Any] = {"N": shape[0], "K": shape[1], "bits": bits, "block_size": block}
        how: dict[str, Any] = {"domain": "com.microsoft", "accuracy_level": 4 if int8 else 1}
        return self.op("MatMulNBits", left, codes, scales, **sizes, **how)

    def length(self, value: str) -> str:
        """Return the number of rows: ``int64 ()``."""
        return self.reshape(self.op("Shape", value, start=0, end=1), [])

    def branch(
        self,
        condition: str,
        then: Fill,
        other: Fill,
        types: Sequence[int],
        names: Sequence[str] = (),
    ) -> list[str]:
        """Append an If; return its outputs, of element types `types`."""
        bodies = []
        for scope, fill in (("then", then), ("else", other)):
            body = self.subgraph(scope)
            outputs = zip(body.own(fill(body)), types, strict=True)
            bodies.append(body.close([], [(name, dtype, None) for name, dtype in outputs]))
        names = names or [self.fresh("if") for _ in types]
        return self.ops("If", [condition], names, then_branch=bodies[0], else_branch=bodies[1])

    def if_rows(
        self, x: str, fill: Fill, shapes: Sequence[tuple[int, ...]], names: Sequence[str]
    ) -> list[str]:
        """Return the values of `fill`, or zeros if `x` has no rows, which programs refuse."""

        def none(body: Graph) -> list[str]:
            return [body.constant(np.zeros(shape, np.float32)) for shape in shapes]

        some = self.op("Cast", self.length(x), to=BOOL)
        return self.branch(some, fill, none, [FLOAT] * len(shapes), names)

    def own(self, values: Sequence[str]) -> list[str]:
        """Return values as outputs of a body: distinct, and made by its own nodes."""
        made = {value for node in self.nodes for value in node.output}
        outputs: list[str] = []
        for value in values:
            plain = value in made and value not in outputs
            outputs.append(value if plain else self.op("Identity", value))
        return outputs

    def close(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> GraphProto:
        """Finish a subgraph."""
        return helper.make_graph(self.nodes, self.scope, _infos(inputs), _infos(outputs))

    def inline(self, program: GraphProto, inputs: Mapping[str, str]) -> dict[str, str]:
        """Copy a program's nodes; return this graph's values for its outputs."""
        names = dict(inputs)
        for tensor in program.initializer:
            names[tensor.name] = self.constant(array_of(tensor))
        self.copy_nodes(program.node, names)
        return {value.name: names[value.name] for value in program.output}

    def copy_nodes(self, nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
        """Append copies of nodes; extend `names`, which maps values."""
        for node in nodes:
            made = copy.deepcopy(node)
            made.ClearField("name")
            made.input[:] = [_named(names, value) if value else "" for value in node.input]
            names.update({value: self.fresh("p") for value in node.output if value})
            made.output[:] = [names[value] if value else "" for value in node.output]
            for attribute in made.attribute:
                if attribute.HasField("g"):
                    attribute.g.CopyFrom(self._copy_body(attribute.g, names))
            self.nodes.append(made)

    def _copy_body(self, source: GraphProto, outer: Mapping[str, str]) -> GraphProto:
        body, names = self.subgraph("body"), dict(outer)
        for value in source.input:
            names[value.name] = self.fresh("p")
        for tensor in source.initializer:
            names[tensor.name] = self.constant(array_of(tensor))
        body.copy_nodes(source.node, names)
        outputs = body.own([_named(names, value.name) for value in source.output])
        graph = helper.make_graph(body.nodes, body.scope, source.input, source.output)
        for value in graph.input:
            value.name = _named(names, value.name)
        for value, name in zip(graph.output, outputs, strict=True):
            value.name = name
        return graph

    def model(
        self, name: str, inputs: Sequence[Value], outputs: Sequence[Value], metadata: dict[str, str]
    ) -> ModelProto:
        """Finish the outermost graph without unused nodes."""
        wanted, given = {output for output, _, _ in outputs}, {key for key, _, _ in inputs}
        own = {key: t for key, t in self._constants.items() if key not in given}
        small = {key: t for key, t in own.items() if t.ByteSize() <= _COPIED_BYTES}
        for node in self.nodes:
            self._copy_constants(node, small)
        nodes, used = _needed(self.nodes, wanted)
        constants = {key: tensor for key, tensor in self._constants.items() if key in used}
        # onnx.compose renames in bodies what nodes make, not initializers
        captured = {value for node in nodes for value in _captures(node)} - given
        made = [key for key in constants if key in captured]
        nodes = [
            *(helper.make_node("Constant", [], [key], value=constants.pop(key)) for key in made),
            *self._reaching(nodes, given - set(constants)),
        ]
        graph = helper.make_graph(
            nodes, name, _infos(inputs), _infos(outputs), list(constants.values())
        )
        domains = {node.domain for node in _all_nodes(nodes)} - {""}
        opsets = [helper.make_opsetid("", OPSET)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="supsup"
        )
        helper.set_model_props(model, metadata)
        return model

    def _copy_constants(self, node: NodeProto, constants: Mapping[str, TensorProto]) -> None:
        """Give a node's bodies their own copies of the constants that they read."""
        for body in (attribute.g for attribute in node.attribute if attribute.HasField("g")):
            names: dict[str, str] = {}
            for inner in body.node:
                self._copy_constants(inner, constants)
                for value in inner.input:
                    if value in constants and value not in names:
                        names[value] = self.fresh(value)
                inner.input[:] = [names.get(value, value) for value in inner.input]
            for value, name in reversed(names.items()):
                body.node.insert(
                    0, helper.make_node("Constant", [], [name], value=constants[value])
                )

    def _reaching(self, nodes: Iterable[NodeProto], inputs: set[str]) -> list[NodeProto]:
        """Return the nodes, and others by which each If and Loop reads what its bodies capture.

        onnx.utils.extract_model keeps what nodes read, not what bodies capture. ONNX Runtime folds
        most of the added nodes.
        """
        made: list[NodeProto] = []
        for node in nodes:
            at = {"If": 0, "Loop": 1}.get(node.op_type, len(node.input))
            values = _captures(node) - inputs
            values -= _behind(node.input, made) if values else set()
            if values and "".join(node.input[at : at + 1]):
                part = self.subgraph("")
                empty = [part.op("Shape", value, start=0, end=0) for value in sorted(values)]
                node.input[at] = part.op("Reshape", node.input[at], part.join(empty))
                made += part.nodes
            made.append(node)
        return made


def constants_of(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the constants of a graph that `Graph.model` made."""
    made = {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    return made | {tensor.name: tensor for tensor in graph.initializer}


def array_of(tensor: TensorProto) -> Array:
    """Return the values of a program's tensor."""
    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # numpy and onnx raise several kinds
        raise BankError(
            f"program: tensor {tensor.name!r:.80} must fit its type and shape: {error!s:.200}; "
            "create the bank again"
        ) from error


def _named(names: Mapping[str, str], value: str) -> str:
    if value not in names:
        raise BankError(f"program: no node makes the value {value!r:.80}; create the bank again")
    return names[value]


def prune(program: GraphProto, outputs: Sequence[str]) -> GraphProto:
    """Return a program with only what `outputs` need."""
    nodes, used = _needed(program.node, set(outputs))
    kept = {value.name: value for value in program.output}
    tensors = [tensor for tensor in program.initializer if tensor.name in used]
    return helper.make_graph(nodes, program.name, [], [kept[n] for n in outputs], tensors)


def _infos(values: Sequence[Value]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(*value) for value in values]


def _needed(nodes: Sequence[NodeProto], wanted: set[str]) -> tuple[list[NodeProto], set[str]]:
    """Return the nodes that `wanted` needs, and all values read."""
    used, kept = set(wanted), []
    for node in reversed(nodes):
        if used.intersection(node.output):
            kept.append(node)
            used |= _reads(node)
    return kept[::-1], used


def _reads(node: NodeProto) -> set[str]:
    return set(node.input) | _captures(node)


def _captures(node: NodeProto) -> set[str]:
    """Return the values of outer graphs that a node's bodies read."""
    inner = [each for each in _all_nodes([node]) if each is not node]
    bodies = [a.g for each in (node, *inner) for a in each.attribute if a.HasField("g")]
    own = {value for each in inner for value in each.output}
    own |= {value.name for graph in bodies for value in (*graph.input, *graph.initializer)}
    read = {value for each in inner for value in each.input}
    read |= {value.name for graph in bodies for value in graph.output}
    return read - own - {""}


def _behind(values: Iterable[str], nodes: Iterable[NodeProto]) -> set[str]:
    """Return values, and those that the nodes that made them read, at any distance."""
    makers = {value: node for node in nodes for value in node.output}
    found, left = set(values), list(values)
    while left:
        maker = makers.get(left.pop())
        new = set(maker.input) - found if maker else set()
        found |= new
        left += new
    return found


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g.node)
