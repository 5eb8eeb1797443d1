"""One-shot task scores in PyTorch, for masks in training.

An exported model computes the same (docs/CONTRACT.md, "Inferring"; Wortsman et al. 2020,
equation 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from supsup_runtime.arrays import Array, Bits, Bytes, Floats, Scores
from supsup_runtime.bank.bits import pack_mask, unpack_mask
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks
from supsup_train.programs.forward_ops import batch_norm

Objective = Literal["entropy", "superfluous"]
State = Mapping[str, Floats]
_MASKS, _BYTES = 32, 1024
"""Unpacked at once: 1 MB as ``float32``."""


class MaskScorer:
    """Scores a batch against masks, in one forward and backward pass for any number of masks."""

    def __init__(self, network: Network, module: nn.Module, objective: Objective) -> None:
        """Start without masks; the module must be in eval mode and is not changed."""
        self._network, self._module, self._objective = network, module, objective
        self._weights = [torch.from_numpy(w) for w in network.weights()]
        self._counts = np.zeros(network.num_masked, np.int32)
        self._masks: list[Bytes] = []
        self._states: list[State] = []

    def __len__(self) -> int:
        return len(self._masks)

    def put(self, index: int, mask: Bytes, state: State) -> None:
        """Replace the mask at `index`, or append at ``len(self)``.

        `mask` joins the masks of all parameters: ``uint8 (ceil(num_masked / 8),)``.
        """
        if index == len(self):
            self._masks.append(mask)
            self._states.append(state)
        else:
            self._counts -= self._bits(self._masks[index])
            self._masks[index], self._states[index] = mask, state
        self._counts += self._bits(mask)

    def scores(self, x: Tensor, references: Iterable[Bytes] = ()) -> Scores:
        """Return ``-dO / d alphas`` at the uniform superposition of masks and references.

        The result is ``float64 (len(self) + references,)``. References are packed as in `put` and
        use the first mask's state.
        """
        masks = [*self._masks, *references]
        states = [*self._states, *self._states[:1] * (len(masks) - len(self))]
        counts = sum(map(self._bits, masks[len(self) :]), start=self._counts)
        feeds = self._superposed(counts / np.float32(len(masks)), states)
        gradients = self._gradients(x, feeds)
        flat = [
            (gradients[p.name] * w).reshape(-1)
            for p, w in zip(self._network.parameters, self._weights, strict=True)
        ]
        scores = -products(torch.cat(flat), masks)
        for tensor in self._network.state:
            slope = gradients[tensor.name].double().numpy()
            scores -= [(state[tensor.name] * slope).sum() for state in states]
        return scores

    def _superposed(self, share: Array, states: list[State]) -> dict[str, Tensor]:
        network = self._network
        flat = torch.from_numpy(share.astype(np.float32))
        parts = torch.split(flat, [p.size for p in network.parameters])
        feeds = {
            p.name: (w * part.reshape(p.shape)).requires_grad_()
            for p, w, part in zip(network.parameters, self._weights, parts, strict=True)
        }
        for tensor in network.state:
            mean = np.mean([state[tensor.name] for state in states], axis=0, dtype=np.float64)
            feeds[tensor.name] = torch.from_numpy(np.asarray(mean, np.float32)).requires_grad_()
        return feeds

    def _gradients(self, x: Tensor, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        with _StatisticsDifferentiable():
            logits: Tensor = functional_call(self._module, feeds, (x,))
        if self._objective == "entropy":
            value = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        else:
            real = torch.arange(logits.shape[1]) < self._network.real_outputs
            value = torch.where(real, logits.detach(), logits).logsumexp(1).mean()
        tensors = list(feeds.values())
        return dict(
            zip(feeds, torch.autograd.grad(value, tensors, materialize_grads=True), strict=True)
        )

    def _bits(self, packed: Bytes) -> Bits:
        return unpack_mask(packed, (self._network.num_masked,))


def products(vector: Tensor, masks: Sequence[Bytes]) -> Scores:
    """Return the sum of a vector, ``float32 (n,)``, over each packed mask: ``float64 (masks,)``.

    Masks are unpacked a part at a time, which stays in the processor's cache: twice as fast.
    """
    scores = np.zeros(len(masks))
    for first in range(0, len(masks), _MASKS):
        packed = np.stack(masks[first : first + _MASKS])
        for start in range(0, packed.shape[1], _BYTES):
            part = vector[8 * start : 8 * (start + _BYTES)]
            few = packed[:, start : start + _BYTES]
            bits = np.unpackbits(few, axis=1, count=len(part), bitorder="little")
            sums = torch.from_numpy(bits).float() @ part
            scores[first : first + _MASKS] += sums.double().numpy()
    return scores


class _StatisticsDifferentiable(TorchFunctionMode):
    """BatchNorm as arithmetic, differentiable in its running statistics."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401 - torch's signature
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as above
        if func is nn.functional.batch_norm:  # argument order differs from the operator's
            bound = signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            x, mean, var, weight, bias, training, momentum, eps = bound.args
            return batch_norm(x, weight, bias, mean, var, training, momentum, eps, False)
        return func(*args, **(kwargs or {}))


def pack_parts(masks: Iterable[Tensor]) -> Bytes:
    """Join and pack the ``float32`` masks of all parameters."""
    bits = torch.cat([mask.reshape(-1) for mask in masks]).detach().bool()
    return pack_mask(bits.numpy())


def joined_mask(task: TaskMasks, network: Network) -> Bytes:
    """Join and pack the masks of a task."""
    bits = [unpack_mask(task.masks[p.name], (p.size,)) for p in network.parameters]
    return pack_mask(np.concatenate(bits))
