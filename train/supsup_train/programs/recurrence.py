"""Recurrent layers, unrolled into operators that PyTorch can differentiate and ONNX has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

_log = logging.getLogger(__name__)
_LONG_SECONDS = 30

Step = Callable[[Tensor, Tensor, list[Tensor]], list[Tensor]]


def gru_step(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Gates in PyTorch's order: reset, update, new."""
    (hidden,) = state
    input_reset, input_update, input_new = from_input.chunk(3, 1)
    hidden_reset, hidden_update, hidden_new = from_hidden.chunk(3, 1)
    reset = torch.sigmoid(input_reset + hidden_reset)
    update = torch.sigmoid(input_update + hidden_update)
    new = torch.tanh(input_new + reset * hidden_new)
    return [new + update * (hidden - new)]


def lstm_step(from_input: Tensor, from_hidden: Tensor, state: list[Tensor]) -> list[Tensor]:
    """Gates in PyTorch's order: input, forget, cell, output; state: hidden, cell."""
    enter, forget, new, leave = (from_input + from_hidden).chunk(4, 1)
    cell = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return [torch.sigmoid(leave) * torch.tanh(cell), cell]


def simple_step(activation: Callable[[Tensor], Tensor]) -> Step:
    """Make the step of ``aten.rnn_tanh`` or ``rnn_relu``."""
    return lambda from_input, from_hidden, _state: [activation(from_input + from_hidden)]


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


def _announce(cells: int) -> None:
    """Log how long an export takes, if long; measured for a GRU on one core of 2026."""
    seconds = cells * (1.1 + 0.03 * cells)
    if seconds >= _LONG_SECONDS:
        _log.warning(
            "unrolling a recurrent layer into %d cells; the export takes about %d seconds",
            cells,
            seconds,
        )


def recurrent(step: Step) -> Callable[..., tuple[Tensor, ...]]:
    """Unroll ``aten.gru.input``, ``lstm``, ``rnn_tanh`` or ``rnn_relu``.

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
        _announce(len(values) * num_layers * num_directions)
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
