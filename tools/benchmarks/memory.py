"""Seconds and memory to load a model, each time in a fresh process (Linux).

The process runs this file, so the imports above come before loading and do not include torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime  # noqa: F401 - imported before loading is timed

import supsup_runtime
from supsup_runtime.evaluation.needs import process_bytes, reset_peak

if TYPE_CHECKING:
    from tools.benchmarks.timing import Result, Row, Setup

NO_RESET = "the peak could not be reset before loading and may be that of the imports"


def load(setup: Setup, *, model: str, outputs: int | None, tasks: Sequence[int]) -> Result:
    """Measure a process that loads a model and then calls one-shot once.

    Resident and peak bytes exclude those just before loading (numpy and onnxruntime imported).
    `resident/bank` and `peak/bank` are ratios to the bytes of the packed bank.
    """
    from tools.benchmarks.banks import MODELS, bench_bank
    from tools.benchmarks.timing import Result, spread

    outputs = outputs or MODELS[model]
    rows: list[Row] = []
    for count in tasks:
        bench = bench_bank(setup.cache, model=model, outputs=outputs, tasks=count)
        samples = [_child(bench.model, setup.threads) for _ in range(setup.rounds)]
        median = {key: float(np.median([s[key] for s in samples])) for key in samples[0]}
        rows.append(
            {
                "tasks": count,
                **spread([s["load_s"] for s in samples], "load_s"),
                "first_call_ms": median["first_call_s"] * 1e3,
                "resident_MB": median["resident_bytes"] / 1e6,
                "peak_MB": median["peak_bytes"] / 1e6,
                "bank_MB": bench.packed_bytes / 1e6,
                "file_MB": bench.model.stat().st_size / 1e6,
                "resident/bank": median["resident_bytes"] / bench.packed_bytes,
                "peak/bank": median["peak_bytes"] / bench.packed_bytes,
                "note": "" if samples[0]["peak_reset"] else NO_RESET,
            }
        )
    return Result(rows=rows, settings={"outputs": outputs})


def _child(file: Path, threads: int) -> dict[str, float]:
    """Run `main` in a process; -P keeps this folder off its path."""
    command = [sys.executable, "-P", __file__, str(file), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Load a model, call it once, and print seconds and bytes as JSON."""
    file, threads = sys.argv[1], int(sys.argv[2])
    x = np.zeros((1, 784), np.float32)
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    peak_reset = reset_peak()
    before = process_bytes("VmRSS")
    start = time.perf_counter()
    model = supsup_runtime.load(file, threads=threads)
    loaded = time.perf_counter()
    model.predict(x, method="one-shot")
    called = time.perf_counter()
    found = {
        "load_s": loaded - start,
        "first_call_s": called - loaded,
        "resident_bytes": process_bytes("VmRSS") - before,
        "peak_bytes": process_bytes("VmHWM") - before,
        "peak_reset": peak_reset,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
