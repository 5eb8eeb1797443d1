"""What is trained is what is exported, or the module is refused by name before training."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.cli.train import run
from supsup_train.programs.forward_ops import DIFFERENTIABLE
from supsup_train.programs.programs import describe

FORWARD_ALONE = (
    "; replace it in the module, or pass require_gradient=False to write a bank with the forward "
    "program alone"
)


class Body(nn.Module):
    """Two layers with a function of the module and the hidden values between them."""

    mean: Any
    aside: Any
    steps: Any
    late: Any
    calls: Any
    start: Any

    def __init__(self, between: Callable[[Any, Tensor], Any], **own: object) -> None:
        super().__init__()
        self.first, self.between = nn.Linear(4, 16, bias=False), between
        self.head = nn.Linear(16, 3, bias=False)
        for name, value in own.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.between(self, self.first(x))))
        return logits


class Sign(torch.autograd.Function):
    """A straight-through activation."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return x.sign()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # noqa: ARG004 - as above
        return gradient


def sign(_module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    return Sign.apply(h)  # type: ignore[no-untyped-call]  # torch leaves it untyped


class Plain:
    """An attribute that torch does not know."""

    mean: ClassVar[object] = 0.0


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape) + 0.1 * torch.randn(shape))


def normed(**options: bool) -> nn.Module:
    layers = [nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8, affine=False, **options)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(8, 3, bias=False))


def hooked(_module: Body, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]  # torch
    return h


def moving(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        with torch.no_grad():
            module.mean.mul_(0.9).add_(0.1 * h.mean(0))
    return h - module.mean


def replaced(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        module.mean = 0.9 * module.mean + 0.1 * h.mean(0)
    return h - module.mean


def kept_aside(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        module.aside.mean = h.mean(0).detach()
    return h - module.aside.mean


def counted(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training:
        module.steps += 1
    return h + 0.1 * module.steps


def late(module: Body, h: Tensor) -> Any:  # noqa: ANN401 - a tensor
    if module.training and next(module.calls) >= 4:
        module.late += 1
    return h + module.late


def folder(path: Path, module: nn.Module, **options: Any) -> MaskBank:
    options = {"input_shape": (4,), "real_outputs": 2, **options}
    return st.create_bank(path / "bank", module, **options)


def noisy() -> TaskData:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    x = (rng.standard_normal((300, 4)) + y[:, None]).astype(np.float32)
    return TaskData(
        name="noisy",
        labels=("low", "high"),
        train_x=x[:100],
        train_y=y[:100],
        test_x=x[100:],
        test_y=y[100:],
    )


def trained(bank: MaskBank, module: nn.Module, **options: Any) -> TaskMasks:
    options = {"steps": 30, "learning_rate": 1e-2, "batch_size": 32, **options}
    return st.train_task(bank, module, noisy(), recipe=st.Recipe(**options))


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        module: nn.Module = weight_norm(nn.Linear(4, 3))
    return module


class Look(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.look, self.head = nn.Embedding(9, 8), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.look(x.clamp(0, 8).long()).flatten(1))
        return logits


class Steps(nn.Module):
    """A recurrent network, or its cell with an initial state of its own."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.head, self.start = part, nn.Linear(8, 3), table(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.part, nn.GRUCell):
            hidden = self.part(x, self.start.expand(x.shape[0], 8))
        else:
            hidden = self.part(x[:, :, None])[0][:, -1]
        logits: Tensor = self.head(hidden)
        return logits


class Tokens(nn.Module):
    """A transformer block with a class token, tables of positions, a temperature and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(1, 8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.token, self.places, self.temperature = table(1, 1, 8), table(1, 5, 8), table(1, 1)
        self.numbers, self.norm, self.scale = nn.Embedding(5, 8), nn.LayerNorm((5, 8)), table(1, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.enter(x[:, :, None])], 1)
        x = self.norm(x + self.places + self.numbers(torch.arange(5))) * self.temperature
        x = x + self.attention(x, x, x, need_weights=False)[0] * self.scale
        logits: Tensor = self.head(x[:, 0])
        return logits


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
    large = {name for name, value in module.named_parameters() if value.ndim > 1}
    assert [name for name in found if name in large] == weights


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
        run([*words, "--bank", str(tmp_path / "other"), "--mask", "nope"])
