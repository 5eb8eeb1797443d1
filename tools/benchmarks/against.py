"""Time this checkout and another revision, each in its own process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.benchmarks.banks import MODELS, bench_bank
from tools.benchmarks.timing import MAX_CALLS, SLOW_SECONDS, Result, Row, Setup, spread
from tools.revision import ROOT, checked_out, environment

MODEL = "lenet-300-100"
_SIDE = Path(__file__).with_name("side.py")
Ask = Callable[[str, int], list[float]]
"""Takes a case and a number of calls; returns the seconds of each."""


def against(
    setup: Setup, *, revision: str, python: str, cases: Sequence[str], tasks: int, added_to: int
) -> Result:
    """Time exports, additions to a bank and calls, here and at a revision.

    `python` needs the packages of the revision. Both sides use banks and a model made here.
    """
    made = bench_bank(setup.cache, model=MODEL, outputs=MODELS[MODEL], tasks=tasks)
    grown = bench_bank(setup.cache, model=MODEL, outputs=MODELS[MODEL], tasks=added_to).bank.path
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        other = stack.enter_context(checked_out(revision))
        sides: dict[str, Ask] = {}
        for name, root, program in (("here", ROOT, sys.executable), (revision, other, python)):
            own = folder / f"masks-{len(sides)}"
            shutil.copytree(grown, own)
            words = [program, "-P", _SIDE, made.bank.path, own, made.model, setup.threads]
            variables = {**environment(root), "OMP_NUM_THREADS": str(setup.threads)}
            sides[name] = stack.enter_context(_side(list(map(str, words)), variables))
        for case in cases:
            rows += _measure(case, sides, setup)
    return Result(rows=rows, ratio="to the other revision, of medians", settings={})


def _measure(case: str, sides: dict[str, Ask], setup: Setup) -> list[Row]:
    typical = max(min(ask(case, 2)) for ask in sides.values())
    calls = min(MAX_CALLS, max(1, int(setup.visit_seconds / typical)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(setup.rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            if typical < SLOW_SECONDS:
                sides[name](case, 1)  # refill the caches after the other side
            seconds[name] += sides[name](case, calls)
    rows: list[Row] = [
        {"case": case, "side": name, **spread([1e3 * s for s in taken], "ms"), "calls": len(taken)}
        for name, taken in seconds.items()
    ]
    for row in rows:
        row["ratio"] = row["ms"] / rows[-1]["ms"]
    return rows


@contextmanager
def _side(words: list[str], variables: dict[str, str]) -> Iterator[Ask]:
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    )

    def ask(case: str, calls: int) -> list[float]:
        print(json.dumps([case, calls]), file=process.stdin, flush=True)
        line = next(iter(process.stdout or ()), "")
        if not line:
            raise RuntimeError(f"{case}: {words[0]} ended; see its error above")
        answer: list[float] = json.loads(line)
        return answer

    with process:  # closes stdin, then waits
        yield ask
