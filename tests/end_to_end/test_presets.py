"""SplitCIFAR100 and SplitImageNet by the paper's settings, on tiny pictures for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import run
from supsup_runtime.bank.bank import MaskBank
from tiny_streams import pictures_file

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("stream", "per_task", "model", "largest"),
    [
        ("splitcifar100", 5, "gem-resnet18", 1_090_940),
        ("splitimagenet", 10, "resnet-50", 23_475_392),
    ],
)
def test_from_training_to_evaluation(
    tmp_path: Path, stream: str, per_task: int, model: str, largest: int
) -> None:
    classes = 2 * per_task
    data = pictures_file(tmp_path / "data.npz", classes=classes, side=16, images=8 * classes)
    tasks = [stream, "--data", data, "--tasks", 2]
    words = ["--preset", "paper", "--steps", 3, "--batch-size", 16, "--quiet"]
    bank, out = tmp_path / "masks", tmp_path / "out.onnx"
    run("supsup-train", *tasks, *words, "--bank", bank)
    network = MaskBank.open(bank).network
    assert sum(p.size for p in network.parameters) == largest, model
    assert (network.input_shape, network.outputs) == ((3, 16, 16), per_task)
    said = run("supsup-train", *tasks, *words, "--bank", bank).stderr
    assert said.count("already in the bank, skipped") == 2
    run("supsup-export", "--bank", bank, out)
    found = json.loads(run("supsup-eval", out, *tasks, "--per-task", 0, "--json").stdout)
    for task, row in zip(MaskBank.open(bank), found["tasks"], strict=True):
        assert row["known"] == task.training["accuracy"]
        recipe = task.training["recipe"]
        assert (recipe["rule"]["density"], recipe["learning_rate"]) == (16.0, 1e-3)
