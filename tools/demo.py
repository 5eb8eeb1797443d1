"""Train ten small tasks on the bundled digits, export and run them: `make demo`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path("demo")
TASKS = 10


def main() -> None:
    """Run the demo in an empty folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    bank, model = FOLDER / "masks", FOLDER / "out.onnx"
    start = time.perf_counter()
    options = f"--tasks {TASKS} --model mlp-256-128 --outputs 50 --steps 600 --lr 1e-3 --threads 1"
    _run("supsup-train", "permuted", "--bank", str(bank), *options.split())
    _run("supsup-export", "--bank", str(bank), str(model))
    results = json.loads(_run("supsup-eval", str(model), "permuted", "--per-task", "100", "--json"))
    about = json.loads(_run("supsup-inspect", str(model), "--json"))
    print(_summary(results, about, time.perf_counter() - start))


def _run(command: str, *arguments: str) -> str:
    print("$", command, *arguments, flush=True)
    program = Path(sys.executable).with_name(command)
    done = subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    if not done.stdout.startswith("{"):
        print(done.stdout, end="", flush=True)
    return done.stdout


def _summary(results: dict[str, Any], about: dict[str, Any], seconds: float) -> str:
    size, floats = about["bytes"], about["float_bytes"]
    return "\n".join(
        [
            "",
            f"{TASKS} tasks of permuted digits, one image at a time, in one ONNX file",
            f"  accuracy, task known        {results['known']:8.2%}",
            f"  accuracy, task unknown      {results['unknown']:8.2%}   ({results['method']})",
            f"  task inferred correctly     {results['inferred']:8.2%}",
            f"  time per call, task known   {results['known_ms']:8.2f} ms",
            f"  time per call, task unknown {results['unknown_ms']:8.2f} ms",
            f"  file                        {size / 1e3:8.0f} KB",
            f"  one float model per task    {floats / 1e3:8.0f} KB, {floats / size:.1f} times that",
            f"  total time                  {seconds:8.1f} s",
        ]
    )


if __name__ == "__main__":
    main()
