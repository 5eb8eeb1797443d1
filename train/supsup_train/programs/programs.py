"""Export of a module as a forward and a gradient program, with the weights as inputs.

The gradient program propagates both objectives back through one forward pass (Wortsman et al. 2020,
equation 4). With ``p = softmax(z)`` of the logits ``z``, and means over the batch:

- ``entropy``: ``H = -sum_v p_v log p_v``, so ``dH/dz_v = p_v (sum_u p_u z_u - z_v)``; ``log p`` in
  place of ``z`` would lose digits for nearly uniform outputs;
- ``superfluous``: ``G = logsumexp(z')``, where ``z'`` is ``z`` without gradient through the real
  outputs, so ``dG/dz_v = p_v`` for a superfluous output ``v`` and 0 for a real one (Lemma 1).
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.func import functional_call

# Tracing autograd has no public API.
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.fx.node import Argument, Target

from supsup_runtime.bank.index import OBJECTIVES
from supsup_runtime.errors import SupSupError
from supsup_train.programs.agreement import (
    FORWARD_ALONE,
    REPLACE,
    ProgramError,
    check_gradients,
    check_logits,
    make_trial,
)
from supsup_train.programs.backward_ops import backward_decompositions
from supsup_train.programs.forward_ops import DIFFERENTIABLE
from supsup_train.programs.onnx_file import Shape, to_onnx
from supsup_train.programs.weights import sources, weights_of

__all__ = ["ProgramError", "Programs", "describe", "export_programs"]

aten = torch.ops.aten

# Options by which a random operator is off.
_SWITCHES = {"train", "training", "dropout_p"}
_EXAMPLE_BATCH = 37  # a prime, unlikely to be another dimension
# Of torch 2.13 about itself, and about the tensors that `functional_call` puts in and takes out.
_TORCH_WARNING = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated|While compiling, we found certain"
)
_OPERATOR = re.compile(r"OpOverload\(op='([^']+)', overload='([^']+)'\)")

_CAPTURABLE = "it must accept this shape in batches of any size, and not branch on values"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Serialised ONNX models, opset 18, IR 8, with a dynamic batch.

    Attributes:
        forward: From ``x``, parameters and state to ``logits``, ``float32 (batch, outputs)``.
        gradient: From the same to ``<objective>.<name>`` of each parameter and state tensor, or
            None.
    """

    forward: bytes
    gradient: bytes | None


def describe(
    module: nn.Module, input_shape: tuple[int, ...]
) -> tuple[int, dict[str, str], list[str]]:
    """Trace a module in eval mode, and take two training steps with a copy.

    Returns:
        The number of logits, the tensors used as weights with the operators that use them, in order
        of use, and the buffers that training changes.

    Raises:
        ProgramError: If it cannot be traced, or trained on inputs of this shape.
    """
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    tensors = {name: value.detach() for name, value in tensors.items()}
    if not tensors:
        raise ProgramError("network: it must have a parameter to mask or a tensor as state")
    with _quiet():
        captured = _capture(copy.deepcopy(module).eval(), input_shape, tensors)
        outputs = _count_outputs(captured, len(tensors))
        with _refusal(f"training on x of shape {('batch', *input_shape)}", REPLACE):
            trial = make_trial(module, input_shape, dict(module.named_parameters()))
    return outputs, weights_of(captured, tensors), trial.changed


def export_programs(
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    parameters: Sequence[str],
    state: Sequence[str],
    real_outputs: int,
    require_gradient: bool = True,
) -> Programs:
    """Export a module's forward pass, in eval mode, and the gradients of its objectives.

    The arguments are those of `create_bank`. Without superfluous outputs, the gradient program has
    ``entropy`` outputs only. Omitting a gradient logs a warning.

    Returns:
        Programs whose inputs are ``x``, the parameters and the state, in order, used or not.

    Raises:
        ProgramError: If a name, shape or dtype is wrong, or an operator cannot be exported.
    """
    free, constants = _tensors(module, parameters, state)
    inputs: dict[str, Shape] = {"x": ("batch", *input_shape)}
    inputs |= {name: tuple(tensor.shape) for name, tensor in free.items()}
    with _quiet():
        captured = _capture(copy.deepcopy(module).eval(), input_shape, free | constants)
        outputs = _count_outputs(captured, len(free))
        if not 1 <= real_outputs <= outputs:
            raise ProgramError(
                f"network: real_outputs must be in [1, {outputs}], its outputs, got {real_outputs}"
            )
        logits: dict[str, Shape] = {"logits": ("batch", outputs)}
        with _refusal("forward pass", REPLACE):
            trial = make_trial(module, input_shape, free)
            check_logits(trial, captured.module(), [*constants.values()])
            forward = _convert(captured, inputs, constants, logits)
        objectives = OBJECTIVES if real_outputs < outputs else OBJECTIVES[:1]
        gradients = {
            f"{objective}.{name}": inputs[name] for objective in objectives for name in free
        }
        gradient = None
        try:
            with _refusal("gradient", FORWARD_ALONE):
                differentiated, lifted = _differentiate(captured, len(free), real_outputs)
                constants |= lifted
                held, pulls = [*constants.values()], partial(_cotangents, real_outputs=real_outputs)
                check_gradients(trial, differentiated.module(), held, pulls)
                gradient = _convert(differentiated, inputs, constants, gradients)
        except ProgramError as error:
            if require_gradient:
                raise
            _log.warning("exported the forward program alone: %s", error)
    return Programs(forward=forward, gradient=gradient)


