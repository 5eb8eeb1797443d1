"""Compose one task as a plain model: ``x`` in, ``logits`` out.

Weights are masked float32, or ternary in two bits each (docs/CONTRACT.md, "A single task").
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto

from supsup_export.graph import FLOAT, Graph, array_of, refuse_large
from supsup_export.preparing import bakes, input_of, inputs
from supsup_export.programs import program_of
from supsup_export.task_model.parity import Stored
from supsup_export.task_model.ternary import Ternary, floats, product, ternary
from supsup_runtime.arrays import Bits, Floats, is_whole, shown
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.fields import canonical_json
from supsup_runtime.bank.network import MaskedParameter
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import BAKED, PREFIX, Preprocess

BITS: tuple[int, ...] = get_args(Literal[2, 32])
_SHOWN = 3  # task names in a message


def read_task(
    bank: MaskBank, name: str, bits: int, preprocess: Preprocess
) -> tuple[TaskMasks, bool]:
    """Return a task and whether preprocessing is baked in, if possible; see `export_task`."""
    network, baked = bank.network, bakes(bank, preprocess)
    if not is_whole(bits) or bits not in BITS:
        raise InputError(f"bits: must be 32 (float32) or 2 (ternary), got {shown(bits)}")
    if bits == 2 and not network.parameters:
        raise InputError(
            f"bits: 2 requires masked weights, {bank.path} has none: its tasks have only float32 "
            "state; export with --bits 32"
        )
    if bits == 2 and network.stored:
        raise InputError(
            f"bits: 2 requires weights of one magnitude per layer, {bank.path} stores its own; "
            "export with --bits 32"
        )
    if name not in bank:
        some = ", ".join([*bank.task_names[:_SHOWN], *["..."] * (len(bank) > _SHOWN)])
        known = f"{len(bank)} tasks of {bank.path}{f': {some}' if some else ''}"
        raise InputError(f"task {shown(name)}: not among the {known}")
    size = network.num_masked * bits // 8 + 4 * network.num_state + len(bank.forward)
    remedy = "; export with --bits 2" if bits == 32 else ""
    what = f"this task's {network.num_masked} weights of {bits} bits need {size}{remedy}"
    refuse_large(bank.path, size, what)
    return bank.task(name), baked


def compose_task(
    bank: MaskBank, task: TaskMasks, bits: int, *, baked: bool
) -> tuple[ModelProto, list[Stored]]:
    """Return the model of a task, and its uses of two-bit weights.

    `baked`: with the bank's preprocessing.
    """
    composer = _Composer(bank, task, bits, baked=baked)
    composer.add_program()
    values = {  # no `contract`: hosts of the contract cannot run this
        "bits": str(bits),
        "digest": bank.digest,
        "kind": "task",
        "labels": canonical_json(list(task.labels)),
        "network": canonical_json(bank.network.to_dict()),
        "task": task.name,
        **({"preprocess": BAKED} if baked else {}),
    }
    model = composer.graph.model(
        "supsup_task",
        [input_of(bank.network, baked=baked)],
        [("logits", FLOAT, ["batch", bank.network.outputs])],
        {PREFIX + key: value for key, value in values.items()},
    )
    return model, composer.stored


class _Composer:
    def __init__(self, bank: MaskBank, task: TaskMasks, bits: int, *, baked: bool) -> None:
        self.graph = Graph()
        self.stored: list[Stored] = []
        self._program = program_of(bank, "forward", ["logits"])
        x = inputs(self.graph, bank.network) if baked else "x"
        self._values = {"x": x}  # from program to graph
        self._ternary: dict[str, Ternary] = {}
        for name, value in task.state.items():
            self._values[name] = self.graph.constant(value, f"state.{name}")
        for p, weight in zip(bank.network.parameters, bank.network.weights(), strict=True):
            mask = unpack_mask(task.masks[p.name], p.shape)
            self._values[p.name] = (
                self.graph.constant(np.where(mask, weight, np.float32(0)), f"masked.{p.name}")
                if bits == 32
                else self._codes(p, weight, mask)
            )

    def _codes(self, p: MaskedParameter, weight: Floats, mask: Bits) -> str:
        """Return folded floats, which are dropped if only products use the weight."""
        self._ternary[p.name] = ternary(p.name, weight, mask, p.constant)
        value = floats(self.graph, self._ternary[p.name])
        self.stored.append(Stored(parameter=p.name, value=value))
        return value

    def add_program(self) -> None:
        names, graph = self._values, self.graph
        for tensor in self._program.initializer:
            names[tensor.name] = graph.constant(array_of(tensor))
        linear = _Linear({name for name, w in self._ternary.items() if w.signs.ndim == 2})
        for node in self._program.node:
            found = linear.weight_of(node)
            if found is None:
                graph.copy_nodes([node], names)
            else:
                name, transposed = found
                names[node.output[0]] = self._product(node, name, transposed=transposed)
        graph.op("Identity", names["logits"], name="logits")

    def _product(self, node: NodeProto, name: str, *, transposed: bool) -> str:
        left = self._values[node.input[0]]
        value, codes = product(self.graph, left, self._ternary[name], transposed=transposed)
        self.stored.append(
            Stored(parameter=name, value=value, codes=codes, left=left, transposed=transposed)
        )
        if len(node.input) == 3 and node.input[2]:
            value = self.graph.op("Add", value, self._values[node.input[2]])
        return value


class _Linear:
    """Finds nodes that multiply by a weight or its transpose.

    PyTorch's linear layers are a Gemm or, with more axes, a Transpose and a MatMul.
    """

    def __init__(self, weights: set[str]) -> None:
        # from value to parameter, and whether transposed
        self._weights = {name: (name, False) for name in weights}

    def weight_of(self, node: NodeProto) -> tuple[str, bool] | None:
        """Return the weight that a node multiplies by, and whether untransposed.

        Nodes must come in graph order.
        """
        if node.domain not in {"", "ai.onnx"} or not node.input:
            return None
        attributes = {a.name: a for a in node.attribute}
        if node.op_type == "Transpose" and node.input[0] in self._weights:
            name, flipped = self._weights[node.input[0]]
            if "perm" not in attributes or list(attributes["perm"].ints) == [1, 0]:
                self._weights[node.output[0]] = (name, not flipped)
            return None
        if node.op_type not in {"Gemm", "MatMul"} or node.input[0] in self._weights:
            return None
        if node.input[1] not in self._weights or not _is_plain(attributes):
            return None
        name, flipped = self._weights[node.input[1]]
        by_rows = "transB" in attributes and attributes["transB"].i == 1
        return name, flipped == by_rows


def _is_plain(attributes: dict[str, AttributeProto]) -> bool:
    scaled = any(key in attributes and attributes[key].f != 1 for key in ("alpha", "beta"))
    return not scaled and not ("transA" in attributes and attributes["transA"].i)
