"""Time and memory to open, change and merge a bank of many tasks, with random masks."""

from __future__ import annotations

import tracemalloc
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.benchmarks.banks import bench_bank
from tools.benchmarks.timing import Candidate, Result, Setup, measure

from supsup_runtime.bank.bank import MaskBank

MERGED, PER_BANK = 10, 250
"""Banks that are merged, and tasks of each."""


def large(setup: Setup, *, model: str, outputs: int, tasks: int) -> Result:
    """Time a bank, and merge some of its tasks; files are synced. Memory is what Python takes."""
    made = bench_bank(setup.cache, model=model, outputs=outputs, tasks=tasks).bank
    with TemporaryDirectory(dir=setup.cache) as folder:
        banks = (_like(made, Path(folder) / str(number)) for number in count())
        grown, *others = (next(banks) for _ in range(1 + MERGED))
        grown.merge(made)
        for start, other in enumerate(others):
            other.extend(made.task(start * PER_BANK + task) for task in range(PER_BANK))
        numbers, task = count(), made.task(0)

        def rename() -> None:
            grown.rename(grown.task_names[-1], f"renamed-{next(numbers)}")

        cases = {
            "open, unverified": lambda: MaskBank.open(made.path, verify=False),
            "open": lambda: MaskBank.open(made.path),
            "add": lambda: grown.add(task.renamed(f"added-{next(numbers)}")),
            "rename": rename,
            "remove": lambda: grown.remove(grown.task_names[-1]),
            f"merge {MERGED} x {PER_BANK}": lambda: next(banks).merge(*others),
        }
        rows = measure([Candidate(name=name, call=call) for name, call in cases.items()], setup)
    for row, verify in zip(rows, (False, True), strict=False):
        tracemalloc.start()
        MaskBank.open(made.path, verify=verify)
        row["peak_MB"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return Result(rows=rows, ratio="to opening unverified")


def _like(bank: MaskBank, path: Path) -> MaskBank:
    return MaskBank.create(path, bank.network, forward=bank.forward, gradient=bank.gradient)
