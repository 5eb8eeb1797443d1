"""Baselines of any network: own tasks, convolutions, exports, refusals; perceptrons as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

import supsup_runtime as supsup
from commands import run
from odd_modules import Look, Steps, Tokens
from supsup_export.exporter import export
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import OwnTasks, read_tasks
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import InputError
from supsup_train.baselines import (
    METHODS,
    BaselineMethod,
    BaselineRecipe,
    make_baseline,
    train_baseline,
)
from supsup_train.baselines.base import Baseline
from supsup_train.masks.learning import descend, make_optimizer
from supsup_train.masks.train_task import fit
from supsup_train.networks.create_bank import tensors_of
from supsup_train.networks.models import Mlp

SHAPE = (1, 6, 6)
# Float32 sums of up to 64 products in four layers: about 300 roundings of 6e-8.
TOLERANCE = 2e-5


class Net(nn.Module):
    """Convolutions, one in groups and one with a raw weight, normalisation, and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False)
        self.raw = nn.Parameter(torch.ones(5, 6, 9))
        self.scale = nn.LayerNorm(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = functional.conv1d(self.grouped(x).flatten(2), self.raw).flatten(1)
        logits: Tensor = self.head(self.scale(x))
        return logits


MASKED = ["raw", "stem.weight", "grouped.weight", "head.weight"]
KEPT = ["norm.running_mean", "norm.running_var"]
OTHERS = {"norm.weight", "norm.bias", "stem.bias", "scale.weight", "scale.bias", "head.bias"}


def recipe(method: BaselineMethod) -> BaselineRecipe:
    return BaselineRecipe.of(method).with_options(steps=5, batch_size=8, learning_rate=1e-2)


def made(method: BaselineMethod, module: nn.Module, *shape: int, **options: Any) -> Baseline:
    torch.manual_seed(0)
    return make_baseline(recipe(method), module, input_shape=shape or SHAPE, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, of two and three classes."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    text = "seed = 0\n"
    for name, classes in (("two", 2), ("three", 3)):
        y = np.arange(30) % classes
        x = (rng.integers(0, 100, (30, 6, 6)) + 70 * y[:, None, None]).astype(np.uint8)
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y)
        text += f'[[task]]\nname = "{name}"\ndata = "{name}.npz"\n'
    (folder / "tasks.toml").write_text(text)
    return folder / "tasks.toml"


@pytest.fixture(scope="module")
def tasks(data: Path) -> OwnTasks:
    return read_tasks(data)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("batche", {"matrices": True}),
        ("psp", {}),
        *(pytest.param(each, {}, marks=pytest.mark.slow) for each in METHODS if each != "psp"),
    ],
)
def test_a_cnn_learns_own_tasks_and_its_model_says_the_same(
    tmp_path: Path, tasks: OwnTasks, method: BaselineMethod, options: dict[str, Any]
) -> None:
    baseline = made(method, Net(), **options)
    before = {name: tensors_of(baseline.module)[name].clone() for name in OTHERS}
    bank = train_baseline(baseline, tasks, tmp_path / "bank", real_outputs=3)
    assert (bank.network.real_outputs, bank.network.outputs) == (3, 4)
    assert bank.network.preprocessing == tasks.preprocessing
    assert [task.labels for task in bank] == list(tasks.task_labels)
    assert [each.name for each in bank.network.state][-2:] == KEPT
    one, two = (task.state for task in bank)
    assert all((one[name] != two[name]).any() for name in KEPT)
    assert all(
        torch.equal(tensors_of(baseline.module)[name], value) for name, value in before.items()
    )
    model = supsup.load(export(bank, tmp_path / "out.onnx").path)
    module, names = baseline.in_bank()
    for index, name in enumerate(tasks.task_names):
        x = tasks.task(index, train=False).test_x
        state = {key: torch.from_numpy(bank.task(name).state[key].copy()) for key in names}
        with torch.no_grad():
            want = functional_call(module.eval(), state, (torch.from_numpy(x),)).numpy()
        got = model.predict(x, name).logits
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())
        record = bank.task(name).training
        right = (want[:, : index + 2].argmax(1) == tasks.task(index).test_y).mean()
        assert record["accuracy"] == pytest.approx(right)


