from __future__ import annotations

from pathlib import Path

import pytest
import torch

import supsup_train as st
from supsup_train.networks.models import wants_images


@pytest.mark.parametrize(
    ("shape", "left"),
    [((3, 32, 32), 16), ((1, 28, 28), 9), ((2, 7, 9), 12), ((1, 1, 1), 1), ((1, 2, 3), 1)],
)
def test_vgg_halves_down_to_8_and_after_the_last(shape: tuple[int, ...], left: int) -> None:
    module = st.make_model("vgg-3-4-5-6", input_shape=shape, outputs=7)
    assert module.get_parameter("head.weight").shape == (7, 6 * left)
    assert module(torch.zeros(2, *shape)).shape == (2, 7)
    assert wants_images("vgg-3")
    assert not wants_images("vgg")


def test_vgg_can_be_exported_and_has_state_per_task(tmp_path: Path) -> None:
    module = st.make_model("vgg-3-4", input_shape=(1, 9, 9), outputs=6)
    bank = st.create_bank(tmp_path / "bank", module, input_shape=(1, 9, 9), real_outputs=2)
    assert [p.name for p in bank.network.parameters][-1] == "head.weight"
    assert {state.name for state in bank.network.state} == {
        f"features.{place}.running_{kind}" for place in (1, 5) for kind in ("mean", "var")
    }
