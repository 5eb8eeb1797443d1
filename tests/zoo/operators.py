"""Operators of the zoo: what each does to features between masked linear layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.layers import LAYERS
from zoo.parts import OUTPUTS, Apply
from zoo.tensors import INDEXING, REDUCTIONS, SHAPES

INPUTS, TABLE = 12, (4, 6)
Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """An operator on features ``(batch, *shape)`` of a linear layer, before another.

    The last layer sees the features, too, so that operators without a gradient have a network with
    one.
    """

    def __init__(self, operator: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.shape, self.operator = nn.Linear(INPUTS, prod(shape)), shape, operator
        size = operator.eval()(torch.ones(2, *shape)).reshape(2, -1).shape[1]
        self.operator.train()
        self.last = nn.Linear(size + prod(shape), OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(x)
        seen = self.operator(features.unflatten(1, self.shape)).reshape(x.shape[0], -1)
        logits: Tensor = self.last(torch.cat([seen.float(), features], 1))
        return logits


_REAL = """abs asinh atan ceil cos cosh deg2rad erf erfc exp exp2 expm1 floor frac isfinite isinf
isnan logical_not nan_to_num neg positive rad2deg relu round sgn sigmoid sign signbit sin
sinc sinh square tan tanh trunc"""
_POSITIVE = "digamma i0 lgamma log log10 log1p log2 rsqrt sqrt"
_UNIT = "acos asin atanh erfinv"
_SPECIAL = "entr erfcx expit i0e i1 log_ndtr ndtr"
_ACTIVATIONS = """celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid
mish relu6 rrelu selu silu softplus softshrink softsign tanhshrink"""
_PAIRS = """add atan2 copysign div eq floor_divide fmax fmin fmod ge gt hypot le logaddexp
logaddexp2 logical_and logical_or logical_xor lt maximum minimum mul ne remainder sub xlogy"""


def _of(place: object, name: str, change: Function = lambda h: h) -> Function:
    operator = getattr(place, name)
    return lambda h: operator(change(h))


def _pair(operator: Callable[..., Tensor], h: Tensor) -> Tensor:
    left, right = h.chunk(2, 1)
    return operator(left, right)


def _divided(operator: Callable[..., Tensor], h: Tensor) -> Tensor:
    return operator(h[:, :2], _signed(h[:, 2:]))


def _positive(h: Tensor) -> Tensor:
    return h.abs() + 0.5


def _signed(h: Tensor) -> Tensor:
    return h + 0.5 * h.sign()


def _unary() -> dict[str, Function]:
    made = {name: _of(torch, name) for name in _REAL.split()}
    made |= {name: _of(torch, name, _positive) for name in _POSITIVE.split()}
    made |= {name: _of(torch, name, lambda h: 0.9 * torch.tanh(h)) for name in _UNIT.split()}
    made |= {f"special.{name}": _of(torch.special, name, _positive) for name in _SPECIAL.split()}
    made |= {name: _of(functional, name) for name in _ACTIVATIONS.split()}
    return made | {
        "acosh": lambda h: torch.acosh(h.abs() + 1.5),
        "clamp": lambda h: h.clamp(-0.5, 0.7),
        "gelu (tanh)": lambda h: functional.gelu(h, approximate="tanh"),
        "log_softmax": lambda h: h.log_softmax(-1),
        "normalize": lambda h: functional.normalize(h, dim=-1),
        "pow (number)": lambda h: h**3,
        "pow (of a number)": lambda h: 2.0**h,
        "pow (-0.5)": lambda h: _positive(h) ** -0.5,
        "reciprocal": lambda h: torch.reciprocal(_signed(h)),
        "logit": lambda h: torch.logit(h.sigmoid()),
        "rsub": lambda h: 1 - h,
        "softmax": lambda h: h.softmax(-1),
        "softmax2d": lambda h: h.softmax(1),
        "softmin": lambda h: functional.softmin(h, dim=-1),
        "threshold": lambda h: functional.threshold(h, 0.1, -1.0),
        "float64": lambda h: torch.sin(h.double()).float(),
        "float16": lambda h: h.half().float(),
        "int64": lambda h: (h * 4).long().float(),
        "bool": lambda h: (h > 0).float() * h,
        "detach": lambda h: h.detach() * h,
        "float_power": lambda h: torch.float_power(_positive(h), 1.5),
        "clone": lambda h: h.clone().add_(1).mul_(h),
        "out in place": lambda h: (h * 1).clamp_(min=0).sub_(0.5),
    }


def _binary() -> dict[str, Function]:
    made: dict[str, Function] = {
        name: partial(_pair, getattr(torch, name)) for name in _PAIRS.split()
    }
    made["div"] = partial(_divided, torch.div)
    made["atan2 of 0"] = lambda h: torch.atan2(h[:, :2].clamp(min=0), h[:, 2:])
    made["xlogy"] = lambda h: torch.xlogy(h[:, :2], _positive(h[:, 2:]))
    for name in ("fmod", "remainder", "floor_divide"):
        made[name] = partial(_divided, getattr(torch, name))
    for mode in ("floor", "trunc"):
        made[f"div ({mode})"] = partial(_divided, partial(torch.div, rounding_mode=mode))
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        made[name] = partial(_pair, partial(getattr(functional, name), reduction="none"))
    return made | {
        "pow": lambda h: _positive(h[:, :2]) ** h[:, 2:],
        "lerp": lambda h: torch.lerp(h[:, :2], h[:, 2:], h[:, 1:3]),
        "addcmul": lambda h: torch.addcmul(h[:, :2], h[:, 2:], h[:, 1:3], value=0.5),
        "addcdiv": lambda h: torch.addcdiv(h[:, :2], h[:, 2:], _signed(h[:, 1:3])),
        "where": lambda h: torch.where(h[:, :2] > 0, h[:, 2:], 0.5),
        "heaviside": lambda h: torch.heaviside(h[:, :2], h[:, 2:]),
        "clamp (tensor)": lambda h: torch.clamp(h[:, :2], min=h[:, 2:]),
        "matmul": lambda h: h @ h.transpose(1, 2),
        "matmul (vector)": lambda h: h.mT @ torch.arange(4.0),
        "bmm": lambda h: torch.bmm(h, h.mT),
        "baddbmm": lambda h: torch.baddbmm(h[:, :, :4], h, h.mT, beta=0.5, alpha=2),
        "einsum": lambda h: torch.einsum("bij,bkj->bik", h, h),
        "einsum (diagonal)": lambda h: torch.einsum("bii->bi", h[:, :, :4]),
        "tensordot": lambda h: torch.tensordot(h, torch.ones(6, 3), 1),
        "inner": lambda h: torch.inner(h, torch.ones(5, 6)),
        "linear": lambda h: functional.linear(h, torch.ones(5, 6)),
        "kron": lambda h: torch.kron(h, torch.tensor([[1.0, 2.0]])),
        "outer": lambda h: h[:, 0, :, None] * h[:, 1, None],
        "cross": lambda h: torch.linalg.cross(h[..., :3], h[..., 3:]),
        "vecdot": lambda h: torch.linalg.vecdot(h[:, :2], h[:, 2:]),
        "cdist": lambda h: torch.cdist(h[:, :2], h[:, 2:]),
        "cosine_similarity": lambda h: functional.cosine_similarity(h[:, :2], h[:, 2:], dim=-1),
        "pairwise_distance": lambda h: functional.pairwise_distance(h[:, 0], h[:, 1]),
        "kl_div": lambda h: functional.kl_div(
            h[:, :2].log_softmax(-1), h[:, 2:].softmax(-1), reduction="none"
        ),
        "binary_cross_entropy": lambda h: functional.binary_cross_entropy(
            h[:, :2].sigmoid(), h[:, 2:].sigmoid().detach(), reduction="none"
        ),
        "binary_cross_entropy_with_logits": lambda h: functional.binary_cross_entropy_with_logits(
            h[:, :2], h[:, 2:].sigmoid(), reduction="none"
        ),
        "scaled_dot_product_attention": lambda h: functional.scaled_dot_product_attention(h, h, h),
        "attention (causal)": lambda h: functional.scaled_dot_product_attention(
            h, h, h, is_causal=True
        ),
        "attention (4 axes)": lambda h: functional.scaled_dot_product_attention(
            h[:, None], h[:, None], h[:, None], h[:, None, :, :4]
        ),
        "bitwise_and": lambda h: ((h[:, :2] * 8).int() & (h[:, 2:] * 8).int()).float(),
        "bitwise_xor": lambda h: ((h[:, :2] * 8).int() ^ (h[:, 2:] * 8).int()).float(),
        "logical shift": lambda h: ((h * 8).abs().int() << 1).float(),
    }


def _made(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> Between:
    return Between(make(), shape)


_ALL = _unary() | _binary() | REDUCTIONS | SHAPES | INDEXING
OPERATORS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{
        name: (partial(_made, partial(Apply, function), TABLE), (INPUTS,))
        for name, function in _ALL.items()
    },
    **{name: (partial(_made, make, shape), (INPUTS,)) for name, (make, shape) in LAYERS.items()},
}
"""How to make a network around an operator, and the shape of its inputs."""
