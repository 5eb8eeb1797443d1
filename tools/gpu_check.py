"""Check a folder of models on a CUDA GPU: `python tools/gpu_check.py models/ --json out.json`.

Compares answers on the CPU and the GPU, with and without TF32; lists which nodes ran where, against
`cuda_kernels.txt`; times calls. docs/GPU.md explains the results. Exits with 4 if answers differ,
with 5 if there is a GPU but no CUDA; without a GPU it says "skipped" and exits with 0.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from supsup_runtime.arrays import Array
from supsup_runtime.console import positive, run_command
from supsup_runtime.errors import InputError, ParityError, ProviderUnavailableError
from supsup_runtime.files import write_whole
from supsup_runtime.model.loading import unfit_for
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.session import CUDA, import_onnxruntime, open_session

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.benchmarks.questions import (
    LIMITS,
    NOT_EXACT,
    Answer,
    difference,
    images,
    opened,
    questions,
)
from tools.benchmarks.timing import Candidate, Setup, measure, table
from tools.machine import machine

from tools import cuda_kernels

Result = dict[str, Any]
Devices = Mapping[str, Mapping[str, Any]]
DEVICES: Devices = {
    "cpu": {"device": "cpu"},
    "cuda": {"device": "cuda"},
    "cuda-tf32": {"providers": [(CUDA, {"use_tf32": 1})]},
}
"""Arguments of `load`; others are compared with the first."""
TF32 = 2e-2
"""Limit for what TF32 rounds to 10 bits."""
ROWS = 32
"""Images of mixed tasks in a call, as a user's server might gather."""


