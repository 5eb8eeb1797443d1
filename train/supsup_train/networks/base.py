"""Masks over weights of one's own: what a bank takes from a trained module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import safetensors
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from supsup_runtime.arrays import check_choice
from supsup_runtime.bank.network import SIGNED_CONSTANT, STORED, MaskedParameter, Network
from supsup_runtime.errors import InputError
from supsup_runtime.files import regular_file

Head = Literal["new", "masked", "per-task", "frozen"]
Kept = Literal["frozen", "per-task"]
HEADS = "masks over new or its own weights, trained for each task, or as it is"
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_COUNT = "num_batches_tracked"
_MORE_BYTES = 1 << 30
"""A file may be so much larger than the module, for a head of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A trained module's own weights under the masks, and what becomes of its other parameters.

    Frozen parameters are stored once, in the programs; per-task ones are trained and stored with
    each task, starting from the module's.

    Attributes:
        head: Of the layer that makes the logits: ``new``: masks over seeded signed constants, for
            tasks with other classes; ``masked``: masks over the module's; ``per-task``; ``frozen``.
            The bias of a new head is zero.
        norms: Of scales and shifts of normalisation. Running statistics are always per task.
        biases: Of all other biases, that of the head included unless that is new or per task.

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
        bias = bias_of(head)
        biases -= {bias} if self.head == "new" else set()
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


def check_base(network: Network, module: nn.Module, base: Base, place: str) -> None:
    """Refuse a bank that was made with other choices."""
    head = head_of(module, network.outputs)
    wanted, has = set(base.state(module, head)), {each.name for each in network.state}
    has &= {name for name, _ in module.named_parameters()}
    inits = {p.name: p.init for p in network.parameters}
    init = {"new": SIGNED_CONSTANT, "masked": STORED}.get(base.head)
    if has != wanted or inits.get(head) != init:
        raise InputError(
            f"{place}: the bank was made with other choices of head, norms or biases: its own per "
            f"task are {sorted(has)}, this run has {sorted(wanted)}, head {base.head}; give the "
            "same options, or another --bank"
        )


def head_of(module: nn.Module, outputs: int) -> str:
    """Return the last parameter of two or more dimensions whose first size is `outputs`."""
    named = module.named_parameters()
    heads = [name for name, each in named if each.ndim >= 2 and len(each) == outputs]
    if not heads:
        raise InputError(
            f"module: must have a layer with {outputs} outputs, whose weight has them first"
        )
    return heads[-1]


def load_base(module: nn.Module, path: Path, *, outputs: int, base: Base) -> str:
    """Put the tensors of a safetensors file into a module; the head stays unless it is `base`'s.

    Args:
        module: Its `state_dict` has the file's names and shapes; of tied tensors, one name will do.
        path: File of tensors, floats finite.
        outputs: Number of logits, which names the head.
        base: Whose ``new`` head, with its bias, the file may lack, or have with another shape.

    Returns:
        The name of the head.

    Raises:
        InputError: If tensors are missing, extra, misshapen, of another type or not finite.
        FileError: If it cannot be read.
    """
    head = head_of(module, outputs)
    left = {head, bias_of(head)} if base.head == "new" else set()
    tensors = _without(module.state_dict(), left)
    found = _without(_read(path, tensors), left)
    there = {tensors[name].data_ptr() for name in found.keys() & tensors.keys()}
    missing = sorted(name for name, each in tensors.items() if each.data_ptr() not in there)
    extra = sorted(found.keys() - tensors.keys())
    if missing or extra:
        raise InputError(
            f"{path}: tensors must be those of the module; missing {missing}, extra {extra}; "
            f"its head is {head!r}"
        )
    for name, value in sorted(found.items()):
        _check(f"{path}: {name!r}", value, tensors[name])
        with torch.no_grad():
            tensors[name].copy_(value)
    return head


def _without(tensors: Mapping[str, Tensor], left: set[str]) -> dict[str, Tensor]:
    kept = tensors.keys() - left
    return {k: each for k, each in tensors.items() if k in kept and not k.endswith(_COUNT)}


def _check(place: str, value: Tensor, wanted: Tensor) -> None:
    alike = value.is_floating_point() if wanted.is_floating_point() else value.dtype == wanted.dtype
    if value.shape != wanted.shape or not alike:
        kind = "float" if wanted.is_floating_point() else wanted.dtype
        raise InputError(
            f"{place} must be {kind} {tuple(wanted.shape)}, got {value.dtype} {tuple(value.shape)}"
        )
    if not torch.isfinite(value).all():
        raise InputError(f"{place} must be finite, got NaN or infinity")


def _read(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    missing = "missing; give a file of the network's weights"
    most = 8 * sum(each.numel() for each in tensors.values()) + _MORE_BYTES
    with regular_file(path, links=True, error=InputError, missing=missing) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path}: must have at most {most} bytes for this module")
    try:
        return load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}") from error


def _norms(module: nn.Module) -> set[str]:
    """Return the names of scales and shifts of normalisation."""
    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, _NORMS)]
    return {f"{n}.{p}".removeprefix(".") for n, part in layers for p, _ in part.named_parameters()}


def bias_of(weight: str) -> str:
    """Return the name of the bias beside a weight."""
    return weight.removesuffix("weight") + "bias"
