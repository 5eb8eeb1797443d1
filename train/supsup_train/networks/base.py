"""Masks over weights of one's own: what a bank takes from a trained module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import safetensors
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from supsup_runtime.arrays import check_choice
from supsup_runtime.bank.network import MaskedParameter
from supsup_runtime.errors import InputError
from supsup_runtime.files import regular_file

Head = Literal["new", "masked", "per-task", "frozen"]
Kept = Literal["frozen", "per-task"]
HEADS = "masks over new or its own weights, trained for each task, or as it is"
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_COUNT = "num_batches_tracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A trained module's own weights under the masks, and what becomes of its other parameters.

    Frozen parameters are stored once, in the programs; per-task ones are trained and stored with
    each task, starting from the module's.

    Attributes:
        head: Of the layer that makes the logits: ``new``: masks over seeded signed constants, for
            tasks with other classes; ``masked``: masks over the module's; ``per-task``; ``frozen``.
        norms: Of scales and shifts of normalisation. Running statistics are always per task.
        biases: Of all other biases, that of the head included unless that is per task.

    Raises:
        InputError: If a value is unknown.
    """

    head: Head = "new"
    norms: Kept = "per-task"
    biases: Kept = "frozen"

    def __post_init__(self) -> None:
        check_choice("head:", self.head, get_args(Head))
        check_choice("norms:", self.norms, get_args(Kept))
        check_choice("biases:", self.biases, get_args(Kept))

    def state(self, module: nn.Module, head: str) -> list[str]:
        """Return the parameters of each task of its own; `head` is the name of its weight."""
        norms, parameters = _norms(module), dict(module.named_parameters())
        biases = {name for name in parameters if name.rpartition(".")[2] == "bias"} - norms
        bias = _bias_of(head)
        own = norms if self.norms == "per-task" else set()
        own = own | (biases if self.biases == "per-task" else set())
        own = own | ({head, bias} if self.head == "per-task" else set())
        return [name for name in parameters if name in own]

    def unmasked(self, head: str) -> set[str]:
        """Return what gets no mask."""
        return {head} if self.head in {"per-task", "frozen"} else set()

    def parameter(self, name: str, tensor: Tensor, head: str) -> MaskedParameter:
        """Return a masked parameter with the module's weights, or new ones."""
        if name == head and self.head == "new":
            return MaskedParameter.signed_kaiming(name, tuple(tensor.shape))
        return MaskedParameter.stored(name, tensor.detach().numpy().copy())


def head_of(module: nn.Module, outputs: int) -> str:
    """Return the last parameter of two or more dimensions whose first size is `outputs`."""
    named = module.named_parameters()
    heads = [name for name, each in named if each.ndim >= 2 and len(each) == outputs]
    if not heads:
        raise InputError(
            f"module: must have a layer with {outputs} outputs, whose weight has them first"
        )
    return heads[-1]


def load_base(module: nn.Module, path: Path, *, outputs: int, base: Base) -> None:
    """Put the tensors of a safetensors file into a module; the head stays unless it is `base`'s.

    Args:
        module: Has parameters and buffers of the file's names and shapes.
        path: File of float tensors, finite.
        outputs: Number of logits, which names the head.
        base: Whose ``new`` head, with its bias, the file may lack, or have with another shape.

    Raises:
        InputError: If tensors are missing, extra, misshapen, of another type or not finite.
        FileError: If it cannot be read.
    """
    tensors = {
        name: each
        for name, each in (*module.named_parameters(), *module.named_buffers())
        if name.rpartition(".")[2] != _COUNT
    }
    head = head_of(module, outputs)
    left = {head, _bias_of(head)} if base.head == "new" else set()
    wanted = tensors.keys() - left
    found = _read(path)
    known = found.keys() - left
    if known != wanted:
        missing, extra = sorted(wanted - known), sorted(known - wanted)
        raise InputError(
            f"{path}: tensors must be those of the module; missing {missing}, extra {extra}; "
            f"its head is {head!r}"
        )
    for name in sorted(wanted):
        value, shape = found[name], tuple(tensors[name].shape)
        if tuple(value.shape) != shape or not value.is_floating_point():
            raise InputError(
                f"{path}: {name!r} must be float {shape}, got {value.dtype} {tuple(value.shape)}"
            )
        if not np.isfinite(value.float().numpy()).all():
            raise InputError(f"{path}: {name!r} must be finite, got NaN or infinity")
        with torch.no_grad():
            tensors[name].copy_(value)


def _read(path: Path) -> dict[str, Tensor]:
    missing = "missing; give a file of the network's weights"
    with regular_file(path, links=True, error=InputError, missing=missing) as file:
        data = file.read()
    try:
        found = load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}") from error
    return {name: each for name, each in found.items() if name.rpartition(".")[2] != _COUNT}


def _norms(module: nn.Module) -> set[str]:
    """Return the names of scales and shifts of normalisation."""
    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, _NORMS)]
    return {f"{n}.{p}".removeprefix(".") for n, part in layers for p, _ in part.named_parameters()}


def _bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"
