"""Load a model, call it once, print what that took as JSON: FILE THREADS. See `memory.py`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401 - its import is no part of loading

import supsup_runtime


def main() -> None:
    """Measure in this process; everything that is imported is imported by now."""
    file, threads = sys.argv[1], int(sys.argv[2])
    x = np.zeros((1, 784), np.float32)
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    peak_reset = _reset_peak()
    before = _memory("VmRSS")
    start = time.perf_counter()
    model = supsup_runtime.load(file, threads=threads)
    loaded = time.perf_counter()
    model.predict(x, method="one-shot")
    called = time.perf_counter()
    found = {
        "load_s": loaded - start,
        "first_call_s": called - loaded,
        "resident_bytes": _memory("VmRSS") - before,
        "peak_bytes": _memory("VmHWM") - before,
        "peak_reset": peak_reset,
    }
    print(json.dumps(found))


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
