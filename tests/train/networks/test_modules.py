"""What is masked by default, and that what is trained is what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm

from odd_modules import (
    Body,
    Look,
    Steps,
    Tokens,
    folder,
    moving,
    noisy,
    normed,
    replaced,
    table,
    trained,
)
from supsup_runtime.bank.bits import unpack_mask
from supsup_train.programs.programs import describe

ENDS = ["first.weight", "head.weight"]


@pytest.mark.parametrize(
    ("module", "weights"),
    [
        (Body(lambda m, h: functional.linear(h, m.w), w=table(16, 16)), ["w", *ENDS]),
        (Body(lambda m, h: h @ m.w, w=table(16, 16)), ["w", *ENDS]),
        (Body(lambda m, h: torch.einsum("bi,oi->bo", h, m.w), w=table(16, 16)), ["w", *ENDS]),
        (
            Body(lambda m, h: h @ ((m.w - m.w.mean(0)) * m.g), w=table(16, 16), g=table(1, 16)),
            ["w", *ENDS],
        ),
        (Body(lambda m, h: h * m.g[0], g=table(1, 16)), ENDS),
        (Body(lambda m, h: m.pair(h, h), pair=nn.Bilinear(16, 16, 16)), [*ENDS, "pair.weight"]),
        (
            Body(lambda m, h: h + m.biases[m.index], biases=table(7, 16), index=torch.tensor(3)),
            ENDS,
        ),
        (parametrizations.weight_norm(nn.Linear(4, 3)), ["parametrizations.weight.original1"]),
        (
            nn.Sequential(nn.Unflatten(1, (1, 4)), nn.ConvTranspose1d(1, 3, 3), nn.Flatten()),
            ["1.weight"],
        ),
        (Look(), ["look.weight", "head.weight"]),
        (
            Steps(nn.GRU(1, 8, batch_first=True)),
            ["part.weight_ih_l0", "part.weight_hh_l0", "head.weight"],
        ),
        (
            Steps(nn.RNN(1, 8, batch_first=True)),
            ["part.weight_ih_l0", "part.weight_hh_l0", "head.weight"],
        ),
        (Steps(nn.GRUCell(4, 8)), ["part.weight_ih", "part.weight_hh", "head.weight"]),
        (
            Tokens(),
            [
                *("enter.weight", "head.weight"),
                *("attention.in_proj_weight", "attention.out_proj.weight"),
            ],
        ),
        (
            nn.Sequential(
                nn.Unflatten(1, (4, 1, 1)),
                nn.LayerNorm((4, 1, 1)),
                nn.Conv2d(4, 3, 1),
                nn.Flatten(),
            ),
            ["2.weight"],
        ),
    ],
)  # fmt: skip
def test_weights_are_masked_and_scales_tables_and_tokens_are_not(
    module: nn.Module, weights: list[str]
) -> None:
    _, found, _ = describe(module, (4,))
    large = [name for name, value in module.named_parameters() if value.ndim > 1]
    assert [name for name in large if name in found] == weights


def test_weights_are_told_in_order_of_use_with_their_operators() -> None:
    body = Body(lambda m, h: h @ m.w, w=table(16, 16))
    _, found, _ = describe(body, (4,))
    assert list(found.items()) == [
        ("first.weight", "linear"),
        ("w", "matmul"),
        ("head.weight", "linear"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "state"),
    [
        (
            parametrizations.spectral_norm(nn.Linear(4, 3, bias=False)),
            ["parametrizations.weight.0._u", "parametrizations.weight.0._v"],
        ),
        (spectral_norm(nn.Linear(4, 3, bias=False)), ["weight_u", "weight_v"]),
        (Body(moving, mean=torch.zeros(16)), ["mean"]),
        (Body(replaced, mean=torch.zeros(16)), ["mean"]),
        (normed(), ["1.running_mean", "1.running_var"]),
        (
            nn.Sequential(
                nn.Unflatten(1, (1, 4)),
                nn.Conv1d(1, 8, 3, padding=1, bias=False),
                nn.InstanceNorm1d(8, track_running_stats=True),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32, 3, bias=False),
            ),
            ["2.running_mean", "2.running_var"],
        ),
        (Body(lambda _m, h: h.reshape(len(h), -1)), []),
        (nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)), ["0.running_mean"]),
    ],
)
def test_what_is_trained_is_what_is_exported(
    tmp_path: Path, module: nn.Module, state: list[str]
) -> None:
    """Buffers that training changes are state; `len` of a batch; tasks that differ in state."""
    options: dict[str, Any] = {"require_gradient": False}
    if len(state) == 1 and "running" in state[0]:  # masks nothing
        options["masked"], state = [], [*state, "0.running_var"]
    bank = folder(tmp_path, module, **options)
    assert [each.name for each in bank.network.state] == state
    task = trained(bank, module)
    bank.add(task)
    session = onnxruntime.InferenceSession((tmp_path / "bank/programs/forward.onnx").read_bytes())
    weights = zip(bank.network.parameters, bank.network.weights(), strict=True)
    feeds = {p.name: weight * unpack_mask(task.masks[p.name], p.shape) for p, weight in weights}
    x = noisy().test_x
    (many,) = session.run(None, {"x": x, **feeds, **task.state})
    (one,) = session.run(None, {"x": x[:1], **feeds, **task.state})
    np.testing.assert_allclose(one, many[:1], rtol=0, atol=1e-5)
    right = many[:, :2].argmax(1) == noisy().test_y
    assert task.training["accuracy"] == pytest.approx(right.mean(), abs=1e-5)
    log = many - np.log(np.exp(many.astype(np.float64)).sum(1, keepdims=True))
    entropy = -(np.exp(log) * log).sum(1).mean()
    assert task.training["entropy"] == pytest.approx(entropy, abs=1e-5)
