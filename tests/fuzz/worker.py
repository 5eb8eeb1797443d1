"""A process that judges a range of cases, ``PLACE SEED FIRST COUNT SEEDS OUT``.

It writes a line for each case while the case runs, so that whoever started it knows which case
ended the process: one letter for each stage, then the verdict.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from random import Random

from fuzz.case import Case
from fuzz.judge import judge, limit_process, work_folder
from fuzz.target import Target
from fuzz.targets import load_target


def made_case(target: Target, seed: int, number: int) -> Case:
    """A case, the same for the same seed and number."""
    return target.make(Random(f"{type(target).__name__}/{seed}/{number}"))


def work(target: Target, seed: int, numbers: range, out: Path) -> None:
    """Judge cases, one line each in a file; see `fuzz.campaign.read_lines`."""
    folder = work_folder()
    descriptor = os.open(out, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def reach(stage: str) -> None:
        os.write(descriptor, stage[:1].encode())

    with out.with_suffix(".stack").open("w") as stacks:
        limit_process(stacks)
        try:
            for number in numbers:
                verdict = judge(target, made_case(target, seed, number), folder, reach)
                os.write(descriptor, json.dumps(asdict(verdict)).encode() + b"\n")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run the command."""
    warnings.simplefilter("ignore")
    place, seed, first, count, seeds, out = sys.argv[1:]
    numbers = range(int(first), int(first) + int(count))
    work(load_target(place)(Path(seeds)), int(seed), numbers, Path(out))


if __name__ == "__main__":
    main()
