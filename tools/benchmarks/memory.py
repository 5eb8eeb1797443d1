"""What loading a model takes: seconds and memory, each in a fresh process (Linux)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tools.benchmarks.banks import MODELS, bench_bank
from tools.benchmarks.timing import Result, Row, Setup, spread

__all__ = ["load"]

CHILD = Path(__file__).with_name("load_child.py")
NO_RESET = "the peak could not be reset before loading, so it may be that of the imports"


def load(setup: Setup, *, model: str, outputs: int | None, tasks: Sequence[int]) -> Result:
    """Seconds to load, and memory of a process that loads and then calls one-shot once.

    Resident and peak bytes are what the process has more than just before loading, with numpy and
    onnxruntime imported; `resident/bank` and `peak/bank` are ratios to the packed bank's bytes.
    """
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
    """Run `load_child.py`; -P keeps this folder's modules out of its way."""
    command = [sys.executable, "-P", str(CHILD), str(file), str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
