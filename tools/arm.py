"""Run models of every kind on emulated ARM cores: `make arm`, which fetches what this needs.

Each core exports models, with the export's check, and answers questions; instructions of a call are
counted if there is a QEMU with its plugin (`make arm-counting`). Exits with 4 if a core differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from supsup_runtime.console import run_command
from supsup_runtime.errors import InputError, ParityError, SupSupError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.benchmarks.questions import LIMITS, NOT_EXACT, Answer, difference
from tools.emulated.guest import CALLS, Case, answers
from tools.reproduction.tables import Table, once, record, to_markdown

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/arm"
"""``qemu-aarch64``, ``root`` and ``site`` of `make arm`; ``counting`` of `make arm-counting`."""
CORES = {"cortex-a72": "A72", "cortex-a76": "A76", "max": "max"}
COUNTED = ("cortex-a72", "cortex-a76")
SECONDS = 600
"""What still runs after that is stopped."""
ROUGH = ("rounded", "screened", "one task, 2 bits")
"""Models that round to int8, each kernel in its own way."""


def main() -> None:
    """Run the command."""
    run_command("arm", _run)


def _run() -> None:
    made = argparse.ArgumentParser(description=__doc__)
    text = "page that has the tables between <!-- arm --> and <!-- /arm -->"
    made.add_argument("--record", type=Path, metavar="FILE", help=text)
    page, tables = made.parse_args().record, list[Table]()
    try:
        with TemporaryDirectory() as folder:
            for table in _measured(Path(folder)):
                tables.append(table)
                print(f"{to_markdown([table])}\n", flush=True)
    except subprocess.TimeoutExpired:
        raise SupSupError(f"not done in {SECONDS} s; run it on an idle machine") from None
    if page:
        record(page, "arm", to_markdown(tables))
    if "**" in to_markdown(tables):
        raise ParityError("a core differs; see the cells in bold")


def _measured(folder: Path) -> Iterator[Table]:
    from tools.emulated.models import BIG, make  # imports torch

    qemu, counting = emulator(FOLDER)
    cases = make(folder / "models")
    wanted, end = [answers(case) for case in cases], time.monotonic() + SECONDS

    def answered(core: str) -> list[str]:
        (own := folder / core).mkdir()
        lines = _run_guest([*qemu, "-cpu", core], cases, end, str(own)).splitlines()
        return [verdict(*each) for each in zip(wanted, map(json.loads, lines), cases, strict=True)]

    def counted(job: tuple[Case, str]) -> float:
        case, core = job
        return per_call(_run_guest([*qemu, *counting, "-cpu", core], [case], end))

    big = [case for case in cases if counting and case["bank"].startswith(BIG)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = zip(*pool.map(answered, CORES), strict=True)
        yield parity_table(cases, list(verdicts))
        if big:
            yield count_table(big, list(pool.map(counted, product(big, COUNTED))))


def emulator(folder: Path) -> tuple[list[str], list[str]]:
    """Return QEMU's program, and options that count instructions, none if it has no plugin.

    Raises:
        InputError: If there is no QEMU.
    """
    qemu, plugin = folder / "counting/qemu-aarch64", folder / "counting/libinsn.so"
    if plugin.exists():
        return [str(qemu)], ["-d", "plugin", "-plugin", f"{plugin},inline=on"]
    qemu = folder / "qemu-aarch64"
    if not qemu.exists():
        raise InputError(f"{qemu}: must be QEMU's program, got none; run make arm")
    return [str(qemu)], []


def _run_guest(qemu: Sequence[str], cases: Sequence[Case], end: float, *words: str) -> str:
    """Run ``guest.py`` in the emulator; return its output, or with no words QEMU's."""
    root, script = FOLDER / "root", ROOT / "tools/emulated/guest.py"
    paths = (FOLDER / "site", *(ROOT / name for name in ("runtime", "export", "")))
    done = subprocess.run(
        [*qemu, "-L", str(root), str(root / "usr/bin/python3.13"), str(script), *words],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
        timeout=max(1.0, end - time.monotonic()),
        env={  # not the host's, which may choose kernels for its own processor
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "PYTHONPYCACHEPREFIX": str(FOLDER / "pycache"),
        },
    )
    if done.returncode:
        raise SupSupError(f"{' '.join(qemu)}: ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout if words else done.stderr


def per_call(text: str) -> float:
    """Return the instructions of a call, from QEMU's counts at each mark and at the end."""
    before, marked, after, *_ = map(int, re.findall(r"total insns: (\d+)", text))
    return (after - marked - (marked - before)) / CALLS


def verdict(wanted: Mapping[str, Answer], found: Mapping[str, Any], case: Case) -> str:
    """Return the largest difference from the host's answers, or in bold what is wrong."""
    if found["error"]:
        told = found["error"].rpartition("from the bank's: ")[2].partition("; nothing")[0]
        return f"**export: {' '.join(told.split())}**"
    if not found["same"]:
        return "**exports other bytes**"
    worst = 0.0
    for name, (want, text) in wanted.items():
        values, its_text = found["answers"][name]
        off = difference(want, np.array(values, want.dtype))
        rough = case["model"] in ROUGH
        limit = NOT_EXACT if rough else LIMITS.get(name, LIMITS["known"])
        if text != its_text:
            return f"**{name}: other tasks or labels**"
        if not off <= limit:  # NaN, too
            return f"**{name}: off by {off:.1e}, allowed {limit:.0e}**"
        worst = max(worst, off)
    return f"{worst:.0e}"


def parity_table(cases: Sequence[Case], verdicts: Sequence[Sequence[str]]) -> Table:
    """Return a row per model, with a verdict per core."""
    banks = once([case["bank"] for case in cases])
    models = [case["model"] for case in cases]
    rows = [[*names, *cells] for *names, cells in zip(banks, models, verdicts, strict=True)]
    title = "Largest difference from the answers on x86-64"
    return Table(title=title, header=["bank", "model", *CORES.values()], rows=rows)


def count_table(cases: Sequence[Case], counts: Sequence[float]) -> Table:
    """Return a row per model, with millions of instructions per core."""
    cells = [f"{count / 1e6:{'.0f' if count > 1e7 else '.2g'}}" for count in counts]
    rows = zip(*(cells[i :: len(COUNTED)] for i in range(len(COUNTED))), strict=True)
    table = [[case["model"], *row] for case, row in zip(cases, rows, strict=True)]
    title = f"Millions of instructions of one call, task unknown, {cases[0]['bank']}"
    return Table(title=title, header=["model", *(CORES[core] for core in COUNTED)], rows=table)


if __name__ == "__main__":
    main()
