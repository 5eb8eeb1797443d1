"""Residual networks: as the paper counts them, and their statistics from training to the model.

ResNet-50 goes this way in tests/end_to_end/test_presets.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import supsup_train as st
from supsup_export.exporter import export
from supsup_runtime import MaskBank, load
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.data.dataset import Dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.evaluation.accuracy import evaluate
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.rules import Rule
from supsup_train.masks.train_stream import train_stream
from supsup_train.networks.models import make_model
from supsup_train.networks.resnets import ResNet, basic, bottleneck, convolution

TASKS = 3
TOLERANCE = 3e-4
"""Of logits, in parts of the largest one."""


def small_basic() -> ResNet:
    return ResNet(convolution(3, 6, 3), nn.Identity(), basic, (1, 1), 4)


def small_bottleneck() -> ResNet:
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    return ResNet(convolution(3, 4, 7, 2), pool, bottleneck, (1, 1), 4)


def gem() -> nn.Module:
    return make_model("gem-resnet18", input_shape=(3, 16, 16), outputs=4)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "basic": small_basic,
    "bottleneck": small_bottleneck,
    "gem-resnet18": gem,
}
EACH = [
    "basic",
    *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "basic"),
]


@pytest.mark.parametrize(
    ("name", "outputs", "weights", "statistics", "layers"),
    [
        ("gem-resnet18", 5, 1_090_940, 3_000, 21),
        ("resnet-50", 10, 23_475_392, 53_120, 54),
    ],
)
def test_counts_are_those_of_the_paper(
    name: str, outputs: int, weights: int, statistics: int, layers: int
) -> None:
    with torch.device("meta"):
        module = make_model(name, input_shape=(3, 32, 32), outputs=outputs)
    parameters = dict(module.named_parameters())
    assert sum(value.numel() for value in parameters.values()) == weights
    assert all(key.endswith("weight") and value.ndim >= 2 for key, value in parameters.items())
    assert len(parameters) == layers
    buffers = [each for key, each in module.named_buffers() if "running" in key]
    assert sum(each.numel() for each in buffers) == statistics


@pytest.mark.parametrize(
    ("name", "side", "last"), [("gem-resnet18", 32, (160, 4, 4)), ("resnet-50", 224, (2048, 7, 7))]
)
def test_shapes_before_the_head(name: str, side: int, last: tuple[int, ...]) -> None:
    with torch.device("meta"):
        module = make_model(name, input_shape=(3, side, side), outputs=7)
        assert isinstance(module, ResNet)
        seen: list[torch.Tensor] = []
        module.blocks.register_forward_hook(lambda *given: seen.append(given[-1]))
        assert module(torch.empty(2, 3, side, side)).shape == (2, 7)
    assert seen[0].shape[1:] == last


def pictures() -> Stream:
    """Three tasks of two classes, whose brightness and contrast differ from task to task."""
    rng = np.random.default_rng(0)
    labels = np.arange(6 * 32) % 6
    stripes = np.where(np.arange(16) // 4 % 2, 1.0, -1.0)[:, None, None] * np.ones((1, 16, 3))
    turned = [stripes, stripes.transpose(1, 0, 2)]
    x = np.stack(
        [rng.normal(turned[y % 2], 1.0) * (1 + 2 * (y // 2)) + 4 * (y // 2) for y in labels],
        dtype=np.float32,
        casting="same_kind",
    )
    data = Dataset(
        name="stripes",
        train_x=x,
        train_y=labels,
        test_x=x[:60] + np.float32(0.1),
        test_y=labels[:60],
        mean=4.0,
        std=4.0,
        scale=1.0,
    )
    return make_stream("split", data, num_tasks=TASKS, layout="image")


@pytest.fixture(scope="module", params=EACH)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of three tasks; its folder has the model, too, and the name of the network."""
    folder = tmp_path_factory.mktemp("resnets")
    (folder / "name").write_text(request.param)
    torch.manual_seed(0)
    module = NETWORKS[request.param]()
    bank = st.create_bank(folder / "masks", module, input_shape=(3, 16, 16), real_outputs=2)
    rule = Rule(kind="top-k", density=16, budget="er")
    recipe = Recipe(
        rule=rule,
        steps=12,
        batch_size=16,
        optimizer="adam",
        learning_rate=0.01,
        warmup=2,
        schedule="cosine",
        augment="crop",
    )
    train_stream(bank, module, pictures(), recipe=recipe)
    export(MaskBank.open(folder / "masks"), folder / "out.onnx")
    return folder


def test_every_task_has_statistics_of_its_own(learned: Path) -> None:
    bank = MaskBank.open(learned / "masks")
    module = NETWORKS[(learned / "name").read_text()]()
    norms = [key for key, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    names = {f"{norm}.running_{kind}" for norm in norms for kind in ("mean", "var")}
    assert {each.name for each in bank.network.state} == names
    first, second, third = (bank.task(index).state for index in range(TASKS))
    for name in names:
        assert not np.array_equal(first[name], second[name])
        assert not np.array_equal(second[name], third[name])


def test_reloaded_and_exported_tasks_are_as_measured_in_training(learned: Path) -> None:
    """Users of the authors' code found every task but the last at chance after a reload."""
    bank, stream = MaskBank.open(learned / "masks"), pictures()
    model = load(learned / "out.onnx")
    rows = evaluate(model, stream, per_task=0)["tasks"]
    module = NETWORKS[(learned / "name").read_text()]()
    for index, (task, row) in enumerate(zip(bank, rows, strict=True)):
        data = stream.task(index)
        assert row["known"] == task.training["accuracy"]
        loaded = st.load_task(bank, module, index)
        with torch.no_grad():
            wanted = loaded(torch.from_numpy(data.test_x)).numpy()
        got = model.logits(data.test_x, index)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
        np.testing.assert_array_equal(got.argmax(1), wanted.argmax(1))
        assert float((wanted[:, :2].argmax(1) == data.test_y).mean()) == task.training["accuracy"]
        # alone as among others: no statistics of the batch
        alone = model.logits(data.test_x[:1], index)
        np.testing.assert_allclose(alone, got[:1], rtol=0, atol=TOLERANCE * np.abs(got).max())


def test_superposed_tasks_superpose_their_statistics(learned: Path) -> None:
    bank, x = MaskBank.open(learned / "masks"), pictures().task(1).test_x[:5]
    alphas = np.array([0.5, 0.2, 0.3])
    tensors: dict[str, torch.Tensor] = {}
    for p, weight in zip(bank.network.parameters, bank.network.weights(), strict=True):
        masks = np.stack([unpack_mask(task.masks[p.name], p.shape) for task in bank])
        tensors[p.name] = torch.from_numpy(weight * np.tensordot(alphas, masks, 1)).double()
    for s in bank.network.state:
        values = np.stack([task.state[s.name] for task in bank])
        tensors[s.name] = torch.from_numpy(np.tensordot(alphas, values, 1)).double()
    module = NETWORKS[(learned / "name").read_text()]().eval()
    with torch.no_grad():
        wanted = functional_call(module, tensors, (torch.from_numpy(x).double(),)).numpy()
    got = load(learned / "out.onnx").superpose(x, range(TASKS), alphas)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())
