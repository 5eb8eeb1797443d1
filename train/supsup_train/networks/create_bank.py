"""Creation of a bank from a module."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.errors import InputError
from supsup_train.programs.programs import export_programs


def create_bank(
    path: str | Path,
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    real_outputs: int,
    weight_seed: int = 0,
    masked: Sequence[str] | None = None,
    state: Sequence[str] | None = None,
    require_gradient: bool = True,
) -> MaskBank:
    """Create the bank of a network and export its programs.

    Args:
        path: Folder of the bank, missing or empty.
        module: Maps ``float32 (batch, *input_shape)`` to ``float32 (batch, outputs)``; not
            changed. The bank has seeded signed constants as masked weights and zeros as
            one-dimensional biases (paper, section 3). Tensors that are neither masked nor state
            keep their values.
        input_shape: Shape of one input.
        real_outputs: Number of leading outputs that are labels; the others are superfluous and
            make the task of a single input inferable.
        weight_seed: Seed of the weights, in ``[0, 2**64)``.
        masked: Names of the parameters to mask; by default those of two or more dimensions and
            those in a class attribute `masked_names` of the modules. One-dimensional parameters
            must be all ones.
        state: Names of the buffers or, then trained, parameters that are per task; by default the
            running statistics of batch normalisation and those in the class attributes
            `state_names`.
        require_gradient: If False, a bank whose gradient cannot be exported has the forward program
            only; tasks are then inferred by trying each mask.

    Returns:
        The bank, without tasks.

    Raises:
        InputError: If a name or masked parameter, or the module's output, is not as stated.
        BankError: If `real_outputs` or `weight_seed` is out of range.
        ProgramError: If an operator cannot be exported; the message names it.
        OutputExistsError: If the folder is not empty.
    """
    fixed = fixed_copy(module)
    names = _masked_names(fixed, masked)
    kept = _state_names(fixed, state)
    tensors = tensors_of(fixed)
    network = Network(
        weight_seed=weight_seed,
        input_shape=tuple(input_shape),
        outputs=_count_outputs(fixed, input_shape),
        real_outputs=real_outputs,
        parameters=tuple(_parameter(name, tuple(tensors[name].shape)) for name in names),
        state=tuple(StateTensor(name=name, shape=tuple(tensors[name].shape)) for name in kept),
        constants=_constants_digest(tensors, {*names, *kept}),
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


def open_bank(
    path: str | Path,
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    real_outputs: int,
    weight_seed: int = 0,
) -> MaskBank:
    """Open the bank of a module; create it if missing.

    Args:
        path: Folder of the bank.
        module: The network; see `create_bank`.
        input_shape: Shape of one input.
        real_outputs: Number of leading outputs that are labels.
        weight_seed: Seed of the weights, in ``[0, 2**64)``.

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
    }
    if not (Path(path) / "bank.json").exists():
        return create_bank(path, module, **wanted)
    opened = MaskBank.open(path)
    for name, value in wanted.items():
        got = getattr(opened.network, name)
        if got != value:
            raise InputError(
                f"{path}: the bank was made with {name} {got}, this run has {value}; "
                "give the same options, or another --bank"
            )
    check_module(fixed_copy(module), opened.network)
    return opened


def fixed_copy(module: nn.Module) -> nn.Module:
    """Copy a module and set its biases to zero (paper, section 3)."""
    fixed = copy.deepcopy(module)
    with torch.no_grad():
        for name, parameter in fixed.named_parameters():
            if "bias" in name.rpartition(".")[2] and parameter.ndim == 1:
                parameter.zero_()
    return fixed


def check_module(module: nn.Module, network: Network) -> None:
    """Refuse a `fixed_copy` whose names, shapes or constants differ from the bank's network."""
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
    if network.constants and _constants_digest(tensors, set(shapes)) != network.constants:
        raise InputError(
            f"module: its constants {sorted(set(tensors) - set(shapes))} must have the values that "
            "the bank was made with; build the module the same way, random values seeded"
        )


def _constants_digest(tensors: dict[str, Tensor], own: set[str]) -> str:
    """Hash names, shapes and values of the tensors that are not in `own`."""
    digest = hashlib.sha256()
    for name in sorted(set(tensors) - own):
        if not name.endswith("num_batches_tracked"):  # only counts training batches
            value = tensors[name].detach().contiguous()
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _parameter(name: str, shape: tuple[int, ...]) -> MaskedParameter:
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


def _masked_names(module: nn.Module, wanted: Sequence[str] | None) -> list[str]:
    parameters = dict(module.named_parameters())
    if wanted is None:
        told = _told(module, "masked_names")
        wanted = [name for name, value in parameters.items() if value.ndim >= 2 or name in told]
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


def _state_names(module: nn.Module, wanted: Sequence[str] | None) -> list[str]:
    tensors = tensors_of(module)
    if wanted is None:
        norms = [name for name, part in module.named_modules() if isinstance(part, _BatchNorm)]
        names = [f"{norm}.{key}" for norm in norms for key in ("running_mean", "running_var")]
        names = [name.removeprefix(".") for name in names]
        wanted = [name for name in names if name in tensors] + _told(module, "state_names")
    for name in wanted:
        if name not in tensors or not tensors[name].is_floating_point():
            raise InputError(f"state: {name!r} must be a float parameter or buffer of the module")
    return list(wanted)


def _count_outputs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    training = module.training
    with torch.no_grad():
        logits = module.eval()(torch.zeros(2, *input_shape))
    module.train(training)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"module: must map (batch, {', '.join(map(str, input_shape))}) to (batch, outputs), "
            f"a batch of 2 gave {got}"
        )
    return int(logits.shape[1])
