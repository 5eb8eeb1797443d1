"""HopSupSup on split digits: masks learned, encoded, deleted, and recovered from inputs alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import Done, run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream

TRAIN = [
    *("--model", "bnnet-512-512", "--outputs", "10", "--labels", "shared", "--weight-seed", "4"),
    *("--steps", "60", "--batch-size", "32", "--optimizer", "sgd", "--lr", "0.1"),
    *("--lr-schedule", "cosine", "--weight-decay", "1e-4", "--score-init", "zeros", "--quiet"),
]
STREAM = make_stream("split", load_dataset(None), num_tasks=5, labels="shared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five tasks learned, and the inputs of each; four in a store, their masks deleted."""
    made = tmp_path_factory.mktemp("hopsupsup")
    run("supsup-train", "split", *TRAIN, "--tasks", 5, "--bank", made / "all")
    for index in range(5):
        task = STREAM.task(index)
        np.save(made / f"{task.name}.npy", np.concatenate([task.train_x, task.train_x]))
    assert stored(made, "split-6-7", "recover.onnx").endswith("4 task files deleted, 0 left\n")
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


def recover(model: Path, x: Path, *options: object, status: int = 0) -> Done:
    return run("supsup-hopfield", "recover", model, x, *options, status=status)


def recovered(
    folder: Path, task: str, *options: object, model: str = "recover.onnx"
) -> Mapping[str, Any]:
    stream = folder / f"{task}.npy"
    done = recover(folder / model, stream, *options, "--json")
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
    lines = recover(model, stream).stdout.splitlines()
    assert lines[0].startswith("stored: at the mask of 'split-0-1', found by a look after step")
    assert lines[0].endswith(" steps)")
    assert lines[1].split() == ["row", "task", "label", "logit"]
    assert lines[2].split()[1] == "split-0-1"
    options = ["--start", "zero", "--strengths", "constant", "--statistics", "running"]
    short = recover(model, stream, "--steps", 1, *options).stdout
    assert short.startswith("not-converged: ")
    assert short.count("\n") == 1  # no labels through a mask that is none
    strong = ["--strengths", "constant", "--energy-strength", 1000, "--weight-decay", 0]
    far = recovered(folder, "split-0-1", "--step-size", 3e38, *strong)
    assert (far["verdict"], far["steps"], far["labels"]) == ("diverged", 1, None)
    assert far["converged_after"] is None
    strict = recovered(folder, "split-0-1", "--max-entropy-ratio", 1)
    assert strict["entropy"] <= strict["expected_entropy"] or strict["verdict"] != "stored"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--batch-size", 0], 2, "--batch-size: must be an integer of at least 1, got '0'"),
        (["--schedule", "constant"], 2, "--schedule: is called --strengths now"),
        (["--steps", 99], 1, "batches: must have at least 99, one per step, got"),
        (["--momentum", 1], 1, "momentum: must be in [0, 1), got 1.0"),
        (["--step-size", 1e5], 1, "must be below 38000 with weight_decay"),
        (["--look-every", -1], 2, "--look-every: must be an integer of at least 0, got '-1'"),
    ],
)
def test_settings_are_checked(
    folder: Path, options: list[object], status: int, message: str
) -> None:
    done = recover(folder / "recover.onnx", folder / "split-0-1.npy", *options, status=status)
    assert message in done.stderr
    assert status == 2 or done.stderr.count("\n") == 1


def test_a_model_without_masks_is_not_run(folder: Path) -> None:
    done = run("supsup-run", folder / "recover.onnx", folder / "split-0-1.npy", status=1)
    assert "and has no explicit masks; load it with load_hopfield, or run supsup-" in done.stderr


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
    done = recover(folder / "recover.onnx", tmp_path / "x.npy", status=1)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_huge_inputs_bring_no_warning(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(folder / "split-0-1.npy") * np.float32(1e30))
    done = recover(folder / "recover.onnx", tmp_path / "x.npy")
    assert done.stderr == ""


def test_one_image_is_of_no_task_for_sure(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(folder / "split-0-1.npy")[0])
    found = recover(folder / "recover.onnx", tmp_path / "x.npy").stdout
    assert found.startswith("not-converged: ")
    assert found.count("\n") == 1