def _tensors(
    module: nn.Module, parameters: Sequence[str], state: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inputs of the programs, and the constants."""
    known = {name: tensor.detach().cpu() for name, tensor in module.named_parameters()}
    masked = set(known)
    known |= {name: tensor.detach().cpu() for name, tensor in module.named_buffers()}
    free = [*parameters, *state]
    if not free:
        raise ProgramError("network: name at least one parameter to mask, or a tensor as state")
    for name in free:
        if name not in known or (name in parameters and name not in masked):
            kind = "parameter" if name in parameters else "parameter or buffer"
            raise ProgramError(f"network: no {kind} is named {name!r}; it has {sorted(known)}")
        if known[name].dtype != torch.float32:
            raise ProgramError(f"network: {name} must be float32, got {known[name].dtype}")
    if len({"x", *free}) <= len(free):
        raise ProgramError(
            f"network: names must be distinct, 'x' included, one occurs twice: {['x', *free]}"
        )
    constants = {name: tensor for name, tensor in known.items() if name not in free}
    return {name: known[name] for name in free}, constants


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # failures are raised anyway
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _TORCH_WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _refusal(what: str, remedy: str) -> Iterator[None]:
    """Convert torch's exceptions to a one-line `ProgramError` with a remedy."""
    try:
        yield
    except SupSupError:
        raise
    except Exception as error:  # a module, and torch, may raise any
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        lines = str(causes[-1]).strip().splitlines() or [type(error).__name__]
        reason = f"its {what} cannot be exported ({lines[0].strip()})"
        named = [match for each in causes if (match := _OPERATOR.search(str(each)))]
        if named:
            reason = f"operator {'.'.join(named[0].groups())} has no ONNX translation"
        raise ProgramError(f"network: {reason}; {remedy}") from error


class _Functional(nn.Module):
    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._hidden = (module,)  # in a tuple, so that it is not a child
        self._names = names

    def forward(self, x: Tensor, *tensors: Tensor) -> Tensor:
        given = dict(zip(self._names, tensors, strict=True))
        logits = functional_call(self._hidden[0], given, (x,))
        if not isinstance(logits, Tensor):
            raise ProgramError(
                f"network: it must return the logits as a tensor, got {type(logits).__name__}"
            )
        return logits


def _capture(
    module: nn.Module, input_shape: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> ExportedProgram:
    from torch._dynamo.exc import UserError  # takes a second to import

    x = torch.zeros(_EXAMPLE_BATCH, *input_shape)
    function = _Functional(module, list(tensors))
    batch = {"x": {0: Dim("batch")}, "tensors": (None,) * len(tensors)}
    with (
        _refusal(f"forward pass on x of shape {('batch', *input_shape)}", _CAPTURABLE),
        redirect_stderr(StringIO()),  # torch prints partial graphs on failure
    ):
        examples = (x, *tensors.values())
        try:
            captured = torch.export.export(function, examples, dynamic_shapes=batch)
        except UserError:  # the other tracer follows `len(x)`
            captured = torch.export.export(function, examples, dynamic_shapes=batch, strict=True)
    _check_operators(captured)
    return captured


def _check_operators(captured: ExportedProgram) -> None:
    """Refuse options that torch.onnx would translate wrongly, and randomness."""
    for node in captured.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        names = [each.name for each in schema.arguments] if schema else []
        options = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        refused = options.get("divisor_override") and "with divisor_override"
        if node.target is aten.lstm.input:
            hidden, cell = (each.meta["val"].shape[-1] for each in node.args[1])
            refused = hidden != cell and "with proj_size"
        switches = _SWITCHES.intersection(names)
        is_off = switches and not any(options.get(each) for each in switches)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not is_off:
            refused = "is random in eval mode, which"
        if refused:
            raise ProgramError(
                f"network: operator {node.target} {refused} cannot be exported; {REPLACE}"
            )


def _count_outputs(captured: ExportedProgram, num_free: int) -> int:
    nodes = {node.name: node for node in captured.graph.nodes}
    (result,) = [nodes[str(name)] for name in captured.graph_signature.user_outputs]
    x, *free = [nodes[str(name)] for name in captured.graph_signature.user_inputs][: 1 + num_free]
    logits = result.meta["val"]
    batch = str(x.meta["val"].shape[0])
    if logits.dtype != torch.float32 or logits.dim() != 2 or str(logits.shape[0]) != batch:
        shape = tuple("batch" if str(size) == batch else size for size in logits.shape)
        raise ProgramError(
            f"network: the logits must be float32 (batch, outputs), got {logits.dtype} {shape}"
        )
    known = sources(result)
    if x not in known or known.isdisjoint(free):
        missing = "x" if x not in known else "any of the parameters"
        raise ProgramError(f"network: the logits do not depend on {missing}")
    return int(logits.shape[1])


class _Differentiable(fx.Interpreter):
    def call_function(
        self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Any]
    ) -> object:
        if replacement := DIFFERENTIABLE.get(target):
            return replacement(*args, **kwargs)
        return super().call_function(target, args, kwargs)


def _differentiate(
    captured: ExportedProgram, num_free: int, real_outputs: int
) -> tuple[ExportedProgram, dict[str, Tensor]]:
    """Return the gradient program and the literals: tensors that are not the module's."""
    for node in captured.graph.nodes:
        if free_unbacked_symbols(node.meta.get("val")):
            raise ProgramError(
                f"network: operator {node.target} depends on the values of a tensor in a way that "
                f"cannot be differentiated; {FORWARD_ALONE}"
            )
    specs = captured.graph_signature.input_specs
    fed = [i for i, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT]
    held = [i for i, spec in enumerate(specs) if spec.kind is not InputKind.USER_INPUT]
    literals = {str(specs[i].target): captured.constants[str(specs[i].target)] for i in held}
    interpreter = _Differentiable(captured.graph_module)

    def gradients(x: Tensor, *tensors: Tensor) -> list[Tensor]:
        free = [tensor.detach().requires_grad_() for tensor in tensors[:num_free]]
        values = dict(zip(fed + held, (x, *free, *tensors[num_free:]), strict=True))
        with torch.enable_grad():
            (logits,) = interpreter.run(*[values[i] for i in range(len(specs))])
        if not logits.requires_grad:
            raise ProgramError(f"network: the logits have no gradient; {FORWARD_ALONE}")
        pulled: list[Tensor] = []
        for cotangent in _cotangents(logits.detach(), real_outputs):
            pulled += torch.autograd.grad(
                logits, free, cotangent, retain_graph=True, materialize_grads=True
            )
        return pulled

    symbolic = [node.meta["val"] for node in captured.graph.find_nodes(op="placeholder")]
    trace = make_fx(
        gradients, tracing_mode="symbolic", decomposition_table=backward_decompositions()
    )
    traced = trace(*[symbolic[i] for i in fed + held])
    examples = (*captured.example_inputs[0], *literals.values())
    batch = ({0: Dim("batch")}, *[None] * (len(examples) - 1))
    return torch.export.export(traced, examples, dynamic_shapes=batch), literals


def _cotangents(logits: Tensor, real_outputs: int) -> list[Tensor]:
    """Return ``dO / dz`` of each objective, ``(batch, outputs)``."""
    batch, outputs = logits.shape
    p = logits.softmax(1)
    z = logits - logits.amax(
        1, keepdim=True
    )  # without a common offset differences keep their digits
    entropy = p * ((p * z).sum(1, keepdim=True) - z) / batch
    if real_outputs == outputs:
        return [entropy]
    is_superfluous = torch.tensor([0.0] * real_outputs + [1.0] * (outputs - real_outputs))
    return [entropy, p * is_superfluous / batch]


def _convert(
    program: ExportedProgram,
    inputs: Mapping[str, Shape],
    constants: Mapping[str, Tensor],
    outputs: Mapping[str, Shape],
) -> bytes:
    counts = Counter([*inputs, *constants, *outputs])
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise ProgramError(f"network: tensor names must be distinct, rename {twice}")
    return to_onnx(program, inputs, constants, outputs)
