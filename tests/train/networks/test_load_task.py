"""A task back in PyTorch is the exported model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import supsup_train as st
from banks import INPUTS, make_bank
from conftest import random_task
from stores import MODEL, store_bank
from supsup_export.exporter import export
from supsup_runtime import MaskBank, load
from supsup_runtime.bank.task import make_task
from supsup_runtime.errors import BankError, InputError
from supsup_train.networks.models import Mlp, make_model

OUTPUTS, REAL = 6, 4


def equal(bank: MaskBank, module: nn.Module, folder: Path) -> None:
    """Compare each task with ONNX Runtime, 1e-5 of the largest logit."""
    model = load(export(bank, folder / "out.onnx", check=False).path)
    shape = bank.network.input_shape
    x = np.random.default_rng(0).standard_normal((5, *shape)).astype(np.float32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for task in model.tasks:
        got = st.load_task(bank, module, task.name)
        assert not any(part.training for part in got.modules())
        want = model.logits(x, task)
        with torch.no_grad():
            logits = got(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * np.abs(want).max())
        assert np.abs(logits).max() > 0
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    with torch.no_grad():  # tasks differ, and by index
        other = st.load_task(bank, module, 0)(torch.from_numpy(x)).numpy()
    assert not np.allclose(other, logits, atol=1e-3)


@pytest.mark.parametrize("name", ["mlp-7-9", "cnn"])
def test_named_networks_answer_as_their_models(name: str, tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", name, outputs=OUTPUTS, real_outputs=REAL, tasks=3)
    torch.manual_seed(5)  # weights that the bank does not have
    equal(bank, make_model(name, input_shape=INPUTS[name], outputs=OUTPUTS), tmp_path)


def test_masks_over_units(tmp_path: Path) -> None:
    bank = store_bank(tmp_path / "masks", tasks=2)
    equal(bank, make_model(MODEL, input_shape=(30,), outputs=5), tmp_path)


def test_a_bank_with_state_alone(tmp_path: Path) -> None:
    module = Mlp([5, 7, OUTPUTS])
    names = [f"layers.{i}.weight" for i in range(2)]
    bank = st.create_bank(
        tmp_path / "masks", module, input_shape=(5,), real_outputs=REAL, masked=[], state=names
    )
    for seed in range(2):
        rng = np.random.default_rng(seed)
        state = {
            s.name: rng.standard_normal(s.shape).astype(np.float32) for s in bank.network.state
        }
        bank.add(make_task(f"task-{seed}", {}, state=state))
    equal(bank, module, tmp_path)


def test_biases_are_zero_and_constants_those_of_the_bank(tmp_path: Path) -> None:
    def make(seed: int, scale: float) -> nn.Module:
        torch.manual_seed(seed)
        norm = nn.LayerNorm(8)
        nn.init.constant_(norm.weight, scale)
        return nn.Sequential(nn.Linear(5, 8), norm, nn.ReLU(), nn.Linear(8, OUTPUTS))

    bank = st.create_bank(tmp_path / "masks", make(0, 2.0), input_shape=(5,), real_outputs=REAL)
    bank.extend(random_task(bank.network, f"task-{seed}", seed=seed) for seed in range(2))
    equal(bank, make(1, 2.0), tmp_path)  # biases drawn otherwise
    assert not st.load_task(bank, make(1, 2.0), 1).get_parameter("0.bias").any()
    message = r"^module: its constants \['0.bias', .*\] must have the values that the bank was made"
    with pytest.raises(InputError, match=message):
        st.load_task(bank, make(0, 3.0), "task-1")


def test_what_is_refused(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=OUTPUTS, real_outputs=REAL, tasks=1)
    module = Mlp([5, 7, 9, OUTPUTS])
    with pytest.raises(BankError, match=r"no task 'nobody' among its 1; list them with"):
        st.load_task(bank, module, "nobody")
    with pytest.raises(InputError, match=r"^module: 'layers.0.weight' must have shape \(7, 5\)"):
        st.load_task(bank, Mlp([4, 7, 9, OUTPUTS]), "task-0")
    with pytest.raises(InputError, match=r"^bank must be a MaskBank, from create_bank, got 'x'$"):
        st.load_task("x", module, "task-0")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^module: must be an nn.Module that can be copied, got "):
        st.load_task(bank, None, "task-0")  # type: ignore[arg-type]
