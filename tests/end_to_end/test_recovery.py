"""HopSupSup on split digits: masks learned, encoded, deleted, and recovered from inputs alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream

TRAIN = [
    *("--model", "bnnet-512-512", "--outputs", "10", "--labels", "shared", "--weight-seed", "4"),
    *("--steps", "60", "--batch-size", "32", "--optimizer", "sgd", "--lr", "0.1"),
    *("--lr-schedule", "cosine", "--weight-decay", "1e-4", "--score-init", "zeros", "--quiet"),
]
RECOVER = ["--recover"]
STREAM = make_stream("split", load_dataset(None), num_tasks=5, labels="shared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tasks learned, and the inputs of each; four in a store, their masks deleted."""
    made = tmp_path_factory.mktemp("hopsupsup")
    run("supsup-train", "split", *TRAIN, "--tasks", 5, "--bank", made / "all")
    for index in range(5):
        task = STREAM.task(index)
        np.save(made / f"{task.name}.npy", np.concatenate([task.train_x, task.train_x]))
    assert stored(made, "split-6-7", "recover.onnx").endswith("4 tasks' files deleted, 0 left\n")
    bank = made / "without-split-6-7"
    assert len(MaskBank.open(bank)) == 0
    assert list((bank / "tasks").iterdir()) == []
    return made


def stored(folder: Path, left_out: str, model: str) -> str:
    """A model of all tasks but one, made with their masks deleted; what was said."""
    bank = folder / f"without-{left_out}"
    shutil.copytree(folder / "all", bank)
    run("supsup-bank", "remove", bank, left_out)
    done = run("supsup-hopfield", "encode", "--bank", bank, "--delete-masks")
    run("supsup-export", "--hopfield", "--bank", bank, folder / model, "--no-check")
    return done.stdout


def recovered(
    folder: Path, task: str, *options: object, model: str = "recover.onnx"
) -> Mapping[str, Any]:
    stream = folder / f"{task}.npy"
    done = run("supsup-run", folder / model, stream, *RECOVER, *options, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_task_is_recovered_from_its_inputs(folder: Path, index: int) -> None:
    data = STREAM.task(index)
    found = recovered(folder, data.name)
    assert (found["verdict"], found["task"]) == ("stored", data.name)
    assert found["converged_after"] < 30
    assert found["looked"] or found["trace"]["distance"][-1] <= 0.02
    assert len(found["mask"]) == 1024
    right = np.array([int(label) for label in found["labels"]]) == np.tile(data.train_y, 2)
    assert right.mean() >= 0.95


@pytest.mark.parametrize("left_out", STREAM.task_names)
def test_inputs_of_an_unknown_task_are_of_none(folder: Path, left_out: str) -> None:
    model = "recover.onnx"
    if left_out != "split-6-7":
        model = f"{left_out}.onnx"
        stored(folder, left_out, model)
    found = recovered(folder, left_out, model=model)
    assert (found["verdict"], found["task"], found["labels"]) == ("not-converged", None, None)
    assert (found["looked"], found["converged_after"], found["tasks"]) == (False, None, [])


def test_the_command_says_what_it_found(folder: Path) -> None:
    model, stream = folder / "recover.onnx", folder / "split-0-1.npy"
    lines = run("supsup-run", model, stream, *RECOVER).stdout.splitlines()
    assert lines[0].startswith("stored: at the mask of 'split-0-1', found by a look after step")
    assert lines[0].endswith(" steps)")
    assert lines[1].split() == ["row", "task", "label", "logit"]
    assert lines[2].split()[1] == "split-0-1"
    options = ["--steps", 1, "--start", "zero", "--schedule", "constant", "--statistics", "running"]
    short = run("supsup-run", model, stream, *RECOVER, *options).stdout
    assert short.startswith("not-converged: ")
    assert short.count("\n") == 1  # no labels through a mask that is none
    strong = ["--schedule", "constant", "--energy-strength", 1000, "--weight-decay", 0]
    far = recovered(folder, "split-0-1", "--step-size", 3e38, *strong)
    assert (far["verdict"], far["steps"], far["labels"]) == ("diverged", 1, None)
    assert far["converged_after"] is None
    strict = recovered(folder, "split-0-1", "--max-entropy-ratio", 1)
    assert strict["entropy"] <= strict["expected_entropy"] or strict["verdict"] != "stored"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recover", "--task", "split-0-1"], "--task: the task is recovered; leave it, or"),
        (["--recover", "--per-image"], "--per-image: the task is recovered"),
        (["--recover", "--task", ""], "--task: the task is recovered"),
        (["--recover", "--candidates", 0], "--candidates: the task is recovered"),
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


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.float32(3), r"x must have shape (batch, 64) with batch >= 1, got ()"),
        (np.zeros((0, 64), np.float32), "with batch >= 1, got (0, 64)"),
        (np.zeros((3, 7), np.float32), "x must have shape (batch, 64) with batch >= 1, got (3, 7)"),
        (np.zeros((3, 64)), "x must be a float32 array, got float64"),
        (np.full((3, 64), np.nan, np.float32), "x must be finite, got NaN or infinity in row 0"),
    ],
)
def test_inputs_are_checked(folder: Path, tmp_path: Path, x: Any, message: str) -> None:  # noqa: ANN401 - an array
    np.save(tmp_path / "x.npy", x)
    done = run("supsup-run", folder / "recover.onnx", tmp_path / "x.npy", *RECOVER, status=1)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_huge_inputs_bring_no_warning(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(folder / "split-0-1.npy") * np.float32(1e30))
    done = run("supsup-run", folder / "recover.onnx", tmp_path / "x.npy", *RECOVER)
    assert done.stderr == ""


def test_one_image_is_of_no_task_for_sure(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(folder / "split-0-1.npy")[0])
    found = run("supsup-run", folder / "recover.onnx", tmp_path / "x.npy", *RECOVER).stdout
    assert found.startswith("not-converged: ")
    assert found.count("\n") == 1
