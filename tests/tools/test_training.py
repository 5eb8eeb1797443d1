"""tools/bench.py training: every way learns, the same bank where it must, and is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.bench import main
from tools.benchmarks.training import ONE, vectorised, ways

from commands import call

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = rng.integers(0, 256, (150, 8, 8)).astype(np.uint8)
        arrays[f"y_{part}"] = np.arange(150) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def test_every_way_learns_a_stream(data: Path, tmp_path: Path) -> None:
    words = ["--steps", 2, "--tasks", 4, "--threads", 2, "--data", data, "--json"]
    plot = tmp_path / "plot.svg"
    done = call(main, "bench", "training", *words, "--plot", plot)
    rows = {row["case"]: row for row in json.loads(done.stdout)["rows"]}
    names = [way.name for way in ways(2)]
    assert list(rows)[: 1 + len(names)] == ["plain loop, 1 thread", *names]
    assert all(rows[name]["a_minute"] > 0 and rows[name]["tasks"] >= 4 for name in names)
    assert rows["16 at once, cpu"]["tasks"] == 32
    assert rows[ONE]["ratio"] == 1
    assert rows["banks of these"]["bank"] == "equal"
    assert rows[f"2 workers / {ONE}"]["ratio"] == pytest.approx(rows["2 workers"]["ratio"])
    assert plot.exists() or "matplotlib is not installed" in done.stderr


def test_what_the_command_refuses_comes_out(data: Path) -> None:
    words = ["training", "--tasks", 2, "--threads", 1, "--data", data, "--model", "none"]
    done = call(main, "bench", *words, status=1)
    assert "bench: supsup-train: model: " in done.stderr
    assert vectorised(3, "cuda").options[-3:] == ("cuda", "--threads", "1")
