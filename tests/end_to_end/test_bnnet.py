"""Unit masks from training to a running model: BNNet on split digits, labels shared by tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from commands import run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream

pytestmark = pytest.mark.slow

OPTIONS = [
    *("--model", "bnnet-257-129", "--outputs", "10", "--labels", "shared", "--weight-seed", "4"),
    *("--steps", "90", "--batch-size", "32", "--optimizer", "sgd", "--lr", "0.1"),
    *("--lr-schedule", "cosine", "--weight-decay", "1e-4", "--score-init", "zeros", "--quiet"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tasks of two digits, the last learned again in a second run; a bank and a model."""
    folder = tmp_path_factory.mktemp("bnnet")
    bank = folder / "masks"
    run("supsup-train", "split", *OPTIONS, "--tasks", 5, "--bank", bank)
    first = [entry.sha256 for entry in MaskBank.open(bank).entries]
    run("supsup-bank", "remove", bank, "split-8-9")
    done = run("supsup-train", "split", *OPTIONS, "--tasks", 5, "--bank", bank)
    assert done.stderr.count("already in the bank, skipped") == 4
    assert [entry.sha256 for entry in MaskBank.open(bank).entries] == first
    run("supsup-export", "--bank", bank, folder / "out.onnx")
    return folder


def test_known_tasks_are_right_through_the_model(trained: Path) -> None:
    options = ["--labels", "shared", "--per-task", 0, "--json"]
    result = json.loads(run("supsup-eval", trained / "out.onnx", "split", *options).stdout)
    assert result["known"] >= 0.9
    bank = MaskBank.open(trained / "masks")
    for row, task in zip(result["tasks"], bank, strict=True):
        assert task.training["accuracy"] == pytest.approx(row["known"], abs=1e-9)
        assert 0.05 < task.density(bank.network) < 0.95


def test_labels_are_digits_and_one_image_is_as_good_as_many(trained: Path) -> None:
    model = supsup.load(trained / "out.onnx")
    data = make_stream("split", load_dataset(None), num_tasks=5, labels="shared").task(3)
    assert set(data.test_y) == {6, 7}
    whole = model.predict(data.test_x, data.name).logits
    for row in (0, 7, 8):
        alone = model.predict(data.test_x[row : row + 1], data.name).logits
        # sums over 257 units in another order
        np.testing.assert_allclose(alone[0], whole[row], rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("bits", [32, 2])
def test_one_task_is_exported_alone(trained: Path, tmp_path: Path, bits: int) -> None:
    options = ["--bank", trained / "masks", "--task", "split-2-3", "--bits", bits]
    done = run("supsup-export", *options, tmp_path / "one.onnx")
    assert "checked against the bank" in done.stdout + done.stderr


def test_what_differs_is_refused(trained: Path) -> None:
    done = run("supsup-eval", trained / "out.onnx", "split", status=1)
    assert "10 real outputs, the stream's tasks have 2 classes; give --labels" in done.stderr
    same = ["split", *OPTIONS, "--tasks", 5, "--bank", trained / "masks"]
    other = ["constant" if word == "cosine" else word for word in same]
    done = run("supsup-train", *other, status=1)
    assert "was learned with schedule 'cosine', this run has 'constant'" in done.stderr
    other = ["own" if word == "shared" else word for word in same]
    done = run("supsup-train", *other, status=1)
    assert "made with real_outputs 10, this run has 2" in done.stderr
    other = ["mine" if word == "shared" else word for word in same]
    done = run("supsup-train", *other, status=2)
    assert "--labels: invalid choice: 'mine'" in done.stderr
