"""Masks over trained weights: what is stored, frozen, per task and new; files of all kinds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import supsup_train as st
from banks import filled
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_task
from supsup_runtime import MaskBank, load
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import make_task
from supsup_runtime.errors import InputError
from supsup_train.cli.train import run as train
from supsup_train.networks.base import load_base

OUTPUTS = 6


class Trained(nn.Module):
    """Convolution, affine batch normalisation, biases."""

    def __init__(self, outputs: int = OUTPUTS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, outputs)
        with torch.no_grad():
            for value in (*self.parameters(), self.get_buffer("norm.running_mean")):
                value.add_(0.3 * torch.randn(value.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return logits


@pytest.fixture
def module() -> Trained:
    torch.manual_seed(0)
    return Trained()


def made(path: Path, module: nn.Module, base: st.Base | str = "module") -> MaskBank:
    return st.create_bank(
        path,
        module,
        input_shape=(1, 4, 4),
        real_outputs=4,
        weights=base,  # type: ignore[arg-type]
    )


def inits(bank: MaskBank) -> dict[str, str]:
    return {p.name: p.init for p in bank.network.parameters}


RUNNING = {"norm.running_mean", "norm.running_var"}


@pytest.mark.parametrize(
    ("base", "masked", "state"),
    [
        (
            st.Base(),
            {"conv.weight": "stored", "head.weight": "signed-constant"},
            {"norm.weight", "norm.bias"},
        ),
        (
            st.Base(head="masked", norms="frozen"),
            {"conv.weight": "stored", "head.weight": "stored"},
            set(),
        ),
        (
            st.Base(head="per-task", norms="frozen", biases="per-task"),
            {"conv.weight": "stored"},
            {"conv.bias", "head.weight", "head.bias"},
        ),
        (st.Base(head="frozen", norms="frozen"), {"conv.weight": "stored"}, set()),
    ],
)
def test_choices(
    tmp_path: Path, module: Trained, base: st.Base, masked: dict[str, str], state: set[str]
) -> None:
    bank = made(tmp_path / "masks", module, base)
    assert inits(bank) == masked
    assert {s.name for s in bank.network.state} == RUNNING | state
    np.testing.assert_array_equal(bank.network.weights()[0], module.conv.weight.detach().numpy())


def test_a_mask_of_ones_is_the_module(tmp_path: Path, module: Trained) -> None:
    """Through the exported model: frozen biases, norms and statistics are the module's."""
    bank = made(tmp_path / "masks", module, st.Base(head="masked", norms="frozen"))
    state = {name: getattr(module.norm, name[5:]).numpy() for name in RUNNING}
    ones = {p.name: np.ones(p.shape, np.bool_) for p in bank.network.parameters}
    bank.add(make_task("whole", ones, state=state))
    model = load(export(bank, tmp_path / "out.onnx").path)
    x = np.random.default_rng(0).standard_normal((5, 1, 4, 4)).astype(np.float32)
    with torch.no_grad():
        want = module.eval()(torch.from_numpy(x)).numpy()
    got = model.predict(x, task="whole").logits
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    with torch.no_grad():
        back = st.load_task(bank, module, "whole")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(back, want, rtol=0, atol=1e-6 * np.abs(want).max())
    single = tmp_path / "one.onnx"
    export_task(bank, "whole", single)
    with pytest.raises(InputError, match="bits: 2 requires weights of one magnitude per layer"):
        export_task(bank, "whole", tmp_path / "two.onnx", bits=2)


@pytest.mark.parametrize("target", ["cpu", "portable", "cuda"])
def test_scores_use_the_stored_weights(tmp_path: Path, module: Trained, target: str) -> None:
    """The export checks scores against numpy; here that they differ from seeded weights."""
    banks = [
        made(tmp_path / name, module, kind) for name, kind in (("a", "module"), ("b", "seeded"))
    ]
    x = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)
    found: list[Any] = []
    for bank in banks:
        path = bank.path.with_suffix(".onnx")
        request = Request(target=target)  # type: ignore[arg-type]
        assert export(filled(bank, 3), path, request=request).parity is not None
        found.append(load(path).infer_task(x, method="one-shot").scores)
    assert not np.allclose(found[0], found[1])


