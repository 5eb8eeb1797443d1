"""Load a model, call it once, print what that took as JSON: WAY FILE THREADS. See `memory.py`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

import supsup_runtime

Call = Callable[[], object]


def main() -> None:
    """Measure in this process; everything that is imported is imported by now."""
    way, file, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    x = np.zeros((1, 784), np.float32)
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    peak_reset = _reset_peak()
    before = _memory("VmRSS")
    start = time.perf_counter()
    call = (
        _graph(file, x, threads, way)
        if way in {"graph", "float"}
        else _model(way, file, threads, x)
    )
    loaded = time.perf_counter()
    call()
    called = time.perf_counter()
    found = {
        "load_s": loaded - start,
        "first_call_s": called - loaded,
        "resident_bytes": _memory("VmRSS") - before,
        "peak_bytes": _memory("VmHWM") - before,
        "peak_reset": peak_reset,
    }
    print(json.dumps(found))


def _model(way: str, file: str, threads: int, x: np.ndarray) -> Call:
    model = supsup_runtime.load(file, threads=threads)
    if way == "known":
        return lambda: model.predict(x, task=0)
    return lambda: model.predict(x, method="one-shot")


def _graph(file: str, x: np.ndarray, threads: int, way: str) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feeds = {"x": x}
    if way == "graph":
        feeds |= {
            "tasks": np.zeros(0, np.int64),
            "alphas": np.zeros(0, np.float32),
            "infer": np.array(True),
        }
    return lambda: session.run(None, feeds)


def _reset_peak() -> bool:
    """Set the peak to what is resident now (Linux); whether that was allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise OSError(f"/proc/self/status: has no {field}; this measurement needs Linux")


if __name__ == "__main__":
    main()
