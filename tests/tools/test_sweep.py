"""Sweeps: their cells, resumption after a kill, the recommendation, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.sweep import main, recommended

from commands import Done, call, run_stopped

SWEEP = Path(__file__).parents[2] / "tools" / "sweep.py"
GRID = ("--set", "steps=2,4", "--set", "rule=threshold,top-k")


def sweep(*words: object, status: int = 0) -> Done:
    return call(main, "sweep", *words, status=status)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of tiny pictures."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    text = ""
    for name in ("one", "two", "three"):
        x = rng.integers(0, 256, (20, 5, 5)).astype(np.uint8)
        np.savez(folder / f"{name}.npz", x_train=x, y_train=np.arange(20) % 2)
        text += f'[[task]]\nname = "{name}"\ndata = "{name}.npz"\n'
    (folder / "tasks.toml").write_text(text)
    return folder / "tasks.toml"


def words_of(data: Path, work: Path) -> list[object]:
    own = ["own", "--data", data, "--tasks", 2, "--model", "mlp-6", "--outputs", 20]
    return [*own, "--threads", 1, "--work", work]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.slow
def test_a_killed_sweep_goes_on(data: Path, tmp_path: Path) -> None:
    whole = sweep(*words_of(data, tmp_path / "whole"), *GRID, "--json")
    words = [*words_of(data, tmp_path / "cut"), *GRID]
    run_stopped(SWEEP, *words, name="out.onnx", count=2)
    stored = (tmp_path / "cut/results.jsonl").read_text().splitlines()
    assert len(stored) == 1
    done = sweep(*words, "--workers", 2, "--json")
    assert "3 of 4: --rule=top-k --steps=2" in done.stderr
    assert done.stderr.count("already in the bank, skipped") == 2
    one, two = (json.loads(each.stdout) for each in (whole, done))
    assert without_times(one["cells"]) == without_times(two["cells"])
    lines = (tmp_path / "cut/results.jsonl").read_text().splitlines()
    assert lines[0] == stored[0]
    assert [json.loads(line) for line in lines] == two["cells"]
    assert [cell["key"] for cell in two["cells"]] == [
        f"--rule={rule} --steps={steps}" for rule in ("threshold", "top-k") for steps in (2, 4)
    ]
    cell = two["cells"][2]
    assert (cell["recipe"]["steps"], cell["method"]) == (2, "exhaustive")
    assert cell["recipe"]["rule"]["kind"] == "top-k"
    assert cell["density"] == pytest.approx(0.5, abs=0.01)
    assert 0 <= cell["lowest"] <= cell["known"] <= 1
    assert cell["inferred"] is not None
    model = tmp_path / "cut" / "rule=top-k_--steps=2"
    assert cell["bytes"] == (model / "out.onnx").stat().st_size


def test_combinations_that_fail_are_listed(data: Path, tmp_path: Path) -> None:
    words = [*words_of(data, tmp_path / "cells"), "--steps", 1, "--set", "lr=1e-3,1e39"]
    words += ["--set", "rule=threshold,top-k", "--set", "density=,0.3"]
    table, *failed = sweep(*words).stdout.split("failed: ")
    assert [line.partition("  ")[0] for line in table.splitlines()[1:]] == [
        "--lr=1e-3 --rule=threshold",
        "--lr=1e-3 --rule=top-k",
        "--density=0.3 --lr=1e-3 --rule=top-k",
    ]
    assert [text.partition(":")[0] for text in failed] == [
        "--density=0.3 --lr=1e-3 --rule=threshold",
        "--density=0.3 --lr=1e39 --rule=threshold",
        "--lr=1e39 --rule=threshold",
        "--lr=1e39 --rule=top-k",
        "--density=0.3 --lr=1e39 --rule=top-k",
    ]
    assert "go with --rule top-k, got --rule threshold; leave them out" in failed[0]
    assert "cannot learn: value cannot be converted to type float" in failed[2]
    assert failed[-1].splitlines()[-1].startswith("recommended, accuracy 0.")


def test_another_setting_needs_another_folder(data: Path, tmp_path: Path) -> None:
    words = words_of(data, tmp_path / "cells")
    sweep(*words, "--set", "steps=1", "--per-task", 0)
    said = sweep(*words, "--set", "steps=1", "--per-task", 0, "--batch-size", 7, status=1).stderr
    assert said == (
        f"sweep: {tmp_path}/cells/setting.json: the folder has batch_size 128, this run has 7; use "
        "the same options, or another --work\n"
    )
    arrays = dict(np.load(data.with_name("one.npz")))
    changed = {**arrays, "x_train": 255 - arrays["x_train"]}
    try:
        np.savez(data.with_name("one.npz"), **changed)
        said = sweep(*words, "--set", "steps=1", "--per-task", 0, status=1).stderr
        assert "the folder has tasks.one.data '" in said
    finally:
        np.savez(data.with_name("one.npz"), **arrays)


def test_without_superfluous_outputs_no_task_is_inferred(tmp_path: Path) -> None:
    words = ["permuted", "--tasks", 1, "--model", "mlp-4", "--outputs", 10, "--set", "steps=1"]
    lines = sweep(*words, "--work", tmp_path / "cells").stdout.splitlines()
    titles = ["options", "known", "lowest", "inferred", "seconds", "density", "bytes"]
    assert lines[0].split() == titles
    assert lines[1].split()[-4] == "-"


def line(steps: int, known: float, error: float, density: float) -> dict[str, Any]:
    return {
        "recipe": {"steps": steps},
        "known": known,
        "standard_error": error,
        "density": density,
    }


def test_the_cheapest_within_a_standard_error_of_the_best_is_recommended() -> None:
    best, fewer, sparser = line(90, 0.9, 0.02, 0.5), line(50, 0.89, 0.1, 0.5), None
    worse = line(10, 0.87, 0.1, 0.1)
    assert recommended([worse, fewer, best]) == fewer
    sparser = line(50, 0.881, 0.1, 0.3)
    assert recommended([worse, fewer, best, sparser]) == sparser
    equal = line(50, 0.885, 0.1, 0.3)
    assert recommended([sparser, equal, best]) == equal
    assert recommended([worse]) == worse


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["permuted", "--set", "rule=top-k", "--set", "density=2,3"],
            1,
            "the first failed: --density=2 --rule=top-k: density: must be in (0, 1], got 2.0\n",
        ),
        (
            ["permuted", "--scenario", "NNs", "--set", "steps=1"],
            1,
            "sweep: has no --check, --bank, --log, --preset and NNs; leave them out\n",
        ),
        (["permuted", "--set", "lr=0"], 1, "learning_rate: must be positive and finite, got 0"),
        (["permuted", "--set", "steps=x"], 2, "argument --steps: must be an integer of at least 1"),
        (["permuted", "--set", "step=1"], 2, "unrecognized arguments: --step=1"),
        (["permuted", "--steps", 1, "--set", "steps=2"], 2, "--steps: was given twice"),
        (["permuted"], 2, "the following arguments are required: --set"),
        (["own", "--set", "steps=1"], 1, "sweep: --data: stream own needs a tasks.toml, or a "),
        (["no-such", "--set", "steps=1"], 2, "argument stream: invalid choice: 'no-such'"),
    ],
)
def test_refusals(tmp_path: Path, words: list[str], status: int, message: str) -> None:
    assert message in sweep(*words, "--work", tmp_path / "cells", status=status).stderr
    assert not (tmp_path / "cells").exists()


def test_all_cells_may_fail(data: Path, tmp_path: Path) -> None:
    words = words_of(data, tmp_path / "cells")
    said = sweep(*words, "--set", "lr=1e39", "--steps", 1, status=1).stderr
    last = said.splitlines()[-1]
    assert last.startswith("sweep: all 1 combinations failed; the first failed: --lr=1e39: ")
    assert last.endswith("lower the learning rate")
