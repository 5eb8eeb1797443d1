"""Settings that came later than the first banks: warm-up and changed pictures."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import supsup_train as st
from supsup_runtime import MaskBank
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import make_optimizer, make_schedule
from supsup_train.masks.train_stream import train_stream
from supsup_train.networks.create_bank import create_bank
from supsup_train.networks.models import make_model
from tiny_streams import pictures


def rates(recipe: st.Recipe) -> list[float]:
    """The learning rate of each step."""
    optimizer = make_optimizer(recipe, [torch.zeros(1, requires_grad=True)])
    schedule, found = make_schedule(recipe, optimizer), []
    for _ in range(recipe.steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return found


def test_the_rate_rises_and_then_follows_its_schedule() -> None:
    recipe = st.Recipe(steps=10, warmup=4, learning_rate=0.8, schedule="cosine")
    falling = [0.4 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates(recipe) == pytest.approx([0.2, 0.4, 0.6, 0.8, *falling])
    recipe = st.Recipe(steps=5, warmup=2, learning_rate=0.8)
    assert rates(recipe) == pytest.approx([0.4, 0.8, 0.8, 0.8, 0.8])


def test_without_warmup_the_rates_are_torchs_to_the_bit() -> None:
    recipe = st.Recipe(steps=30, learning_rate=1e-3, schedule="cosine")
    optimizer = make_optimizer(recipe, [torch.zeros(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for rate in rates(recipe):
        assert rate == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
    assert rates(st.Recipe(steps=3)) == [1e-4] * 3


def test_records_without_them_are_as_ever() -> None:
    assert set(asdict(st.Recipe())) - set(st.Recipe().to_dict()) == {
        *("warmup", "augment", "negatives", "memory")
    }
    recipe = st.Recipe(warmup=2, augment="flip", negatives="memory", memory=5)
    assert recipe.to_dict() == asdict(recipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": -1}, "warmup: must be an integer of at least 0, got -1"),
        ({"warmup": 9, "steps": 9}, "warmup: must be fewer than the 9 steps, got 9"),
        ({"augment": "crop,crop"}, "augment: must be one of "),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        st.Recipe(**options)


def test_changed_pictures_are_learned_the_same_again_and_recorded(tmp_path: Path) -> None:
    module = make_model("conv-4", input_shape=(3, 8, 8), outputs=3)
    options: dict[str, Any] = {"steps": 6, "batch_size": 8, "learning_rate": 0.05}
    digests = {}
    for name, changes in (
        *(("plain", {}), ("one", {"augment": "crop,flip"}), ("two", {"augment": "crop,flip"})),
        ("warm", {"warmup": 3}),
    ):
        bank = create_bank(tmp_path / name, module, input_shape=(3, 8, 8), real_outputs=3)
        recipe = st.Recipe(**options, **changes)
        train_stream(bank, module, pictures(tasks=2, classes=6), recipe=recipe)
        digests[name] = [entry.sha256 for entry in bank.entries]
        recorded = bank.task(0).training["recipe"]
        assert {key: recorded[key] for key in ("warmup", "augment") if key in recorded} == changes
        assert recorded["steps"] == 6
        other = st.Recipe(**options, augment="flip")
        with pytest.raises(InputError, match=r"was learned with .* this run has"):
            train_stream(bank, module, pictures(tasks=2, classes=6), recipe=other)
        train_stream(bank, module, pictures(tasks=2, classes=6), recipe=recipe)  # all there
    assert digests["one"] == digests["two"]
    assert len(set(map(tuple, digests.values()))) == 3
    masks = [MaskBank.open(tmp_path / name).task(0).masks for name in ("plain", "one")]
    assert any(not np.array_equal(masks[0][key], masks[1][key]) for key in masks[0])