def test_another_base_is_refused(tmp_path: Path, module: Trained) -> None:
    made(tmp_path / "masks", module)
    arguments: dict[str, Any] = {"input_shape": (1, 4, 4), "real_outputs": 4}
    st.open_bank(tmp_path / "masks", module, **arguments, weights="module")
    with pytest.raises(InputError, match="made with weights module, this run has seeded"):
        st.open_bank(tmp_path / "masks", module, **arguments)
    with torch.no_grad():
        module.conv.weight += 1
    with pytest.raises(InputError, match="must be those of the base that the bank was made with"):
        st.open_bank(tmp_path / "masks", module, **arguments, weights="module")


def test_other_choices_and_other_starts_are_refused(tmp_path: Path, module: Trained) -> None:
    made(tmp_path / "masks", module)
    arguments: dict[str, Any] = {"input_shape": (1, 4, 4), "real_outputs": 4}
    for other in (
        st.Base(head="masked"),
        st.Base(head="frozen"),
        st.Base(norms="frozen"),
        st.Base(biases="per-task"),
    ):
        with pytest.raises(InputError, match="made with other choices of head, norms or biases"):
            st.open_bank(tmp_path / "masks", module, **arguments, weights=other)
    for name in ("norm.weight", "norm.running_var", "conv.bias"):
        changed_module = copy.deepcopy(module)
        with torch.no_grad():
            dict(changed_module.state_dict())[name].mul_(2)
        with pytest.raises(InputError, match="of the base that the bank was made with"):
            st.open_bank(tmp_path / "masks", changed_module, **arguments, weights="module")


def test_the_bias_of_a_new_head_is_zero(tmp_path: Path, module: Trained) -> None:
    """Whatever torch drew for it; the others stay."""
    bank = filled(made(tmp_path / "masks", module), 1)
    with torch.no_grad():
        module.get_parameter("head.bias").add_(5)
    st.open_bank(bank.path, module, input_shape=(1, 4, 4), real_outputs=4, weights="module")
    loaded = st.load_task(bank, module, 0)
    assert not loaded.get_parameter("head.bias").any()
    assert loaded.get_parameter("conv.bias").equal(module.get_parameter("conv.bias"))


