"""What a model needs on a host: memory, operators, time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from supsup_runtime import errors
from supsup_runtime.arrays import Array
from supsup_runtime.errors import InputError, ModelError, SupSupError
from supsup_runtime.model.inputs import blank
from supsup_runtime.model.loading import bytes_to_load, open_model
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.model import Model
from supsup_runtime.model.protobuf import open_file, read_metadata, read_operators
from supsup_runtime.model.session import import_onnxruntime

_CALLS = 50
_MEASURE = "from supsup_runtime.evaluation.needs import main; main()"


def needs(path: Path, info: ModelInfo) -> dict[str, Any]:
    """Estimate what a model needs, without loading it.

    Returns:
        ``load_peak_bytes`` and ``resident_bytes`` (estimates, above an interpreter with numpy and
        onnxruntime), ``task_cache_bytes`` per cached task (None if the model caches none),
        ``opsets`` by domain, and ``operators`` of the graph and of its forward program.

    Raises:
        ModelError: If the model is cut short, or has tensors in other files.
    """
    with open_file(path) as file:
        opsets, operators = read_operators(file, place=str(path))
    if info.forward:
        more = read_operators(BytesIO(info.forward), place=f"{path}: its forward program")
        operators |= more[1]
        opsets = {key: max(opsets.get(key, 0), more[0].get(key, 0)) for key in opsets | more[0]}
    peak, resident = bytes_to_load(info, path.stat().st_size)
    task_bytes = 4 * (info.network.num_masked + info.network.num_state)
    return {
        "load_peak_bytes": peak,
        "resident_bytes": resident,
        "task_cache_bytes": task_bytes if info.mode in {"full", "known"} else None,
        "opsets": {domain or "ai.onnx": version for domain, version in sorted(opsets.items())},
        "operators": sorted(operators),
    }


def measure_memory(path: Path, *, threads: int = 1) -> dict[str, int]:
    """Measure ``load_peak_bytes`` and ``resident_bytes`` in a fresh process (Linux).

    Raises:
        SupSupError: As `load` or `load_hopfield`; or if the process is killed, or the system is
            not Linux.
    """
    process_bytes("VmRSS")
    command = [sys.executable, "-P", "-c", _MEASURE, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - own code
    if done.returncode != 0:
        raise ModelError(f"{path}: loading it was killed (status {done.returncode})")
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        kind: type[SupSupError] = getattr(errors, found["error"])
        raise kind(found["message"])
    return found


def main() -> None:
    """Load a model in this process, and print the bytes it takes, or the error, as JSON."""
    found: dict[str, int | str]
    try:
        found = _memory_of(Path(sys.argv[1]), int(sys.argv[2]))
    except SupSupError as error:
        found = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(found))


def _memory_of(path: Path, threads: int) -> dict[str, int | str]:
    recovers = ModelInfo.from_metadata(read_metadata(path), place=str(path)).mode == "recover"
    import_onnxruntime()  # which is not counted
    reset_peak()
    before = process_bytes("VmRSS")
    opened = open_model(path, recovers=recovers, check_memory=False, threads=threads)
    resident = process_bytes("VmRSS") - before
    peak = max(resident, process_bytes("VmHWM") - before)  # Linux counts both in batches
    del opened
    return {"load_peak_bytes": peak, "resident_bytes": resident}


def reset_peak() -> bool:
    """Set the process's peak memory to the resident memory; return False if not permitted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def process_bytes(field: str) -> int:
    """Return a memory field of ``/proc/self/status``, such as ``VmRSS``, in bytes.

    Raises:
        InputError: If the system has none.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise InputError(f"measuring memory: {status} must have {field}, got none; it needs Linux")


def call_times(model: Model) -> dict[str, float | None]:
    """Time calls on single random images; pictures of the network's size if those are baked in.

    Returns:
        ``known_ms`` and ``inferred_ms``, medians of 50 calls after a first; None if the model
        cannot do it. The task known is the first one.
    """
    one, rng = blank(model.info, 1), np.random.default_rng(0)
    images: list[Array] = [
        rng.integers(0, 256, one.shape).astype(np.uint8)
        if model.info.baked
        else rng.standard_normal(one.shape).astype(np.float32)
        for _ in range(_CALLS + 1)
    ]
    first = model.tasks[0].index

    def median_ms(call: Callable[[Any], object]) -> float:
        times = []
        for image in images:
            start = time.perf_counter()
            call(image)
            times.append(time.perf_counter() - start)
        return 1e3 * median(times[1:])

    can_select = model.info.mode != "infer"
    known = median_ms(lambda image: model.predict(image, task=first)) if can_select else None
    return {"known_ms": known, "inferred_ms": median_ms(model.predict)}
