"""Check a folder of models on a CUDA GPU: `python tools/gpu_check.py models/ --json out.json`.

Every model is asked the same on the CPU and on the GPU, there with and without TF32; its profile
says which nodes ran where; known and one-shot calls are timed. docs/GPU.md says how to read it.
Exits with 4 where answers differ, with 5 where there is no CUDA and nothing was measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from supsup_runtime.console import positive, run_command
from supsup_runtime.errors import InputError, ParityError, ProviderUnavailableError
from supsup_runtime.files import write_whole
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.model import load
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.recovery.model import load_hopfield

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there, `tools.machine` is not
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from tools.benchmarks.gpu_answers import Answers, Result

Devices = Mapping[str, Mapping[str, Any]]
DEVICES: Devices = {
    "cpu": {"device": "cpu"},
    "cuda": {"device": "cuda"},
    "cuda-no-tf32": {"providers": [("CUDAExecutionProvider", {"use_tf32": 0})]},
}
"""Arguments of `load`; the others are compared with the first."""


def check(
    folder: Path, file: Path | None, *, budget: float, devices: Devices = DEVICES
) -> list[Result]:
    """Check the ``.onnx`` files of a folder, small ones first; after each, write all as JSON.

    Nothing more is begun after `budget` seconds; ``left_out`` of a result names what was not done.

    Raises:
        InputError: If there is no such file.
        ProviderUnavailableError: If a device is not there; the JSON says so.
    """
    from tools.machine import machine

    end = time.monotonic() + budget
    models = sorted(folder.glob("*.onnx"), key=lambda path: (path.stat().st_size, path.name))
    if not models:
        raise InputError(f"{folder}: must have .onnx files, got none; --make makes some")
    results: list[Result] = []
    found: Result = {"machine": machine(), "gpu": _gpu(), "models": results}
    for path in models:
        try:
            results.append(_checked(path, end, devices))
        except ProviderUnavailableError as error:
            found["reason"] = f"nothing was measured: {error}"
        if file is not None:
            found["measured"] = any(result["checks"] for result in results)
            write_whole(file, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
        if "reason" in found:
            raise ProviderUnavailableError(found["reason"])
    return results


def _checked(file: Path, end: float, devices: Devices) -> Result:
    from tools.benchmarks.gpu_answers import compared

    result: Result = {"model": file.name, "checks": [], "nodes": {}, "times": [], "left_out": []}
    first: Answers = {}
    for name, where in devices.items():
        if time.monotonic() > end:
            result["left_out"].append(name)
            continue
        try:
            info = ModelInfo.from_metadata(read_metadata(file), place=str(file))
            answers, result["nodes"][name] = _answers(file, info, where)
            if first:
                result["checks"] += compared(info, name, first, answers)
            if info.mode == "full":
                result["times"] += _times(file, info, name, where)
        except ProviderUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a kernel that fails is a finding
            message = f"{type(error).__name__}: {error}"
            if not first:  # no model of the runtime
                return result | {"left_out": [message]}
            result["checks"].append({"device": name, "error": message, "ok": False})
            continue
        first = first or answers
        result |= {"tasks": len(info.tasks), "mode": info.mode, "target": info.target}
    return result


def _answers(file: Path, info: ModelInfo, where: Mapping[str, Any]) -> tuple[Answers, Result]:
    """Numbers and answer by question; and the nodes that ran, by provider."""
    import onnxruntime
    from tools.benchmarks.gpu_answers import ask

    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        opener: Any = load_hopfield if info.mode == "recover" else load
        model = opener(file, **where, sess_options=options)
        found = {name: (numbers, answer) for name, numbers, answer in ask(model)}
        del model
        gc.collect()  # a profile is written when its session ends
        return found, _nodes(Path(folder))


def _nodes(folder: Path) -> Result:
    """How many nodes ran, by provider and operator, from the profiles in a folder."""
    ran = {
        (file.name, event["name"], event["args"]["provider"], event["args"]["op_name"])
        for file in folder.iterdir()
        for event in json.loads(file.read_text())
        if event.get("cat") == "Node" and "provider" in event["args"]
    }
    return Counter(f"{provider} {operator}" for _, _, provider, operator in sorted(ran))


def _times(file: Path, info: ModelInfo, device: str, where: Mapping[str, Any]) -> list[Result]:
    """Milliseconds of a known and of a one-shot call with one image."""
    from tools.benchmarks.timing import Candidate, Setup, measure

    x = np.random.default_rng(0).standard_normal((1, *info.network.input_shape), np.float32)
    predict = load(file, **where).predict
    calls = {"known": partial(predict, x, 0), "one-shot": partial(predict, x, method="one-shot")}
    candidates = [Candidate(name=f"{what}, {device}", call=call) for what, call in calls.items()]
    return measure(candidates, Setup(cache=file.parent, threads=1, rounds=5))


def main() -> None:
    """Check a folder, or make one."""
    run_command("gpu_check", _run)


def _run() -> None:
    from tools.benchmarks.timing import table

    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("folder", type=Path, help="of .onnx files")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    made.add_argument("--budget", type=positive, default=300, help="seconds (default: 300)")
    made.add_argument("--make", action="store_true", help="make the folder; needs torch")
    arguments = made.parse_args()
    if arguments.make:
        from tools.benchmarks.gpu_models import make_models

        make_models(arguments.folder)
        return
    results = check(arguments.folder, arguments.json, budget=arguments.budget)
    for key in ("checks", "times"):
        print(table([{"model": r["model"], **row} for r in results for row in r[key]]))
    for result in results:
        print(result["model"], "nodes:", result["nodes"], "left out:", result["left_out"])
    bad = [r["model"] for r in results if not all(row["ok"] for row in r["checks"])]
    if bad:
        raise ParityError(f"answers differ: {', '.join(bad)}; the rows above say by how much")


def _gpu() -> str | None:
    """Name, driver and memory, as nvidia-smi has it; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