class Tied(nn.Module):
    """Tied weights, integers, and a buffer that files leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.again.weight = self.first.weight
        self.head = nn.Linear(4, OUTPUTS, bias=False)
        self.register_buffer("order", torch.arange(4))
        self.register_buffer("scratch", torch.ones(2), persistent=False)


@pytest.mark.parametrize("left_out", ["first.weight", "again.weight"])
def test_a_state_dict_is_a_base(tmp_path: Path, left_out: str) -> None:
    torch.manual_seed(2)
    source, path = Tied(), tmp_path / "base.safetensors"
    tensors = {k: v for k, v in source.state_dict().items() if k != left_out}
    save_file(tensors, path)
    module = Tied()
    assert load_base(module, path, outputs=OUTPUTS, base=st.Base()) == "head.weight"
    assert module.again.weight.equal(source.first.weight)
    save_file({**tensors, "order": torch.zeros(4)}, path)
    with pytest.raises(InputError, match=r"'order' must be torch.int64 \(4,\), got torch.float32"):
        load_base(module, path, outputs=OUTPUTS, base=st.Base())


def test_unknown_choices() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [({"head": "old"}, "head:"), ({"norms": 1}, "norms:")]
    for values, match in wrong:
        with pytest.raises(InputError, match=match):
            st.Base(**values)


def test_only_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need a masked parameter besides the head 'weight'"):
        st.create_bank(
            tmp_path, nn.Linear(3, 4), input_shape=(3,), real_outputs=4, weights="module"
        )


def changed(module: nn.Module, **values: torch.Tensor | None) -> dict[str, torch.Tensor]:
    tensors = {**module.state_dict(), **{k.replace("__", "."): v for k, v in values.items()}}
    return {name: value.contiguous() for name, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"conv__weight": None}, r"missing \['conv.weight'\], extra \[\]"),
        ({"more": torch.zeros(1)}, r"missing \[\], extra \['more'\]; its head is 'head.weight'"),
        ({"conv__weight": torch.zeros(3, 1, 3)}, r"'conv.weight' must be float \(3, 1, 3, 3\)"),
        ({"conv__bias": torch.zeros(3, dtype=torch.int32)}, r"'conv.bias' must be float \(3,\)"),
        ({"conv__bias": torch.full((3,), torch.nan)}, "'conv.bias' must be finite"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, module: Trained, values: dict[str, torch.Tensor | None], match: str
) -> None:
    path = tmp_path / "base.safetensors"
    save_file(changed(module, **values), path)
    with pytest.raises(InputError, match=match):
        load_base(Trained(), path, outputs=OUTPUTS, base=st.Base())


def test_damaged_files(tmp_path: Path, module: Trained) -> None:
    path = tmp_path / "base.safetensors"
    with pytest.raises(InputError, match="missing; give a file of the network's weights"):
        load_base(module, path, outputs=OUTPUTS, base=st.Base())
    save_file(module.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_base(module, path, outputs=OUTPUTS, base=st.Base())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_new_head_takes_any_file(tmp_path: Path, module: Trained, dtype: torch.dtype) -> None:
    path = tmp_path / "base.safetensors"
    other = Trained(outputs=9)
    save_file({k: v.to(dtype) for k, v in other.state_dict().items()}, path)
    before = module.head.weight.clone()
    load_base(module, path, outputs=OUTPUTS, base=st.Base())
    torch.testing.assert_close(module.conv.weight, other.conv.weight.to(dtype).float())
    assert module.head.weight.equal(before)
    with pytest.raises(InputError, match=r"'head.(bias|weight)' must be float"):
        load_base(module, path, outputs=OUTPUTS, base=st.Base(head="masked"))


def test_the_command(tmp_path: Path) -> None:
    """Learned twice to the same bytes; the bank is resumed, and refuses another base."""
    torch.manual_seed(1)
    first = st.make_model("mlp-9", input_shape=(64,), outputs=10)
    base = tmp_path / "base.safetensors"
    save_file(first.state_dict(), base)
    words = [
        "split",
        "--tasks",
        "2",
        "--model",
        "mlp-9",
        "--outputs",
        "12",
        "--steps",
        "3",
        "--quiet",
        "--base",
    ]
    words += [str(base), "--bank"]
    for name in ("a", "b"):
        train([*words, str(tmp_path / name)])
    train([*words, str(tmp_path / "a")])
    a, b = (MaskBank.open(tmp_path / name) for name in ("a", "b"))
    assert a.revision == b.revision
    assert inits(a) == {"layers.0.weight": "stored", "layers.1.weight": "signed-constant"}
    weights = first.state_dict()["layers.0.weight"].numpy()
    np.testing.assert_array_equal(a.network.weights()[0], weights)
    assert 0 < unpack_mask(a.task(0).masks["layers.0.weight"], weights.shape).sum() < weights.size
    save_file({**first.state_dict(), "layers.0.weight": torch.zeros(9, 64)}, base)
    with pytest.raises(InputError, match="of the base that the bank was made with"):
        train([*words, str(tmp_path / "a")])
    with pytest.raises(InputError, match="--head: goes with --base; leave it out"):
        train(["split", "--head", "new", "--bank", str(tmp_path / "c")])
