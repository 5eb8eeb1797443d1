"""Rules that turn scores into a mask, with the straight-through gradient.

A score is a real number a weight; the rule decides which weights are kept, and the gradient passes
to the scores as if the rule were the identity (Wortsman et al. 2020; Ramanujan et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from supsup_runtime.errors import InputError

RuleKind = Literal["threshold", "top-k"]
Budget = Literal["layer", "er"]
MAX_ER_DENSITY = 0.5


class _ThresholdedWeight(torch.autograd.Function):
    """``weight * 1[score >= 0]``, in place: a quarter of the time of a product of its own."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.save_for_backward(weight)
        return torch.ge(scores, 0, out=torch.empty_like(scores)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401 - as above
        (weight,) = ctx.saved_tensors
        return None, gradient * weight


class _TopK(torch.autograd.Function):
    """One for the `count` largest of a flat tensor; the gradient passes through."""

    @staticmethod
    def forward(ctx: object, values: Tensor, count: int) -> Tensor:  # noqa: ARG004 - torch's signature
        mask = torch.zeros_like(values).view(-1)
        mask[values.reshape(-1).topk(count, sorted=False).indices] = 1
        return mask.view_as(values)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 - as above
        return gradient, None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How scores become a mask.

    Attributes:
        kind: ``threshold`` keeps scores of at least 0, about half of them (the paper's rule for
            GNu and NNs, after Mallya et al. 2018). ``top-k`` keeps the largest magnitudes (the
            paper's rule for GG).
        density: ``top-k`` by layer: the fraction kept, in ``(0, 1]``. With the ER budget: its
            multiplier. The reference code calls either ``--sparsity``.
        budget: ``layer``: every layer keeps `density`. ``er``: layer by layer after
            Erdos and Renyi, at most 0.5 (`er_densities`).
    """

    kind: RuleKind = "threshold"
    density: float = 0.5
    budget: Budget = "layer"

    def __post_init__(self) -> None:
        if self.kind not in get_args(RuleKind):
            raise InputError(f"rule: must be one of {list(get_args(RuleKind))}, got {self.kind!r}")
        if self.budget not in get_args(Budget):
            raise InputError(
                f"budget: must be one of {list(get_args(Budget))}, got {self.budget!r}"
            )
        limit = 1 if self.budget == "layer" else float("inf")
        if not 0 < self.density <= limit:
            raise InputError(f"density: must be in (0, {limit}], got {self.density}")

    def densities(self, shapes: Sequence[tuple[int, ...]]) -> list[float]:
        """Fraction that ``top-k`` keeps of each layer."""
        if self.budget == "er":
            return er_densities(shapes, self.density)
        return [self.density] * len(shapes)

    def mask(self, scores: Tensor, density: float) -> Tensor:
        """The mask of one layer, ``float32 shape`` of zeros and ones; arguments as `masked`."""
        return self.masked(torch.ones_like(scores), scores, density)

    def masked(self, weight: Tensor, scores: Tensor, density: float) -> Tensor:
        """The weights of one layer that the mask keeps, ``float32 shape``, zeros elsewhere.

        Args:
            weight: ``float32 shape``.
            scores: ``float32 shape``. Gradients reach them straight through; ``top-k`` ranks
                magnitudes, so there they carry the score's sign.
            density: Fraction to keep; not used by ``threshold``.
        """
        # torch leaves `apply` untyped
        if self.kind == "threshold":
            return _ThresholdedWeight.apply(weight, scores)  # type: ignore[no-any-return, no-untyped-call]
        kept = scores.numel() - int((1 - density) * scores.numel())
        return weight * _TopK.apply(scores.abs(), kept)  # type: ignore[no-any-return, no-untyped-call]


def er_densities(shapes: Sequence[tuple[int, ...]], multiplier: float) -> list[float]:
    """The ER budget: ``min(0.5, c * (out + in) / (out * in * kh * kw))`` per layer.

    Shapes are ``(out, in, ...)``, the multiplier is ``c``; higher is denser.

    Raises:
        InputError: If a shape has fewer than two sizes, as that of a mask over units.
    """
    densities = []
    for shape in shapes:
        if len(shape) < 2:
            raise InputError(
                f"budget: 'er' needs weights of two or more dimensions, got shape {shape}; take "
                "budget 'layer'"
            )
        count = torch.Size(shape).numel()
        densities.append(min(MAX_ER_DENSITY, multiplier * (shape[0] + shape[1]) / count))
    return densities