def test_what_each_method_has_per_task() -> None:
    assert made("heads", Net()).state == ["head.weight", *KEPT]
    assert made("sequence", Net()).state == ["head.weight", *KEPT]
    assert made("dense", Net()).state == [*MASKED, *KEPT]
    assert list(made("heads", Net()).shared()) == MASKED[:-1]
    shapes = {key: tuple(v.shape) for key, v in made("batche", Net()).method_tensors().items()}
    assert shapes == {
        "t.0": (6,),
        "s.0": (5,),
        "t.1": (1,),
        "s.1": (4,),
        "t.2": (4,),
        "s.2": (6,),
        "t.3": (5,),
        "s.3": (4,),
    }
    contexts = made("psp", Net()).method_tensors()
    assert [tuple(c.shape) for c in contexts.values()] == [(6, 6), (1, 1), (4, 4), (5, 5)]


def test_the_head_is_what_is_used_last_not_what_is_named_last() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert made("heads", module, 6).state == ["2.weight"]

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(5, 3), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.relu(self.body(x)))
            return logits

    assert made("heads", Swapped(), 6).state == ["head.weight"]


@pytest.mark.parametrize("method", ["batche", "psp"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_one_with_other_weights(method: BaselineMethod, groups: int) -> None:
    """BatchE: ``W * outer(s, t)``, over channels. PSP: ``W`` times the context, over inputs."""
    layer = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=groups, bias=False)
    baseline = made(
        method, nn.Sequential(layer, nn.Flatten(), nn.Linear(54, 3, bias=False)), 4, 5, 5
    )
    baseline.begin("a task")
    tensors = tensors_of(baseline.module)
    own = {name: tensors[name] for name in baseline.state}
    first, head = tensors["0.weight"].detach(), tensors["2.weight"].detach()
    whole = torch.zeros(6, 4, 3, 3)  # as without groups
    for part in range(groups):
        rows, columns = (slice(part * n // groups, (part + 1) * n // groups) for n in (6, 4))
        whole[rows, columns] = first[rows]
    if method == "batche":
        changed = whole * torch.outer(own["s.0"], own["t.0"])[:, :, None, None]
        last = head * torch.outer(own["s.1"], own["t.1"])
    else:
        changed = torch.einsum("oikl,ij->ojkl", whole, own["context0"])
        last = head @ own["context1"]
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = functional.conv2d(x, changed, padding=1, stride=2).flatten(1) @ last.T
        got = baseline.module(x)
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()


class Before(nn.Module):
    """The perceptrons that the methods were first written for."""

    def __init__(self, baseline: Baseline) -> None:
        super().__init__()
        tensors = tensors_of(baseline.module)
        self.weights = nn.ParameterList(tensors[name].clone() for name in baseline.parts.masked)
        own = [tensors[name].clone() for name in baseline.state]
        self.is_batche = baseline.recipe.method == "batche"
        self.own = nn.ParameterList(own) if self.is_batche else own

    def forward(self, x: Tensor) -> Tensor:
        for i, weight in enumerate(self.weights):
            x = torch.relu(x) if i else x
            if self.is_batche:
                x = functional.linear(x * self.own[2 * i], weight) * self.own[2 * i + 1]
            else:
                x = functional.linear(functional.linear(x, self.own[i]), weight)
        return x


@pytest.mark.parametrize("method", ["batche", "psp"])
def test_perceptrons_learn_as_they_did_before_to_the_bit(method: BaselineMethod) -> None:
    """So a bank that was made then is resumed with the same result."""
    baseline = made(method, Mlp([64, 9, 7, 10]), 64)
    data = make_stream("permuted", load_dataset(None), num_tasks=1).task(0)
    baseline.begin(data.name)
    before, phase = Before(baseline), baseline.recipe.phase(first=True)
    # BatchE's order of learned tensors: own ones first
    optimizer = make_optimizer(phase, [*before.parameters()])

    def step(place: str, x: Tensor, y: Tensor) -> float:
        return descend(place, functional.cross_entropy(before(x), y), optimizer)

    fit(step, data, phase, baseline.generator(f"batches of {data.name}"), None)
    baseline.learn(data, first=True)
    for name, weight in zip(baseline.parts.masked, before.weights, strict=True):
        assert torch.equal(tensors_of(baseline.module)[name], weight), name
    for name, value in zip(baseline.state, before.own, strict=True):
        assert torch.equal(tensors_of(baseline.module)[name], value), name
    names = {
        "batche": ["t.0", "s.0", "t.1", "s.1", "t.2", "s.2"],
        "psp": ["context0", "context1", "context2"],
    }
    assert baseline.state == names[method]
    assert list(baseline.shared()) == [f"layers.{i}.weight" for i in range(3)]


class Named(nn.Module):
    """A module with an attribute of BatchE's."""

    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.t(x)
        return logits


class Constant(nn.Module):
    """A module without a weight to mask."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


@pytest.mark.parametrize(
    ("module", "got"),
    [
        (Look, "'look.weight', embedding in Embedding"),
        (lambda: Steps(nn.GRU(1, 8, batch_first=True)), "'part.weight_ih_l0', gru in GRU"),
        (lambda: Steps(nn.LSTM(1, 8, batch_first=True)), "'part.weight_ih_l0', lstm in LSTM"),
        (Tokens, "'attention.in_proj_weight', linear in MultiheadAttention"),
        (
            lambda: nn.Sequential(
                nn.Unflatten(1, (1, 4)), nn.ConvTranspose1d(1, 1, 1), nn.Flatten()
            ),
            "'1.weight', conv_transpose1d in ConvTranspose1d",
        ),
    ],
)
@pytest.mark.parametrize("method", ["batche", "psp"])
def test_what_a_method_cannot_change_is_refused_by_name(
    method: BaselineMethod, module: Callable[[], nn.Module], got: str
) -> None:
    with pytest.raises(InputError) as caught:
        made(method, module(), 4)
    assert str(caught.value) == (
        f"module: {method} needs linear layers and convolutions, got {got}; use heads, dense or "
        "sequence"
    )


def test_heads_and_bounds_take_the_other_layers() -> None:
    module = Steps(nn.GRU(1, 8, batch_first=True))
    assert made("heads", module, 4).state == ["head.weight"]
    state = made("dense", module, 4).state
    assert state == ["part.weight_ih_l0", "part.weight_hh_l0", "head.weight"]
    assert made("heads", Look(), 4).state == ["head.weight"]


def test_other_refusals(tmp_path: Path, tasks: OwnTasks) -> None:
    with pytest.raises(InputError, match=r"^module: its attribute 't' must have another name, as "):
        made("batche", Named(), 4)
    with pytest.raises(InputError, match=r"^module: must have a weight that masks would select"):
        made("dense", Constant(), 4)
    alone = make_baseline(
        recipe("dense").with_options(batch_size=1),
        nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        input_shape=SHAPE,
    )
    with pytest.raises(
        InputError, match=r"^task 'two', step 1 of 5: the module cannot learn from a batch of 1: "
    ):
        train_baseline(alone, tasks, tmp_path / "bank")
    with pytest.raises(InputError, match=r"^--outputs: must be at least 5, .* got 4$"):
        train_baseline(made("dense", Net()), tasks, tmp_path / "bank", real_outputs=5)
    assert not (tmp_path / "bank" / "bank.json").exists()


NET = """
from torch import nn
def make(shape, outputs):
    return nn.Sequential(nn.Conv2d(shape[0], 3, 3), nn.BatchNorm2d(3), nn.Flatten(),
                         nn.Linear(3 * 16, outputs))
def look(shape, outputs):
    return nn.Sequential(nn.Linear(shape[-1], 4), nn.Flatten(), nn.Linear(24, outputs))
"""


def test_the_command_takes_a_module_and_own_tasks(tmp_path: Path, data: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    bank = tmp_path / "bank"
    words = ["own", "--data", data, "--steps", 3, "--bank", bank, "--module"]
    run("supsup-baseline", "heads", *words, f"{tmp_path}/net.py:make")
    network = MaskBank.open(bank).network
    assert (network.input_shape, network.outputs, network.real_outputs) == (SHAPE, 10, 10)
    said = run("supsup-baseline", "heads", *words, f"{tmp_path}/net.py:make").stderr
    assert said.count("already in the bank, skipped") == 2
    words = [*words, f"{tmp_path}/net.py:make", "--max-classes", 4, "--outputs", 10]
    said = run("supsup-baseline", "heads", *words, status=1).stderr
    assert "was made with real_outputs 10, this run has 4; give the same options" in said
    words[words.index(bank)] = tmp_path / "other"
    run("supsup-baseline", "heads", *words)
    assert MaskBank.open(tmp_path / "other").network.real_outputs == 4


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "convolutions.0.weight"),
        pytest.param(["cnn"], "conv.weight", marks=pytest.mark.slow),
    ],
)
def test_the_command_makes_convolutions(
    tmp_path: Path, data: Path, words: list[str], name: str
) -> None:
    model = ["--model", *words] if words else []
    options = ["--data", data, "--steps", 2, *model, "--bank", tmp_path / "bank"]
    run("supsup-baseline", "dense", "own", *options)
    assert name in [tensor.name for tensor in MaskBank.open(tmp_path / "bank").network.state]
