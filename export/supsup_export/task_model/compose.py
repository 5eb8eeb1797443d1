"""One task of a bank as a plain model: ``x`` in, ``logits`` out, nothing to select.

The weights are float32 behind the task's mask, or, as those of signed constants are ternary, two
bits each (docs/CONTRACT.md, "A single task").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from supsup_export.bank_model.layout import MAX_MODEL_BYTES
from supsup_export.exporter import claim_output, placed
from supsup_export.graph import Graph, parse, tensor_info
from supsup_export.task_model.parity import Stored, TaskParity, check_task
from supsup_export.task_model.ternary import Ternary, floats, product, ternary
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.fields import canonical_json
from supsup_runtime.bank.network import MaskedParameter
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.model.metadata import PREFIX

__all__ = ["BITS", "Bits", "TaskExportReport", "export_task"]

Bits = Literal[2, 32]
BITS: tuple[int, ...] = get_args(Bits)
_SHOWN = 3  # task names in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskExportReport:
    """What was written.

    Attributes:
        path: The model.
        task: The task's name.
        bits: A masked weight's, in the file.
        model_bytes: Size of the model.
        parity: How it differs from the bank; None if that was not asked for.
    """

    path: Path
    task: str
    bits: int
    model_bytes: int
    parity: TaskParity | None


def export_task(
    bank: MaskBank,
    name: str,
    path: str | Path,
    *,
    bits: int = 32,
    check: bool = True,
    sidecar: bool = False,
    force: bool = False,
) -> TaskExportReport:
    """Write the model of one task; on any failure, leave what was there before.

    Args:
        bank: Open, with the task in it.
        name: The task.
        path: The ``.onnx`` file.
        bits: 32 for float32 weights; 2 for ternary ones and int8 activations in linear layers.
        check: Run the model against the bank before it is put in place.
        sidecar: Write the metadata beside it as ``path + '.json'``.
        force: Replace a file that is there, and its sidecar.

    Raises:
        InputError: If `bits` is not 2 or 32, or 2 where nothing is masked, or there is no such
            task.
        OutputExistsError: If `path` is there and `force` is false, or lies inside the bank.
        BankError: If the task's file is damaged, the model would pass 2 GB, or its weights do
            not fit two bits.
        ParityError: If the model does not compute what the bank says.
    """
    if bits not in BITS:
        raise InputError(f"bits: must be 32 (float32) or 2 (ternary), got {bits}")
    if bits == 2 and not bank.network.parameters:
        raise InputError(
            f"bits: 2 is for masked weights, {bank.path} has none: its tasks are state alone, "
            "float32; export with --bits 32"
        )
    if name not in bank:
        shown = ", ".join([*bank.task_names[:_SHOWN], *["..."] * (len(bank) > _SHOWN)])
        shown = f": {shown}" if shown else ""
        raise InputError(f"task {name!r}: not among the {len(bank)} tasks of {bank.path}{shown}")
    output = claim_output(bank, path, force=force)
    _refuse_large(bank, bits)
    task = bank.task(name)
    composer = _Composer(bank, task, bits)
    metadata = _metadata(bank, task, bits)
    model = composer.model(metadata)
    with placed(output, metadata, sidecar=sidecar) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
        del model  # the check loads the file
        parity = check_task(part, bank, task, composer.stored, place=str(output)) if check else None
        model_bytes = part.stat().st_size
    return TaskExportReport(
        path=output, task=name, bits=bits, model_bytes=model_bytes, parity=parity
    )


def _refuse_large(bank: MaskBank, bits: int) -> None:
    network = bank.network
    expected = network.num_masked * bits // 8 + 4 * network.num_state + len(bank.forward)
    if expected > MAX_MODEL_BYTES:
        remedy = "; export with --bits 2" if bits == 32 else ""
        raise BankError(
            f"{bank.path}: one ONNX file holds at most {MAX_MODEL_BYTES} bytes, this task's "
            f"{network.num_masked} weights of {bits} bits need {expected}{remedy}"
        )


def _metadata(bank: MaskBank, task: TaskMasks, bits: int) -> dict[str, str]:
    """Without `contract`, as no host of contract 1 can run such a model; sorted by key."""
    values = {
        "bits": str(bits),
        "digest": bank.digest,
        "kind": "task",
        "labels": canonical_json(list(task.labels)),
        "network": canonical_json(bank.network.to_dict()),
        "task": task.name,
    }
    return {PREFIX + key: values[key] for key in sorted(values)}


class _Composer:
    """The forward program, its weights and state constants.

    Attributes:
        stored: Where in the graph the two-bit weights are; empty for float32.
    """

    def __init__(self, bank: MaskBank, task: TaskMasks, bits: int) -> None:
        self.network = bank.network
        self.task = task
        self.program = parse(bank.forward).graph
        self.graph = Graph()
        self.stored: list[Stored] = []
        self._values = {"x": "x"}  # of the graph, by the program's names
        for name, value in task.state.items():
            self._values[name] = self.graph.constant(value, f"state.{name}")
        self._ternary: dict[str, Ternary] = {}
        if bits == 32:
            self._add_floats()
        else:
            self._add_codes()

    def _weights(
        self,
    ) -> Iterator[tuple[MaskedParameter, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
        for p, weight in zip(self.network.parameters, self.network.weights(), strict=True):
            yield p, weight, unpack_mask(self.task.masks[p.name], p.shape)

    def _add_floats(self) -> None:
        for p, weight, mask in self._weights():
            masked = np.where(mask, weight, np.float32(0))
            self._values[p.name] = self.graph.constant(masked, f"masked.{p.name}")

    def _add_codes(self) -> None:
        """Every weight as folded floats; those that only products read are dropped at the end."""
        for p, weight, mask in self._weights():
            made = ternary(p.name, weight, mask, p.constant)
            self._ternary[p.name] = made
            self._values[p.name] = floats(self.graph, made)
            self.stored.append(Stored(parameter=p.name, value=self._values[p.name]))

    def model(self, metadata: dict[str, str]) -> ModelProto:
        """Copy the program; with two bits, products with a weight become MatMulNBits."""
        names, graph = self._values, self.graph
        for tensor in self.program.initializer:
            names[tensor.name] = graph.constant(numpy_helper.to_array(tensor))
        linear = _Linear({name for name, w in self._ternary.items() if w.signs.ndim == 2})
        for node in self.program.node:
            found = linear.weight_of(node)
            if found is None:
                graph.copy_nodes(GraphProto(node=[node]), names)
            else:
                name, transposed = found
                names[node.output[0]] = self._product(node, name, transposed=transposed)
        graph.op("Identity", names["logits"], name="logits")
        x = tensor_info("x", TensorProto.FLOAT, ["batch", *self.network.input_shape])
        logits = tensor_info("logits", TensorProto.FLOAT, ["batch", self.network.outputs])
        return graph.model("supsup_task", [x], [logits], metadata)

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
    """Which nodes of a program are a product with a weight, ``left @ weight.T`` or with it as is.

    PyTorch's linear layers are a Gemm, or a Transpose and a MatMul where there are more axes.
    """

    def __init__(self, weights: set[str]) -> None:
        # by value: the parameter, and whether the value is its transpose
        self._weights = {name: (name, False) for name in weights}

    def weight_of(self, node: NodeProto) -> tuple[str, bool] | None:
        """The parameter that a node multiplies by, and whether as it is, not transposed.

        Nodes must be given in their order, as a Transpose is remembered.
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
    """Whether a Gemm neither scales nor transposes its left side; a MatMul has no attributes."""
    scaled = any(key in attributes and attributes[key].f != 1 for key in ("alpha", "beta"))
    return not scaled and not ("transA" in attributes and attributes["transA"].i)
