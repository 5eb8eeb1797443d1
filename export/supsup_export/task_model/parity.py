"""Check that the model of one task computes what its bank specifies.

docs/CONTRACT.md, "A single task", lists the checks. The int8 bound holds for any input: each value
of a block is off by at most half a step, peak / 254, so an output by at most the sum of half steps
times the weight's magnitudes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper

from supsup_export.checking import (
    LOGITS_TOLERANCE,
    Findings,
    check_onnx,
    open_program,
    random_batches,
    relative_error,
)
from supsup_export.graph import FLOAT, array_of, constants_of
from supsup_export.task_model.ternary import unpack_codes
from supsup_runtime.arrays import Array, Floats
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.model.session import open_session

NUM_INPUTS = 32
"""Random inputs for logits and labels."""
_ROUNDING = 1e-6
"""Float32 rounding, relative to absolute terms as if no weight were zero: the operator subtracts
the zero point from a sum."""

Tensors = dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParity:
    """Differences between a model and its bank.

    Attributes:
        logits: Largest difference, relative to the largest logit.
        same_labels: Random inputs, of `NUM_INPUTS`, with the same largest real output.
    """

    logits: float
    same_labels: int

    def to_text(self) -> str:
        """Return part of a sentence."""
        return (
            f"checked against the bank, logits within {self.logits:.0e}, "
            f"same label for {self.same_labels} of {NUM_INPUTS} random inputs"
        )

    def to_dict(self) -> dict[str, object]:
        """Return the differences for JSON."""
        return {"inputs": NUM_INPUTS, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A use of a two-bit weight, which is in the graph if `value` is.

    Attributes:
        parameter: Name of the weight.
        value: Its floats, or the product with it.
        codes: Initializer of a product's codes; empty for floats.
        left: Left operand of a product.
        transposed: Whether the codes are transposed.
    """

    parameter: str
    value: str
    codes: str = ""
    left: str = ""
    transposed: bool = False


def check_task(
    path: Path,
    bank: MaskBank,
    task: TaskMasks,
    stored: Sequence[Stored],
    *,
    baked: bool,
    place: str,
) -> TaskParity:
    """Compare a model with its bank; messages call it `place`.

    `stored` lists possible two-bit weights; a `baked` model takes pictures.

    Raises:
        ParityError: If it is not valid ONNX or out of tolerance.
    """
    check_onnx(path, place=place)
    network = bank.network
    tensors: Tensors = dict(task.state)
    for p, weight in zip(network.parameters, network.weights(), strict=True):
        tensors[p.name] = weight * unpack_mask(task.masks[p.name], p.shape)
    program, session = open_program(bank, "forward"), open_session(path, place=place)
    findings, found, wanted = Findings(), [], []
    for given, x in random_batches(network, NUM_INPUTS // (1 + baked), baked=baked):
        want = program.run(["logits"], {"x": x, **tensors})[0]
        got = session.run(["logits"], {"x": given})[0]
        if stored:
            _check_two_bits(findings, onnx.load_model(path), tensors, stored, given, want)
        else:
            findings.compare("logits", got, want, LOGITS_TOLERANCE)
        found.append(got)
        wanted.append(want)
    findings.refuse(place)
    logits = np.concatenate(found), np.concatenate(wanted)
    labels = [each[:, : network.real_outputs_of(task.labels)].argmax(axis=1) for each in logits]
    same = int((labels[0] == labels[1]).sum())
    return TaskParity(logits=relative_error(*logits), same_labels=same)


def _check_two_bits(
    findings: Findings,
    model: ModelProto,
    tensors: Tensors,
    stored: Sequence[Stored],
    x: Array,
    want: Array,
) -> None:
    """Check a two-bit model; this changes `model`."""
    nodes = {value: node for node in model.graph.node for value in node.output}
    present = [item for item in stored if item.value in nodes]
    values = {"x": x, **_run(model, {v for s in present for v in (s.value, s.left)}, x)}
    constants = {name: array_of(t) for name, t in constants_of(model.graph).items()}
    failures = findings.failures
    for item in present:
        weight = tensors[item.parameter]
        if not item.codes:
            if not np.array_equal(values[item.value], weight):
                failures.append(f"the weights of {item.parameter!r} differ")
            continue
        weight = weight.T if item.transposed else weight
        scale = constants[nodes[nodes[item.value].input[2]].input[0]]
        decoded = unpack_codes(constants[item.codes], weight.shape[1]) * scale
        if not np.array_equal(decoded, weight):
            failures.append(f"the codes of {item.parameter!r} differ")
        failures += _check_product(item, nodes[item.value], values, weight)
    for node in model.graph.node:  # float32 activations from here on
        kept = [a for a in node.attribute if a.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    logits = _run(model, {"logits"}, x)["logits"]
    findings.compare("logits with float32 activations", logits, want, LOGITS_TOLERANCE)


def _run(model: ModelProto, names: set[str], x: Array) -> dict[str, Array]:
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
    """Compare ``left @ weight.T`` with float64, within the int8 bound."""
    block = next(a.i for a in node.attribute if a.name == "block_size")
    left = values[item.left].astype(np.float64).reshape(-1, weight.shape[1])
    got = values[item.value].reshape(len(left), -1)
    padded = np.pad(np.abs(left), ((0, 0), (0, -left.shape[1] % block)))
    peaks = padded.reshape(len(left), -1, block).max(axis=2)
    half_step = (peaks / 127 / 2).repeat(block, axis=1)[:, : left.shape[1]]
    rounding = _ROUNDING * np.abs(left).sum(axis=1, keepdims=True) * np.abs(weight).max()
    allowed = half_step @ np.abs(weight.T) + rounding
    error = np.abs(got - left @ weight.T)
    if (error <= allowed).all():  # false for NaN
        return []
    return [f"the product with {item.parameter!r} differs by more than int8 rounding allows"]
