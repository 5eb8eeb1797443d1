"""What of a network a baseline changes: its weights, and how its layers use them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from supsup_runtime.errors import InputError
from supsup_train.networks.create_bank import fixed_copy, masked_names, state_names
from supsup_train.programs.programs import describe

# By the number of axes that a weight has beyond two.
_LAYERS = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
Apply = Callable[[Tensor, Tensor], Tensor]
"""Applies a layer without its bias to inputs and a weight."""
Change = Callable[[int, Apply, Tensor, Tensor], Tensor]
"""Returns the outputs of a layer without its bias, given the number of its weight, how to apply it,
its inputs and its weight."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A network, divided as `create_bank` divides it.

    Attributes:
        module: A copy, with biases of zero.
        input_shape: Shape of one input.
        outputs: Number of logits.
        masked: Names of the weights that masks would select, in the order of the parameters.
        operators: The operator that uses a weight last, by name, in order of use.
        kept: Names of the state that each task has with masks, too.
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    outputs: int
    masked: list[str]
    operators: dict[str, str]
    kept: list[str]

    @classmethod
    def of(cls, module: nn.Module, input_shape: tuple[int, ...]) -> Parts:
        """Trace a module; see `create_bank` for what is refused."""
        fixed = fixed_copy(module)
        outputs, operators, changed = describe(fixed, input_shape)
        masked = masked_names(fixed, None, operators)
        if not masked:
            raise InputError(
                "module: must have a weight that masks would select, got none; use Linear or Conv"
            )
        kept = state_names(fixed, None, changed)
        return cls(fixed, input_shape, outputs, masked, operators, kept)

    @property
    def head(self) -> str:
        """Name of the weight that is used last."""
        used = [name for name in self.operators if name in self.masked]
        return (used or self.masked)[-1]

    def weights(self) -> list[Tensor]:
        """Return what the module has as weights now, in the order of `masked`."""
        found: list[Tensor] = [attrgetter(name)(self.module) for name in self.masked]
        return found

    def widths(self, method: str) -> list[int]:
        """Return the number of inputs, or input channels, of each weight's layer.

        Raises:
            InputError: If a weight is not that of a linear layer or convolution.
        """
        found: dict[int, int] = {}

        def note(layer: int, apply: Apply, x: Tensor, weight: Tensor) -> Tensor:
            found[layer] = x.shape[1 - weight.ndim]
            return apply(x, weight)

        module = copy.deepcopy(self.module).eval()
        with torch.no_grad(), _Changing(note, [attrgetter(n)(module) for n in self.masked]):
            module(torch.zeros(1, *self.input_shape))
        for layer, name in enumerate(self.masked):
            if layer not in found:
                kind = type(self.module.get_submodule(name.rpartition(".")[0])).__name__
                raise InputError(
                    f"module: {method} needs linear layers and convolutions, got {name!r}, "
                    f"{self.operators.get(name, 'a scale')} in {kind}; use heads, dense or sequence"
                )
        return [found[layer] for layer in range(len(self.masked))]


class Changed(nn.Module, ABC):
    """A network whose layers a task changes; its tensors have the names they have in the network.

    Args:
        parts: The network, whose tensors are shared.
        own: Names of the attributes that are added.
    """

    def __init__(self, parts: Parts, own: Sequence[str]) -> None:
        super().__init__()
        for name in own:
            if hasattr(parts.module, name):
                raise InputError(
                    f"module: its attribute {name!r} must have another name, as the method has one "
                    "of this name; rename it"
                )
        network = vars(parts.module)
        vars(self)["_modules"] |= network["_modules"]
        for tensors in ("_parameters", "_buffers", "_non_persistent_buffers_set"):
            vars(self)[tensors] = network[tensors]
        self._hidden = (parts,)  # in a tuple, so that the network is not a child

    @abstractmethod
    def change(self, layer: int, apply: Apply, x: Tensor, weight: Tensor) -> Tensor:
        """Return the outputs of a changed layer; see `Change`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``float32 (batch, *input_shape)`` to ``(batch, outputs)``."""
        (parts,) = self._hidden
        parts.module.training = self.training
        with _Changing(self.change, parts.weights()):
            logits: Tensor = parts.module(x)
        return logits


class _Changing(TorchFunctionMode):
    """Replaces what linear layers and convolutions of these weights compute."""

    def __init__(self, change: Change, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self._change, self._weights = change, weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's
        options = dict(kwargs or {})
        weight = args[1] if func in _LAYERS and len(args) > 1 else None
        layers = [i for i, known in enumerate(self._weights) if known is weight]
        if not layers:
            return func(*args, **options)
        x, weight, *others = args
        bias = others.pop(0) if others else options.pop("bias", None)

        def apply(x: Tensor, weight: Tensor) -> Tensor:
            result: Tensor = func(x, weight, None, *others, **options)
            return result

        result = self._change(layers[0], apply, x, weight)
        return result if bias is None else result + along(bias, weight)


def along(vector: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor with the axes of positions that a weight's inputs and outputs have."""
    return vector.reshape(*vector.shape, *[1] * (weight.ndim - 2)) if weight.ndim > 2 else vector


def turned(x: Tensor, rotation: Tensor, weight: Tensor) -> Tensor:
    """Return the inputs of a weight's layer, rotated, at each position, by a square matrix."""
    result: Tensor = _LAYERS[weight.ndim - 2](x, along(rotation, weight))
    return result
