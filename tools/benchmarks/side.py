"""One side of `tools/bench.py against`: a process that times calls on request.

It uses only names that every revision has. A request is a JSON line on stdin, ``[case, calls]``;
the answer on stdout has the seconds of each call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import count, cycle
from pathlib import Path

import numpy as np

import supsup_runtime

COMMAND = """
import sys
from supsup_export import cli
sys.argv[0] = "supsup-export"
(getattr(cli, "main", None) or __import__("supsup_commands").main)()
"""


def main(bank: Path, grown: Path, model: Path, *, threads: int) -> None:
    """Export `bank`, add to `grown` or predict with `model`, as requested, until stdin ends."""
    loaded = cache(partial(supsup_runtime.load, model, threads=threads))
    shape = supsup_runtime.MaskBank.open(bank, verify=False).network.input_shape
    images = np.random.default_rng(0).standard_normal((64, 1, *shape)).astype(np.float32)
    another = cycle(images)  # seldom of the task of the call before
    words = ["--bank", str(bank), str(grown.with_suffix(".onnx")), "--force"]
    opened = cache(partial(supsup_runtime.MaskBank.open, grown, verify=False))
    numbers = count()
    cases: dict[str, Callable[[], object]] = {
        "export": partial(_run, *words),
        "export --no-check": partial(_run, *words, "--no-check"),
        "add": lambda: opened().add(opened().task(0).renamed(f"added-{next(numbers)}")),
        "unknown": lambda: loaded().predict(next(another)),
        "known": lambda: loaded().predict(images[0], task="task-0000"),
    }
    for line in sys.stdin:
        case, calls = json.loads(line)
        print(json.dumps([_seconds(cases[case]) for _ in range(calls)]), flush=True)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _run(*words: str) -> None:
    """Run supsup-export in its own process, as a user does."""
    subprocess.run([sys.executable, "-c", COMMAND, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), threads=int(sys.argv[4]))
