"""Forward operators rewritten as arithmetic that PyTorch can differentiate.

PyTorch cannot differentiate running statistics, selects attention kernels by device, and has
recurrent kernels whose backward ONNX lacks. Each function has the signature of its operator and
ignores dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten

Step = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    _momentum: float,
    eps: float,
    _cudnn_enabled: bool,
) -> Tensor:
    """``aten.batch_norm``, also differentiable in the running statistics.

    `x` is ``float32 (batch, channels, ...)``, the other tensors are ``(channels,)`` or None.
    """
    channels = (-1, *[1] * (x.dim() - 2))
    if training or mean is None or var is None:
        dims = [0, *range(2, x.dim())]
        mean = x.mean(dims)
        var = (x - mean.view(channels)).square().mean(dims)
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    y = (x - mean.view(channels)) * scale.view(channels)
    return y if bias is None else y + bias.view(channels)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    _dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``aten.scaled_dot_product_attention`` as two matrix products and a softmax.

    `query` is ``float32 (batch, ..., queries, depth)``, `key` ``(batch, ..., keys, depth)``,
    `value` ``(batch, ..., keys, width)``. `mask`, added to the scores or boolean (true: attend),
    broadcasts to ``(batch, ..., queries, keys)``. `scale` defaults to ``1 / sqrt(depth)``.
    """
    if enable_gqa:
        heads = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(heads, -3), value.repeat_interleave(heads, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def _gru_step(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Gates in PyTorch's order: reset, update, new."""
    (hidden,) = state
    input_reset, input_update, input_new = from_input.chunk(3, 1)
    hidden_reset, hidden_update, hidden_new = from_hidden.chunk(3, 1)
    reset = torch.sigmoid(input_reset + hidden_reset)
    update = torch.sigmoid(input_update + hidden_update)
    new = torch.tanh(input_new + reset * hidden_new)
    return [new + update * (hidden - new)]


def _lstm_step(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Gates in PyTorch's order: input, forget, cell, output; state: hidden, cell."""
    enter, forget, new, leave = (from_input + from_hidden).chunk(4, 1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return [torch.sigmoid(leave) * torch.tanh(cell), cell]


def _one_direction(
    step: Step, inputs: list[Tensor], state: list[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    input_weight, hidden_weight, *biases = weights
    input_bias, hidden_bias = biases or (None, None)
    projected = functional.linear(torch.stack(inputs), input_weight, input_bias)
    hidden = []
    for from_input in projected.unbind():
        from_hidden = functional.linear(state[0], hidden_weight, hidden_bias)
        state = step(from_input, from_hidden, state)
        hidden.append(state[0])
    return hidden, state


def recurrent(step: Step) -> Callable[..., tuple[Tensor, ...]]:
    """Unroll ``aten.gru.input`` or ``aten.lstm.input``.

    `step` maps the projections of input and hidden state, ``(batch, gates * hidden)``, and the
    state to the next state.
    """

    def unrolled(
        x: Tensor,
        initial: Tensor | Sequence[Tensor],
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        _dropout: float,
        _train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        num_directions = 2 if bidirectional else 1
        num_weights = 4 if has_biases else 2
        initials = [initial] if isinstance(initial, Tensor) else list(initial)
        values = list(x.unbind(1 if batch_first else 0))
        finals: list[list[Tensor]] = []
        for layer in range(num_layers):
            outputs = []
            for direction in range(num_directions):
                index = layer * num_directions + direction
                order = -1 if direction else 1
                hidden, final = _one_direction(
                    step,
                    values[::order],
                    [tensor[index] for tensor in initials],
                    weights[index * num_weights : (index + 1) * num_weights],
                )
                outputs.append(hidden[::order])
                finals.append(final)
            values = [torch.cat(both, -1) for both in zip(*outputs, strict=True)]
        output = torch.stack(values, 1 if batch_first else 0)
        return output, *[torch.stack(each) for each in zip(*finals, strict=True)]

    return unrolled


# Operator overload (a type without a public name) to replacement.
DIFFERENTIABLE: dict[Any, Callable[..., Any]] = {
    aten.batch_norm.default: batch_norm,
    aten.scaled_dot_product_attention.default: attention,
    aten.gru.input: recurrent(_gru_step),
    aten.lstm.input: recurrent(_lstm_step),
}