def check(
    folder: Path, file: Path | None, *, budget: float, devices: Devices = DEVICES
) -> list[Result]:
    """Check ``.onnx`` files, small ones first; after each, write all results as JSON.

    After `budget` seconds nothing new starts; ``left_out`` of a result lists the rest.
    """
    end = time.monotonic() + budget
    models = sorted(folder.glob("*.onnx"), key=lambda path: (path.stat().st_size, path.name))
    if not models:
        raise InputError(f"{folder}: must have .onnx files, got none; --make writes some")
    results: list[Result] = []
    found: Result = {"machine": machine(), "gpu": _gpu(), "models": results}
    found["table"] = _differing()
    for path in models:
        try:
            results.append(_checked(path, end, devices))
        except ProviderUnavailableError as error:
            found["reason"] = f"nothing was measured: {error}"
            raise ProviderUnavailableError(found["reason"]) from error
        finally:
            found["measured"] = any(result["checks"] for result in results)
            if file is not None:
                write_whole(file, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    return results


def _checked(file: Path, end: float, devices: Devices) -> Result:
    result: Result = {"model": file.name, "checks": [], "nodes": {}, "times": [], "left_out": []}
    result |= {"copied": {}, "unexpected": {}}
    first: dict[str, Answer] = {}
    for name, where in devices.items():
        if time.monotonic() > end:
            result["left_out"].append(name)
            continue
        try:
            info, answers, ran = _answers(file, where)
            result["nodes"][name], result["copied"][name] = ran
            if name != "cpu":
                result["unexpected"][name] = cuda_kernels.unexpected(ran[0])
            result |= {"tasks": len(info.tasks), "mode": info.mode, "target": info.target}
            result["checks"] += _compared(info, name, first, answers)
            first = first or answers
            if info.mode == "full":
                result["times"] += _times(file, name, where)
        except ProviderUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a failing kernel is a result
            message = f"{type(error).__name__}: {error}"
            if not first or unfit_for(info, [CUDA]):  # not a model of the runtime, or for CUDA
                return result | {"left_out": [message]}
            result["checks"].append({"device": name, "error": message, "ok": False})
    return result


def _answers(
    file: Path, where: Mapping[str, Any]
) -> tuple[ModelInfo, dict[str, Answer], tuple[Counter[str], int]]:
    """Return metadata, answers, counts of nodes by provider and operator, and bytes.

    These are the most that a node copied between host and device: far below the bank's, if that
    stays on the device.
    """
    onnxruntime = import_onnxruntime()
    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        model = opened(file, **where, sess_options=options)
        info: ModelInfo = model.info
        answers = {name: question(model) for name, question in questions(info).items()}
        del model
        gc.collect()  # the session writes its profile when it ends
        events = [
            {"profile": profile.name, "node": event["name"], **event["args"]}
            for profile in Path(folder).iterdir()
            for event in json.loads(profile.read_text())
            if event.get("cat") == "Node" and "provider" in event["args"]
        ]
    return info, answers, placed(events)


def placed(events: list[dict[str, Any]]) -> tuple[Counter[str], int]:
    """Return counts of nodes by provider and operator, and the most bytes that one copied."""
    ran = {(e["profile"], e["node"], e["provider"], e["op_name"]) for e in events}
    sizes = [int(e.get("output_size", 0)) for e in events if e["op_name"].startswith("Memcpy")]
    counts = Counter(f"{provider} {kind}" for *_, provider, kind in sorted(ran))
    return counts, max(sizes, default=0)


def _compared(
    info: ModelInfo, device: str, first: dict[str, Answer], answers: dict[str, Answer]
) -> Iterator[Result]:
    for name, (one, answer) in first.items():
        other, its_answer = answers[name]
        rough = name == "one-shot" and info.scoring != "exact"
        limit, off = NOT_EXACT if rough else LIMITS[name], difference(one, other)
        if device == "cuda-tf32":
            limit = max(limit, TF32)
        row = {"question": name, "device": device, "limit": limit, "ok": off <= limit}
        row |= {"answers": [answer, its_answer]}
        yield row | {"difference": off if math.isfinite(off) else None}


def _times(file: Path, device: str, where: Mapping[str, Any]) -> list[Result]:
    model = opened(file, **where)
    x, many = images(model.info, 1), images(model.info, ROWS)
    feeds: dict[str, Array] = {"x": x, "tasks": np.zeros(0, np.int64), "infer": np.array(True)}
    feeds["alphas"] = np.zeros(0, np.float32)
    session = open_session(file, place=file.name, **where)
    shapes = {"task_scores": (len(model.info.tasks),)}  # stay on the device
    calls = {
        "known": partial(model.predict, x, 0),
        "one-shot": partial(model.predict, x, method="one-shot"),
        "one-shot, bound": partial(session.fetch, shapes, feeds),
        f"each of {ROWS} images": partial(model.infer_tasks, many, method="one-shot"),
    }
    candidates = [Candidate(name=f"{name}, {device}", call=call) for name, call in calls.items()]
    return measure(candidates, Setup(cache=file.parent, threads=1, rounds=5))


def _run() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("folder", type=Path, help="folder of .onnx files")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    made.add_argument("--budget", type=positive, default=300, help="seconds (default: 300)")
    made.add_argument("--make", action="store_true", help="make the folder (needs torch)")
    arguments = made.parse_args()
    if arguments.make:
        from tools.benchmarks.models import make_models

        folder: Path = arguments.folder
        make_models(folder, "cuda", model="lenet-300-100", inputs=784, tasks=(250, 2500))
        return
    try:
        results = check(arguments.folder, arguments.json, budget=arguments.budget)
    except ProviderUnavailableError as error:
        if _gpu() is not None:
            raise
        print(f"skipped: no GPU; {error}")
        return
    for key in ("checks", "times"):
        print(table([{"model": r["model"], **row} for r in results for row in r[key]]))
    for result in results:
        names = ("nodes", "unexpected", "copied", "left_out")
        print(result["model"], *(f"{name}: {result[name]}" for name in names))
    print("table:", _differing())
    bad = [r["model"] for r in results if not all(row["ok"] for row in r["checks"])]
    if bad:
        raise ParityError(f"answers differ: {', '.join(bad)}; see the rows above")


def _differing() -> list[str] | None:
    """Return what the installed kernels lack of the table; None without CUDA.

    In a process of its own: without TensorRT, onnxruntime-gpu crashes when it lists kernels.
    """
    if CUDA not in import_onnxruntime().get_available_providers():
        return None
    done = subprocess.run([sys.executable, cuda_kernels.__file__], capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        told = f"unknown: ONNX Runtime ended with {done.returncode} when it listed its kernels"
        return [f"{told}: {reason:.300}" if reason else told]
    found: list[str] = json.loads(done.stdout)
    return found


def _gpu() -> str | None:
    """Return name, driver and memory from nvidia-smi, or None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    run_command("gpu_check", _run)
