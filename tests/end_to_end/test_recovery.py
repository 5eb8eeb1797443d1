"""HopSupSup on split digits: masks learned, encoded, deleted, and recovered from inputs alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import run
from supsup_runtime.bank import MaskBank
from supsup_runtime.sources import load_dataset
from supsup_runtime.streams import make_stream

TRAIN = [
    *("--model", "bnnet-512-512", "--outputs", "10", "--labels", "shared", "--weight-seed", "4"),
    *("--steps", "60", "--batch-size", "32", "--optimizer", "sgd", "--lr", "0.1"),
    *("--schedule", "cosine", "--weight-decay", "1e-4", "--score-init", "zeros", "--quiet"),
]
# A unit's share of the entropy is larger where there are fewer: so is the energy's strength, here.
RECOVER = ["--recover", "--batch-size", 16, "--energy-strength", 0.02]
STORED = ["split-0-1", "split-2-3", "split-4-5", "split-8-9"]
STREAM = make_stream("split", load_dataset(None), num_tasks=5, labels="shared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tasks in a store, their masks deleted; the fifth was never learned."""
    made = tmp_path_factory.mktemp("hopsupsup")
    bank = made / "masks"
    run("supsup-train", "split", *TRAIN, "--tasks", 5, "--bank", bank)
    run("supsup-bank", "remove", bank, "split-6-7")
    done = run("supsup-hopfield", "encode", "--bank", bank, "--delete-masks")
    assert "4 tasks' files deleted, 0 left" in done.stdout
    assert len(MaskBank.open(bank)) == 0
    assert list((bank / "tasks").iterdir()) == []
    run("supsup-export", "--hopfield", "--bank", bank, made / "recover.onnx")
    for index in range(5):
        task = STREAM.task(index)
        np.save(made / f"{task.name}.npy", np.concatenate([task.train_x, task.train_x]))
        np.save(made / f"{task.name}-test.npy", task.test_x)
    return made


def recovered(folder: Path, task: str, *options: object) -> Mapping[str, Any]:
    stream = folder / f"{task}.npy"
    done = run("supsup-run", folder / "recover.onnx", stream, *RECOVER, *options, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_task_is_recovered_from_its_inputs(folder: Path, index: int) -> None:
    data = STREAM.task(index)
    found = recovered(folder, data.name)
    assert (found["verdict"], found["task"]) == ("stored", data.name)
    assert found["converged_after"] < 30
    assert found["trace"]["distance"][-1] == 0
    assert len(found["mask"]) == 1024
    right = np.array([int(label) for label in found["labels"]]) == np.tile(data.train_y, 2)
    assert right.mean() >= 0.95


def test_inputs_of_an_unknown_task_are_of_none(folder: Path) -> None:
    found = recovered(folder, "split-6-7")
    assert (found["verdict"], found["task"], found["labels"]) == ("not-converged", None, None)
    assert found["entropy"] > 1.5 * found["expected_entropy"]
    assert "of an unknown task?" in found["reason"]


def test_the_command_says_what_it_found(folder: Path) -> None:
    model, stream = folder / "recover.onnx", folder / "split-0-1.npy"
    lines = run("supsup-run", model, stream, *RECOVER).stdout.splitlines()
    assert lines[0].startswith("stored: at the mask of 'split-0-1', 0.0% of the bits away when")
    assert " steps, within reach after " in lines[0]
    assert lines[1].split() == ["row", "task", "label", "logit"]
    assert lines[2].split()[1] == "split-0-1"
    options = ["--steps", 1, "--start", "zero", "--schedule", "constant", "--statistics", "running"]
    short = run("supsup-run", model, stream, *RECOVER, *options).stdout
    assert short.startswith("not-converged: ")
    assert short.count("\n") == 1  # no labels through a mask that is none
    far = recovered(folder, "split-0-1", "--step-size", 1e39, "--weight-decay", 0)
    assert (far["verdict"], far["steps"], far["labels"]) == ("diverged", 1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recover", "--task", "split-0-1"], "--task: the task is recovered; leave it, or"),
        (["--recover", "--per-image"], "--per-image: the task is recovered"),
        (["--recover", "--method", "verified"], "--method: the task is recovered"),
        (["--recover", "--batch-size", 0], "--batch-size: must be at least 1, got 0"),
        (["--recover", "--steps", 99], "batches: 99 steps take as many batches, the stream ended"),
        (["--recover", "--momentum", 1], r"momentum: must be in [0, 1), got 1.0"),
        (["--recover", "--step-size", 1e5], "the scores diverge from 38000 on, got 100000; take"),
        (["--recover", "--look-every", -1], "look_every: must be an integer of at least 0, got -1"),
        (["--start", "zero"], "--start: is of a recovery; add --recover, or leave it out"),
        (["--weight-decay", 0], "--weight-decay: is of a recovery; add --recover"),
        ([], "the model recovers masks from a Hopfield store, it has none to select"),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, options: list[object], message: str
) -> None:
    stream = folder / "split-0-1.npy"
    done = run("supsup-run", folder / "recover.onnx", stream, *options, status=1)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_nan_in_the_stream_is_refused(folder: Path, tmp_path: Path) -> None:
    x = np.load(folder / "split-0-1.npy")
    x[40, 3] = np.nan
    np.save(tmp_path / "nan.npy", x)
    words = [folder / "recover.onnx", tmp_path / "nan.npy", *RECOVER, "--look-every", 0]
    done = run("supsup-run", *words, status=1)
    assert "batch 2: x must be finite, got NaN or infinity in row 8" in done.stderr
