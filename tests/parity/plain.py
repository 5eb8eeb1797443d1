"""Two plain references for masked multilayer perceptrons: float64 numpy, and torch's autograd.

They use only the bank's masks and the seeded weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask

Floats = npt.NDArray[np.float64]


def stacked_masks(bank: MaskBank) -> list[Floats]:
    """Return a float64 ``(tasks, out, in)`` per layer."""
    tasks = list(bank)
    return [
        np.stack([unpack_mask(task.masks[p.name], p.shape) for task in tasks]).astype(np.float64)
        for p in bank.network.parameters
    ]


def superposed(bank: MaskBank, alphas: Floats, masks: list[Floats] | None = None) -> list[Floats]:
    """Return each layer's weights at the superposition ``sum_i alphas[i] M_i``."""
    masks = masks or stacked_masks(bank)
    weights = bank.network.weights()
    return [
        w.astype(np.float64) * np.tensordot(alphas, m, axes=1)
        for w, m in zip(weights, masks, strict=True)
    ]


def numpy_logits(x: npt.NDArray[np.float32], layers: list[Floats]) -> Floats:
    """Run the perceptron in float64."""
    hidden: Floats = x.astype(np.float64)
    for layer in layers[:-1]:
        hidden = np.maximum(hidden @ layer.T, 0)
    logits: Floats = hidden @ layers[-1].T
    return logits


def numpy_scores(
    bank: MaskBank,
    x: npt.NDArray[np.float32],
    alphas: Floats,
    objective: str,
    *,
    masks: list[Floats] | None = None,
) -> Floats:
    """Return ``-d objective / d alphas``, batch mean, by a backward pass in float64.

    Reading the masks takes most of the time; `masks` may be those of `stacked_masks`.
    """
    masks = masks or stacked_masks(bank)
    layers = superposed(bank, alphas, masks)
    hidden: list[Floats] = [x.astype(np.float64)]
    for layer in layers[:-1]:
        hidden.append(np.maximum(hidden[-1] @ layer.T, 0))
    logits = hidden[-1] @ layers[-1].T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    if objective == "entropy":
        delta = p * ((p * np.log(p)).sum(1, keepdims=True) - np.log(p))
    else:
        delta = p * (np.arange(p.shape[1]) >= bank.network.real_outputs)
    delta /= len(x)
    weights = bank.network.weights()
    scores = np.zeros(len(bank))
    for i in reversed(range(len(layers))):
        scores -= np.tensordot(masks[i], (delta.T @ hidden[i]) * weights[i], axes=2)
        if i:
            delta = (delta @ layers[i]) * (hidden[i] > 0)
    return scores


def torch_scores(
    bank: MaskBank, x: npt.NDArray[np.float32], alphas: Floats, objective: str
) -> Floats:
    """Return the same by autograd through stacked float masks, as in the authors' code."""
    weighting = torch.tensor(alphas, requires_grad=True)
    hidden = torch.from_numpy(x).double()
    masks = [torch.from_numpy(m) for m in stacked_masks(bank)]
    weights = [torch.from_numpy(w).double() for w in bank.network.weights()]
    for i, (mask, weight) in enumerate(zip(masks, weights, strict=True)):
        hidden = hidden @ (weight * (weighting[:, None, None] * mask).sum(0)).T
        if i < len(masks) - 1:
            hidden = hidden.relu()
    if objective == "entropy":
        value = -(hidden.softmax(1) * hidden.log_softmax(1)).sum(1).mean()
    else:
        real = torch.arange(hidden.shape[1]) < bank.network.real_outputs
        value = torch.where(real, hidden.detach(), hidden).logsumexp(1).mean()
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gradient = weighting.grad
    assert gradient is not None
    return -gradient.numpy()


def plain_cnn(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Run `networks.models.Cnn` with differentiable statistics, unlike ``nn.BatchNorm2d``."""

    def norm(value: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        scale = (variance + 1e-5).rsqrt()  # torch's default eps
        return (value - mean[:, None, None]) * scale[:, None, None]

    convolve = torch.nn.functional.conv2d
    x = norm(convolve(x, tensors["stem.weight"], padding=1), "norm1").relu()
    main = norm(convolve(x, tensors["conv.weight"], stride=2, padding=1), "norm2")
    x = (main + convolve(x, tensors["shortcut.weight"], stride=2)).relu()
    return x.mean((2, 3)) @ tensors["head.weight"].T
