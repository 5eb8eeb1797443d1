"""Creation of a bank from a module."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from supsup_runtime.arrays import check_choice
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import STORED, MaskedParameter, Network, StateTensor
from supsup_runtime.errors import InputError
from supsup_runtime.preprocessing import Preprocessing
from supsup_train.networks.base import Base, bias_of, check_base, head_of
from supsup_train.programs.agreement import is_count
from supsup_train.programs.programs import describe, export_programs

Weights: TypeAlias = Literal["seeded", "module"] | Base
# Of parameters: the first. Of buffers: what numpy and ONNX have.
_DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def create_bank(  # noqa: PLR0913 - the network's description, by keyword
    path: str | Path,
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    real_outputs: int,
    weight_seed: int = 0,
    masked: Sequence[str] | None = None,
    state: Sequence[str] | None = None,
    require_gradient: bool = True,
    preprocessing: Preprocessing | None = None,
    state_dtype: str = "float32",
    weights: Weights = "seeded",
) -> MaskBank:
    """Create the bank of a network and export its programs.

    Args:
        path: Folder of the bank, missing or empty.
        module: Maps ``float32 (batch, *input_shape)`` to ``float32 (batch, outputs)``; not
            changed. Tensors that are neither masked nor state keep their values.
        input_shape: Shape of one input.
        real_outputs: Number of leading outputs that are labels; the others are superfluous and
            make the task of a single input inferable.
        weight_seed: Seed of the weights, in ``[0, 2**64)``.
        masked: Names of the parameters to mask; by default those of two or more dimensions that
            the module uses as the weight of a linear layer, convolution, matrix product, recurrent
            layer or embedding look-up, and those in a class attribute `masked_names` of the
            modules. One-dimensional parameters must be all ones.
        state: Names of the buffers or, then trained, parameters that are per task; by default the
            running statistics of batch normalisation, those in the class attributes `state_names`,
            and other float32 buffers that training changes.
        require_gradient: If False, a bank whose gradient cannot be exported has the forward program
            only; tasks are then inferred by trying each mask.
        preprocessing: Steps from pictures to inputs, which bank and models carry; None if inputs
            are arrays that users prepare.
        state_dtype: ``float32``, or ``float16`` to store the state so, in half the bytes; its
            values must then be within 65504.
        weights: ``seeded``: signed constants as masked weights, and zeros as one-dimensional biases
            (paper, section 3). ``module``, or a `Base` with choices for heads, normalisation and
            biases: the module's own, stored once in the bank.

    Returns:
        The bank, without tasks.

    Raises:
        InputError: If `input_shape`, a name, a dtype or a masked parameter is not as stated.
        BankError: If `real_outputs`, `weight_seed` or `state_dtype` is out of range, or
            `preprocessing` makes inputs of another shape.
        ProgramError: If the module cannot be exported, or would train one way and answer another;
            the message names the operator, buffer or function.
        OutputExistsError: If the folder is not empty.
    """
    input_shape, base = _shape(input_shape), _base(weights)
    fixed = fixed_copy(module, biases=base is not None)
    outputs, used, changed = describe(fixed, input_shape)
    names, kept = masked_names(fixed, masked, used), state_names(fixed, state, changed)
    tensors = tensors_of(fixed)
    make: Callable[[str, Tensor], MaskedParameter] = _parameter
    if base is not None:
        head = head_of(fixed, outputs)
        kept += [name for name in base.state(fixed, head) if name not in kept]
        names = [name for name in names if name not in base.unmasked(head)]
        if base.head == "new":
            _zero_bias(fixed, head)
        make = partial(base.parameter, head=head)
        if not set(names) - {head}:
            raise InputError(f"weights: need a masked parameter besides the head {head!r}")
    parameters = tuple(make(name, tensors[name]) for name in names)
    seeded = [p.name for p in parameters if p.init != STORED]
    network = Network(
        weight_seed=weight_seed,
        input_shape=input_shape,
        outputs=outputs,
        real_outputs=real_outputs,
        parameters=parameters,
        state=tuple(StateTensor(name=name, shape=tuple(tensors[name].shape)) for name in kept),
        constants=_constants_digest(tensors, {*names, *kept} if base is None else {*seeded}),
        preprocessing=preprocessing,
        state_dtype=state_dtype,
    )
    programs = export_programs(
        fixed,
        input_shape=input_shape,
        parameters=names,
        state=kept,
        real_outputs=real_outputs,
        require_gradient=require_gradient,
    )
    return MaskBank.create(path, network, forward=programs.forward, gradient=programs.gradient)


def open_bank(  # noqa: PLR0913 - as create_bank
    path: str | Path,
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    real_outputs: int,
    weight_seed: int = 0,
    masked: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    state_dtype: str = "float32",
    weights: Weights = "seeded",
) -> MaskBank:
    """Open the bank of a module; create it if missing.

    Args:
        path: Folder of the bank.
        module: The network; see `create_bank`.
        input_shape: Shape of one input.
        real_outputs: Number of leading outputs that are labels.
        weight_seed: Seed of the weights, in ``[0, 2**64)``.
        masked: Names of the parameters to mask, in any order; by default as `create_bank`, or as
            the bank has them.
        preprocessing: See `create_bank`.
        state_dtype: See `create_bank`.
        weights: See `create_bank`; the module must have the weights that the bank stores.

    Returns:
        The bank.

    Raises:
        InputError: If the bank was made with other arguments or of another module.
        BankError: If the bank is damaged.
        ProgramError: If an operator of a new bank cannot be exported.
        OutputExistsError: If the folder is not empty and has no bank.
    """
    wanted: dict[str, Any] = {
        "input_shape": tuple(input_shape),
        "real_outputs": real_outputs,
        "weight_seed": weight_seed,
        "preprocessing": preprocessing,
        "state_dtype": state_dtype,
    }
    if not (Path(path) / "bank.json").exists():
        return create_bank(path, module, **wanted, masked=masked, weights=weights)
    opened = MaskBank.open(path)
    network = opened.network
    has: dict[str, Any] = {name: getattr(network, name) for name in wanted}
    if masked is not None:
        wanted["masked"], has["masked"] = sorted(masked), sorted(p.name for p in network.parameters)
    wanted["weights"] = "seeded" if _base(weights) is None else "module"
    has["weights"] = "module" if network.stored else "seeded"
    check_same(path, wanted, has)
    fixed = copy_for(network, module)
    if (base := _base(weights)) is not None:
        check_base(network, fixed, base, str(path))
    check_module(fixed, network)
    return opened


def check_same(path: str | Path, wanted: Mapping[str, Any], has: Mapping[str, Any]) -> None:
    """Refuse a bank that has other values than wanted."""
    for name, value in wanted.items():
        got = has[name]
        if got != value:
            raise InputError(
                f"{path}: the bank was made with {name} {got}, this run has {value}; "
                "give the same options, or another --bank"
            )


def copy_for(network: Network, module: nn.Module) -> nn.Module:
    """Return a `fixed_copy` as the bank of this network was made of."""
    fixed = fixed_copy(module, biases=bool(network.stored))
    for p in network.parameters if network.stored else ():
        if p.init != STORED:
            _zero_bias(fixed, p.name)
    return fixed


def _zero_bias(module: nn.Module, weight: str) -> None:
    """Zero the bias beside a seeded weight, if there is one."""
    bias = dict(module.named_parameters()).get(bias_of(weight))
    if bias is not None:
        with torch.no_grad():
            bias.zero_()


def fixed_copy(module: nn.Module, *, biases: bool = False) -> nn.Module:
    """Copy a module, not compiled; set its biases to zero (paper, section 3) unless `biases`.

    Raises:
        InputError: If it cannot be copied, or a tensor has no shape or a dtype that programs lack.
    """
    try:
        fixed = _plain(copy.deepcopy(module))
        tensors = tensors_of(fixed)
    except Exception as error:  # a module may raise any
        raise InputError(
            f"module: must be an nn.Module that can be copied, got {type(module).__name__}: "
            f"{error}; use torch.nn.utils.parametrizations in place of weight_norm and "
            "spectral_norm of torch.nn.utils"
        ) from error
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise InputError(f"module: {name!r} has no shape yet; run the module on an input")
        allowed = _DTYPES[:1] if isinstance(tensor, nn.Parameter) else _DTYPES
        if tensor.dtype not in allowed:
            raise InputError(
                f"module: {name!r} must be {allowed[0]}, got {tensor.dtype}; convert it, such as "
                "by module.float()"
            )
    with torch.no_grad():
        for name, parameter in () if biases else fixed.named_parameters():
            if "bias" in name.rpartition(".")[2] and parameter.ndim == 1:
                parameter.zero_()
    return fixed


def _plain(module: nn.Module) -> nn.Module:
    """Undo `torch.compile`."""
    for name, part in module.named_children():
        if (new := _plain(part)) is not part:
            setattr(module, name, new)
    plain: nn.Module = getattr(module, "_orig_mod", module)
    return plain


def _shape(value: object) -> tuple[int, ...]:
    if isinstance(value, Sequence) and all(type(n) is int and n > 0 for n in value):
        return tuple(value)
    raise InputError(f"input_shape: must be positive integers, such as (784,), got {value!r}")


def check_module(module: nn.Module, network: Network) -> None:
    """Refuse a `copy_for` the network whose names, shapes, stored weights or constants differ."""
    tensors = tensors_of(module)
    shapes = {p.name: p.shape for p in network.parameters}
    shapes |= {s.name: s.shape for s in network.state}
    for name, wanted in shapes.items():
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape != wanted:
            raise InputError(
                f"module: {name!r} must have shape {wanted} as in the bank, "
                f"got {shape or 'no such tensor'}; give the module that the bank was made of"
            )
    seeded = {p.name for p in network.parameters if p.init != STORED}
    own = seeded if network.stored else set(shapes)
    if network.constants and _constants_digest(tensors, own) != network.constants:
        if network.stored:
            raise InputError(
                "module: its tensors must be those of the base that the bank was made with, but "
                f"{sorted(own)}; give the same base, or another bank"
            )
        raise InputError(
            f"module: its constants {sorted(set(tensors) - set(shapes))} must have the values that "
            "the bank was made with; build the module the same way, random values seeded"
        )


def _constants_digest(tensors: dict[str, Tensor], own: set[str]) -> str:
    """Hash names, shapes and values of the tensors that are not in `own`."""
    digest = hashlib.sha256()
    for name in sorted(set(tensors) - own):
        if not is_count(name):
            value = tensors[name].detach().contiguous()
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _base(weights: Weights) -> Base | None:
    if isinstance(weights, Base):
        return weights
    check_choice("weights:", weights, ("seeded", "module"))
    return Base() if weights == "module" else None


def _parameter(name: str, tensor: Tensor) -> MaskedParameter:
    shape = tuple(tensor.shape)
    if len(shape) == 1:
        return MaskedParameter.ones(name, shape)
    return MaskedParameter.signed_kaiming(name, shape)


def _told(module: nn.Module, attribute: str) -> list[str]:
    """Return the full names of tensors listed in a class attribute of the modules."""
    told = [
        f"{prefix}.{name}".removeprefix(".")
        for prefix, part in module.named_modules()
        for name in getattr(part, attribute, ())
    ]
    missing = sorted(set(told) - set(tensors_of(module)))
    if missing:
        raise InputError(
            f"module: its {attribute} must be names of its parameters or buffers, got {missing}; "
            f"it has {sorted(tensors_of(module))}"
        )
    return told


def masked_names(
    module: nn.Module, wanted: Sequence[str] | None, weights: Iterable[str]
) -> list[str]:
    """Return the names of the masked parameters, in order, by default of those used as weights."""
    parameters = dict(module.named_parameters())
    if wanted is None:
        told = _told(module, "masked_names")
        large = {name for name in weights if tensors_of(module)[name].ndim >= 2}
        wanted = [name for name in parameters if name in large.union(told)]
    for name in wanted:
        if name not in parameters or parameters[name].ndim < 1:
            raise InputError(
                f"masked: {name!r} must be a parameter of one or more dimensions; the module has "
                f"{[key for key, value in parameters.items() if value.ndim >= 1]}"
            )
        if parameters[name].ndim == 1 and not bool((parameters[name] == 1).all()):
            raise InputError(
                f"masked: {name!r} has one dimension, so it must be all ones, got other values; "
                "initialise it with ones"
            )
    return list(wanted)


def state_names(module: nn.Module, wanted: Sequence[str] | None, changed: list[str]) -> list[str]:
    """Return the names of the tensors that are per task, by default of what training changes."""
    tensors = tensors_of(module)
    if wanted is None:
        norms = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm)]
        names = [f"{norm}.{key}" for norm in norms for key in ("running_mean", "running_var")]
        names = [name.removeprefix(".") for name in names]
        names = [name for name in names if name in tensors] + _told(module, "state_names")
        names += [name for name in changed if tensors[name].dtype == torch.float32]
        wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in tensors or not tensors[name].is_floating_point():
            raise InputError(f"state: {name!r} must be a float parameter or buffer of the module")
    return list(wanted)
