"""Check that a model of one task computes what its bank says, before it is put in place.

The reference is the bank's forward program, run by itself on weights masked in numpy. Of a model
with two bits per weight three things are checked, as int8 activations alone may differ:

- its weights, decoded, equal the bank's exactly;
- the same graph with float32 activations gives the reference's logits;
- each product, with int8 activations, is within what the rounding can do. A block of activations
  is rounded to steps of its peak / 127, each by at most half a step, so an output is off by at
  most the sum of half a step times the weight's magnitude: a bound for any input, without
  assumptions about the layers after it.

How far the logits end up from the reference's, and how often the label is the same, is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from supsup_export.checking import (
    LOGITS_TOLERANCE,
    Findings,
    check_onnx,
    open_program,
    relative_error,
)
from supsup_export.graph import FLOAT
from supsup_export.task_model.ternary import unpack_codes
from supsup_runtime.arrays import Array, Floats
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.model.session import open_session

NUM_INPUTS = 32
"""Random inputs that logits and labels are compared on."""
_ROUNDING = 1e-6
"""Of a sum's absolute terms as if no weight were zero, as the operator takes the zero point off a
sum: float32, beside the int8 of the bound."""

Tensors = dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParity:
    """How a model differs from its bank, on random inputs.

    Attributes:
        logits: Largest difference, relative to the largest logit.
        same_labels: Inputs, of `NUM_INPUTS`, with the same largest real output.
    """

    logits: float
    same_labels: int

    def to_text(self) -> str:
        """As a part of a sentence."""
        return (
            f"checked against the bank, logits within {self.logits:.0e}, "
            f"same label for {self.same_labels} of {NUM_INPUTS} random inputs"
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"inputs": NUM_INPUTS, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One use of a two-bit weight in a graph, which has it if `value` is there.

    Attributes:
        parameter: The weight's name.
        value: Its floats, or the product with it.
        codes: Initializer of a product's codes; empty for floats.
        left: What a product multiplies with the weight.
        transposed: The codes are of the weight's transpose.
    """

    parameter: str
    value: str
    codes: str = ""
    left: str = ""
    transposed: bool = False


def check_task(
    path: Path, bank: MaskBank, task: TaskMasks, stored: Sequence[Stored], *, place: str
) -> TaskParity:
    """Run a model of one task, which messages call `place`, against its bank.

    `stored` are the two-bit weights that the model may have; empty where they are float32.

    Raises:
        ParityError: If the model is not valid ONNX, or differs by more than the module says.
    """
    check_onnx(path, place=place)
    network = bank.network
    tensors: Tensors = dict(task.state)
    for p, weight in zip(network.parameters, network.weights(), strict=True):
        tensors[p.name] = weight * unpack_mask(task.masks[p.name], p.shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((NUM_INPUTS, *network.input_shape)).astype(np.float32)
    want = open_program(bank, "forward").run(["logits"], {"x": x, **tensors})[0]
    got = open_session(path, place=place).run(["logits"], {"x": x})[0]
    findings = Findings()
    if stored:
        _check_two_bits(findings, onnx.load_model(path), tensors, stored, x, want)
    else:
        findings.compare("logits", got, want, LOGITS_TOLERANCE)
    findings.refuse(place)
    labels = [logits[:, : network.real_outputs].argmax(axis=1) for logits in (got, want)]
    same = int((labels[0] == labels[1]).sum())
    return TaskParity(logits=relative_error(got, want), same_labels=same)


def _check_two_bits(
    findings: Findings,
    model: ModelProto,
    tensors: Tensors,
    stored: Sequence[Stored],
    x: Array,
    want: Array,
) -> None:
    """The module's docstring says what is compared; `model` is changed."""
    nodes = {value: node for node in model.graph.node for value in node.output}
    present = [item for item in stored if item.value in nodes]
    values = {"x": x, **_run(model, {v for s in present for v in (s.value, s.left)}, x)}
    initializers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    failures = findings.failures
    for item in present:
        weight = tensors[item.parameter]
        if not item.codes:
            if not np.array_equal(values[item.value], weight):
                failures.append(f"the weights of {item.parameter!r} differ")
            continue
        weight = weight.T if item.transposed else weight
        scale = initializers[nodes[nodes[item.value].input[2]].input[0]]
        decoded = unpack_codes(initializers[item.codes], weight.shape[1]) * scale
        if not np.array_equal(decoded, weight):
            failures.append(f"the codes of {item.parameter!r} differ")
        failures += _check_product(item, nodes[item.value], values, weight)
    for node in model.graph.node:  # from here on it computes in float32
        kept = [a for a in node.attribute if a.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    logits = _run(model, {"logits"}, x)["logits"]
    findings.compare("logits with float32 activations", logits, want, LOGITS_TOLERANCE)


def _run(model: ModelProto, names: set[str], x: Array) -> dict[str, Array]:
    """Values inside a model, by name."""
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    wanted = sorted(names - {"", "x"})
    probed.graph.output.extend(helper.make_tensor_value_info(n, FLOAT, None) for n in wanted)
    if not wanted:
        return {}
    session = open_session(probed.SerializeToString(), place="the model, probed")
    return dict(zip(wanted, session.run(wanted, {"x": x}), strict=True))


def _check_product(
    item: Stored, node: NodeProto, values: dict[str, Array], weight: Array
) -> list[str]:
    """Compare ``left @ weight.T`` with float64, within what int8 rounding can do."""
    block = next(a.i for a in node.attribute if a.name == "block_size")
    left = values[item.left].astype(np.float64).reshape(-1, weight.shape[1])
    got = values[item.value].reshape(len(left), -1)
    padded = np.pad(np.abs(left), ((0, 0), (0, -left.shape[1] % block)))
    peaks = padded.reshape(len(left), -1, block).max(axis=2)
    half_step = (peaks / 127 / 2).repeat(block, axis=1)[:, : left.shape[1]]
    rounding = _ROUNDING * np.abs(left).sum(axis=1, keepdims=True) * np.abs(weight).max()
    allowed = half_step @ np.abs(weight.T) + rounding
    error = np.abs(got - left @ weight.T)
    if (error <= allowed).all():  # not so for NaN
        return []
    return [f"the product with {item.parameter!r} differs by more than int8 rounding can"]
