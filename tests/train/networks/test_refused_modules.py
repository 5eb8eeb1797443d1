"""Modules that would answer otherwise than they train are refused by name."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import supsup_train as st
from odd_modules import (
    Body,
    Plain,
    counted,
    folder,
    hooked,
    kept_aside,
    late,
    normed,
    old_weight_norm,
    sign,
    trained,
)
from supsup_runtime.errors import InputError
from supsup_train.cli.train import run
from supsup_train.programs.forward_ops import DIFFERENTIABLE

FORWARD_ALONE = (
    "; replace it in the module, or pass require_gradient=False to write a bank with the forward "
    "program alone"
)


ALONE = (
    "network: the logits of a row alone differ from those of the same row in a batch; replace "
    "statistics of the batch (as of BatchNorm with track_running_stats=False) and branches on its "
    "size"
)
NOT_STORED = "network: training changes what a bank does not store, such as {}; keep it in float32 "


def random(operator: str) -> str:
    reason = "is random in eval mode, which cannot be exported; replace it in the module"
    return f"network: operator aten.{operator} {reason}"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            normed(track_running_stats=False),
            "network: its forward pass cannot be exported (Expected more than 1 value per channel",
        ),
        (Body(lambda _m, h: h - h.mean(0)), ALONE),
        (Body(lambda _m, h: h if h.shape[0] > 1 else 2 * h), ALONE),
        (Body(lambda _m, h: h.masked_scatter(h > 0, -h)), ALONE),  # the first row alone is right
        (
            Body(lambda _m, h: torch.floor_divide(h, 2.0)),
            ("network: its training on x of shape ('batch', 4) cannot be exported "
            "(derivative for aten"),
        ),
        (
            Body(lambda _m, h: h + np.random.default_rng().random()),
            "network: the logits in eval mode differ from call to call; compute them ",
        ),
        (Body(kept_aside, aside=Plain()), NOT_STORED.format("attributes")),
        (Body(counted, steps=torch.tensor(0)), NOT_STORED.format("['steps']")),
        (
            Body(lambda _m, h: functional.dropout1d(h[:, None], training=True)[:, 0]),
            random("feature_dropout.default"),
        ),
        (
            Body(lambda _m, h: functional.alpha_dropout(h, training=True)),
            random("alpha_dropout.default"),
        ),
        (Body(lambda _m, h: functional.dropout(h, training=True)), random("dropout.default")),
        (Body(lambda _m, h: h + torch.rand_like(h)), random("rand_like.default")),
        (Body(lambda _m, h: h * torch.bernoulli(0.5 + 0 * h)), random("bernoulli.default")),
        (Body(lambda _m, h: h[:, torch.randperm(16)]), random("randperm.default")),
        (Body(lambda _m, h: functional.rrelu(h, training=True)), random("rrelu.default")),
        (
            Body(lambda m, h: (h, h) if m.training else h, head=nn.Identity()),
            "network: its training on x of shape ('batch', 4) cannot be exported",
        ),
        (Body(lambda m, _h: m.nope), "network: its forward pass on x of shape ('batch', 4) cannot"),
    ],
)  # fmt: skip
def test_modules_that_answer_otherwise_are_refused(
    tmp_path: Path, module: nn.Module, message: str
) -> None:
    with pytest.raises(st.ProgramError) as caught:
        folder(tmp_path, module)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (sign, "custom autograd function Sign"),
        (hooked, "register_hook of a tensor"),
    ],
)
def test_gradients_that_are_not_the_programs_are_for_the_forward_program_alone(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    between: Callable[[Any, Tensor], Tensor],
    reason: str,
) -> None:
    message = f"network: {reason} cannot be exported for one-shot{FORWARD_ALONE}"
    with pytest.raises(st.ProgramError) as caught:
        folder(tmp_path, Body(between))
    assert str(caught.value) == message
    with caplog.at_level(logging.WARNING, logger="supsup_train"):
        bank = folder(tmp_path, Body(between), require_gradient=False)
    assert bank.objectives == ()
    assert message in caplog.text


def test_a_gradient_other_than_autograds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = torch.ops.aten.relu.default
    monkeypatch.setitem(DIFFERENTIABLE, operator, lambda x: x.relu() * 0.999)
    module = Body(lambda _m, h: h + 0.5)  # equal to no other, for which an export may be kept
    with pytest.raises(st.ProgramError) as caught:
        folder(tmp_path, module)
    reason = "network: the program's gradient differs from that of autograd cannot be exported"
    assert str(caught.value) == f"{reason} for one-shot{FORWARD_ALONE}"


@pytest.mark.slow
def test_what_changes_late_is_refused_before_the_task_is_made(tmp_path: Path) -> None:
    module = Body(late, late=torch.zeros(1), calls=itertools.count())
    bank = folder(tmp_path, module, require_gradient=False)
    message = (
        r"task 'noisy'.*: training changes what the bank does not store, such as \['late'\]; "
        r"keep it in float32 buffers named in state="
    )
    with pytest.raises(InputError, match=message):
        trained(bank, module)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (st.Mlp([4, 8, 3]).half(), "'layers.0.weight' must be torch.float32, got torch.float16"),
        (st.Mlp([4, 3]).bfloat16(), "'layers.0.weight' must be torch.float32, got torch.bfloat16"),
        (st.Mlp([4, 8, 3]).double(), "'layers.0.weight' must be torch.float32, got torch.float64"),
        (
            Body(lambda _m, h: h, spare=torch.zeros(2, dtype=torch.complex64)),
            "'spare' must be torch.float32, got torch.complex64",
        ),
        (
            Body(lambda _m, h: h, spare=torch.zeros(2).bfloat16()),
            "'spare' must be torch.float32, got torch.bfloat16; convert it, such as by ",
        ),
        (nn.Sequential(nn.LazyLinear(3)), "'0.weight' has no shape yet; run the module on "),
        (old_weight_norm(), "must be an nn.Module that can be copied, got Linear: "),
        (3, "must be an nn.Module that can be copied, got int: "),
    ],
)  # fmt: skip
def test_modules_that_cannot_be_read_are_refused(
    tmp_path: Path, module: nn.Module, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        folder(tmp_path, module)
    assert str(caught.value).startswith(f"module: {message}")


@pytest.mark.parametrize("shape", [4, (0,), (-1,), (4.0,), "4", (True,)])
def test_input_shapes_are_positive_integers(tmp_path: Path, shape: object) -> None:
    message = f"input_shape: must be positive integers, such as (784,), got {shape!r}"
    with pytest.raises(InputError) as caught:
        folder(tmp_path, st.Mlp([4, 3]), input_shape=shape)
    assert str(caught.value) == message
    with pytest.raises(st.ProgramError, match=r"forward pass on x of shape \('batch', 5\) cannot"):
        folder(tmp_path, st.Mlp([4, 3]), input_shape=(5,))


@pytest.mark.slow
def test_a_compiled_module_is_the_module(tmp_path: Path) -> None:
    plain = st.Mlp([4, 8, 3])
    bank = folder(tmp_path, plain)
    parts = st.Mlp([4, 8, 3])
    part: Any = torch.compile(parts.layers[0], backend="eager")
    parts.layers[0] = part
    compiled: Any = torch.compile(plain, backend="eager")
    for number, module in enumerate((compiled, parts)):
        other = folder(tmp_path / str(number), module)
        assert other.digest == bank.digest
        trained(bank, module, steps=1)


def test_a_module_that_remembers_its_first_batch_is_refused(tmp_path: Path) -> None:
    """It can take any number of rows, but only one."""

    def remember(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
        if module.start is None:
            module.start = torch.ones(h.shape[0], 16)
        return h * module.start

    with pytest.raises(st.ProgramError, match="the logits of a row alone differ"):
        folder(tmp_path, Body(remember, start=None))


@pytest.mark.slow
def test_errors_of_a_module_in_training_are_one_line(tmp_path: Path) -> None:
    def fails(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
        if module.training and next(module.calls) == 4:
            raise KeyError("lost")
        return h

    module = Body(fails, calls=itertools.count())
    bank = folder(tmp_path, module, require_gradient=False)
    message = r"task 'noisy', step \d of 30: the module cannot learn 'lost'; mend the module"
    with pytest.raises(InputError, match=message):
        trained(bank, module)
    wrong = r"batch of 1: Expected more than 1 .*; use a larger batch"
    with pytest.raises(InputError, match=wrong):
        trained(folder(tmp_path / "b", normed()), normed(), batch_size=1)


def test_the_command_masks_what_it_is_told_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["split", "--tasks", "1", "--outputs", "12", "--steps", "1", "--model", "mlp-8"]
    words += ["--bank", str(tmp_path / "bank"), "--quiet"]
    run([*words, "--mask", "layers.1.weight"])
    assert "masked parameters: layers.1.weight (12, 8)\n" in capsys.readouterr().err
    run(words)
    run([*words, "--mask", "layers.1.weight"])
    message = (
        r"made with masked \['layers.1.weight'\], this run has \['layers.0.weight'\]; give the same"
    )
    with pytest.raises(InputError, match=message):
        run([*words, "--mask", "layers.0.weight"])
    with pytest.raises(InputError, match="masked: 'nope' must be a parameter"):
        run([*words[:-2], str(tmp_path / "other"), "--quiet", "--mask", "nope"])
