"""What loading a model takes: seconds and memory, each in a fresh process (Linux)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tools.benchmarks.banks import MODELS, BenchBank, bench_bank, float_model
from tools.benchmarks.timing import Row, Setup, spread

__all__ = ["LOAD_ROUNDS", "LOAD_TASKS", "load"]

LOAD_TASKS = (250, 2500)
LOAD_ROUNDS = 3
CHILD = Path(__file__).with_name("load_child.py")
WAYS = {
    "supsup load, then one-shot": "one-shot",
    "supsup load, then a known task": "known",
    "the graph in one session, inferring": "graph",
    "one float model": "float",
}
"""Names of the rows, and what the child is told."""


def load(
    setup: Setup,
    *,
    model: str = "lenet-300-100",
    outputs: int | None = None,
    tasks: Sequence[int] = LOAD_TASKS,
    rounds: int = LOAD_ROUNDS,
) -> Row:
    """Seconds to load, and memory of a process that loads and then calls once.

    Resident and peak bytes are what the process has more than just before loading, with numpy and
    onnxruntime imported; `resident/bank` and `peak/bank` are ratios to the packed bank's bytes.
    """
    outputs = outputs or MODELS[model]
    rows: list[Row] = []
    for count in tasks:
        bench = bench_bank(setup.cache, model=model, outputs=outputs, tasks=count)
        rows += [{"tasks": count, **row} for row in _rows(bench, setup, rounds)]
    settings = {"model": model, "outputs": outputs, "tasks": list(tasks), "rounds": rounds}
    settings |= {"threads": setup.threads}
    return {"benchmark": "load", "settings": settings, "rows": rows}


def _rows(bench: BenchBank, setup: Setup, rounds: int) -> list[Row]:
    plain = bench.model.parent / "float-0.onnx"
    plain.write_bytes(float_model(bench.bank, 0))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            file = plain if way == "float" else bench.model
            found[name].append(_child(way, file, setup.threads))
    return [_row(name, samples, bench) for name, samples in found.items()]


def _row(name: str, samples: list[dict[str, float]], bench: BenchBank) -> Row:
    resident, peak = (
        int(np.median([s[key] for s in samples])) for key in ("resident_bytes", "peak_bytes")
    )
    packed = 0 if name == "one float model" else bench.packed_bytes
    return {
        "case": name,
        **spread([s["load_s"] for s in samples], "load_s"),
        "first_call_ms": float(np.median([s["first_call_s"] for s in samples])) * 1e3,
        "resident_MB": resident / 1e6,
        "peak_MB": peak / 1e6,
        "bank_MB": packed / 1e6 if packed else None,
        "resident/bank": resident / packed if packed else None,
        "peak/bank": peak / packed if packed else None,
        "note": "" if samples[0]["peak_reset"] else _NO_RESET,
    }


def _child(way: str, file: Path, threads: int) -> dict[str, float]:
    """Run `load_child.py`; -P keeps this folder's modules out of its way."""
    command = [sys.executable, "-P", str(CHILD), way, str(file), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


_NO_RESET = "the peak could not be reset before loading, so it may be that of the imports"
