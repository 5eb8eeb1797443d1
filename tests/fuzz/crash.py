"""Stops writing commands at random file operations, then looks at all that they have left.

python -m fuzz.crash --stops 1000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from tools.reproduction.tables import Table, record, to_markdown

from commands import run
from exports import each_made_once
from fuzz.aftermath import KINDS as FINDINGS
from fuzz.aftermath import Reference, left_wrong, repeated_wrong, said_wrong
from fuzz.campaign import environment, fresh_seeds
from fuzz.case import read_files
from fuzz.judge import work_folder
from fuzz.seeds import LEARN, OWN, TASKS
from fuzz.stops import KINDS, Stop, run_line
from supsup_runtime.console import to_table

_FIRST = TASKS[0]
_SECOND = f"plain/tasks/{TASKS[1]}.safetensors"
_NNS = "--scenario NNs --period 1"
LINES = {
    "train": f"supsup-train {LEARN} --tasks 4 --model mlp-6 --bank plain",
    "train, new bank": f"supsup-train {LEARN} --tasks 2 --model mlp-6 --bank new",
    "train, transfer": f"supsup-train {LEARN} --tasks 3 --model mlp-6 --bank new --transfer masks",
    "train, own": f"supsup-train {OWN} --bank mine",
    "train, NNs": f"supsup-train {LEARN} --tasks 2 --model mlp-6 --bank new {_NNS}",
    "baseline, new bank": f"supsup-baseline batche {LEARN} --tasks 2 --model mlp-6 --bank new",
    "baseline, psp": f"supsup-baseline psp {LEARN} --tasks 2 --model mlp-6 --bank new",
    "baseline": f"supsup-baseline batche {LEARN} --tasks 3 --model mlp-6 --bank state",
    "bank add": f"supsup-bank add plain plain/tasks/{_FIRST}.safetensors --name added",
    "bank replace": f"supsup-bank add plain {_SECOND} --name {_FIRST} --replace",
    "bank remove": f"supsup-bank remove plain {_FIRST}",
    "bank rename": f"supsup-bank rename plain {_FIRST} upright",
    "bank upgrade": "supsup-bank upgrade old",
    "bank merge": "supsup-bank merge new plain",
    "calibrate": "supsup-calibrate full.onnx permuted --data data.npz --bank plain --coverage 0.8",
    "report": "supsup-eval full.onnx permuted --data data.npz --per-task 3 --report r.html --force",
    "encode": "supsup-hopfield encode --bank plain",
    "encode, delete": "supsup-hopfield encode --bank units --delete-masks",
    "encode, delete one": f"supsup-hopfield encode --bank units --delete-masks {_FIRST}",
    "export": "supsup-export --bank plain out.onnx --sidecar",
    "export again": "supsup-export --bank units full.onnx --force --sidecar",
    "export, no sidecar": "supsup-export --bank units full.onnx --force",
    "export, baked": "supsup-export --bank own out.onnx --preprocess baked --sidecar",
    "export task": f"supsup-export --bank plain out.onnx --task {_FIRST} --sidecar",
    "export recovery": "supsup-export --bank units out.onnx --hopfield --sidecar",
}
"""Every writing command, in a copy of the valid files."""
_HEADER = ("command", "stops", *KINDS, *FINDINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A command that was stopped, and what is wrong; in `aftermath` is what can be."""

    number: int
    name: str
    kind: str
    count: int
    findings: list[str]


def main() -> None:
    """Run the command."""
    warnings.simplefilter("ignore")
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--stops", type=int, default=100)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--record", type=Path, help="page whose table between markers is replaced")
    made.add_argument("--part", type=int, nargs=2, help=argparse.SUPPRESS)
    made.add_argument("--seeds", type=Path, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.part:
        first, step = arguments.part
        for each in stops(range(first, arguments.stops, step), arguments.seed, arguments.seeds):
            sys.stdout.write(json.dumps(asdict(each)) + "\n")
            sys.stdout.flush()
        return
    with TemporaryDirectory() as folder:
        seeds = fresh_seeds(Path(folder) / "seeds")
        found = run_stops(arguments.stops, arguments.seed, seeds)
    sys.stdout.write(to_text(found) + "\n")
    if arguments.record:
        title = f"`make crash N={len(found)}`, seed {arguments.seed}"
        cells = [
            [f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows(found)
        ]
        table = Table(title=title, header=_HEADER, rows=cells)
        record(arguments.record, "crash", to_markdown([table]))
    sys.exit(any(each.findings for each in found))


def run_stops(count: int, seed: int, seeds: Path) -> list[Stopped]:
    """Stop commands, in two processes."""
    words = ["--stops", str(count), "--seed", str(seed), "--seeds", str(seeds), "--part"]
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", "fuzz.crash", *words, str(part), "2"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for part in range(2)
    ]
    lines = [line for part in parts for line in part.communicate()[0].splitlines()]
    if any(part.returncode for part in parts):
        raise RuntimeError("a process that stops commands failed; its error is above")
    return sorted((Stopped(**json.loads(line)) for line in lines), key=lambda each: each.number)


def stops(numbers: Iterable[int], seed: int, seeds: Path) -> Iterator[Stopped]:
    """Stop commands, in forks of this process."""
    folder = work_folder()
    at, known = folder / "at", dict[str, Reference]()
    try:
        with each_made_once():
            for number in numbers:
                rng = Random(f"crash/{seed}/{number}")
                name = rng.choice(list(LINES))
                if name not in known:
                    known[name] = _reference(name, seeds, at)
                stop = Stop(
                    kind=rng.choice(KINDS),
                    count=rng.randint(1, known[name].operations),
                    room=rng.choice((0, 100, 1000, 10_000)),
                )
                _fresh(seeds, at)
                found = list(_findings(LINES[name].split(), known[name], stop, at))
                yield Stopped(
                    number=number, name=name, kind=stop.kind, count=stop.count, findings=found
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fresh(seeds: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeds, folder)


def _reference(name: str, seeds: Path, folder: Path) -> Reference:
    """Run a command whole: here, where an export is remembered for the forks, and in a fork."""
    words = LINES[name].split()
    if words[0] in {"supsup-train", "supsup-baseline"}:
        _fresh(seeds, folder)
        before = Path.cwd()
        os.chdir(folder)
        try:
            run(*words)
        finally:
            os.chdir(before)
    _fresh(seeds, folder)
    ended = run_line(words, folder)
    if ended.status:
        raise RuntimeError(f"{LINES[name]}: {ended.text}")
    return Reference(
        before=read_files(seeds), after=read_files(folder), operations=ended.operations
    )


def _findings(words: list[str], reference: Reference, stop: Stop, folder: Path) -> Iterator[str]:
    yield from said_wrong(run_line(words, folder, stop), stop)
    yield from left_wrong(folder, reference)
    yield from repeated_wrong(words, run_line(words, folder), folder, reference)


def to_text(found: Sequence[Stopped]) -> str:
    """Counts, then findings, the most frequent first, each with the first stop that shows it."""
    causes: dict[tuple[str, str], list[Stopped]] = {}
    for each in found:
        for finding in each.findings:
            causes.setdefault((each.name, finding), []).append(each)
    lines = [to_table(_HEADER, rows(found)), ""]
    for (name, finding), cases in sorted(causes.items(), key=lambda item: -len(item[1])):
        one = cases[0]
        lines.append(f"{len(cases):4} {name}: {finding}  [{one.kind} at {one.count}]")
    return "\n".join(lines)


def rows(found: Sequence[Stopped]) -> list[list[int | str]]:
    """One row per command, and their sum."""
    groups = [(name, [each for each in found if each.name == name]) for name in LINES]
    return [_row(name, group) for name, group in [*groups, ("all", list(found))]]


def _row(name: str, group: Sequence[Stopped]) -> list[int | str]:
    kinds = Counter(each.kind for each in group)
    wrong = Counter(finding.partition(":")[0] for each in group for finding in each.findings)
    return [name, len(group), *(kinds[k] for k in KINDS), *(wrong[k] for k in FINDINGS)]


if __name__ == "__main__":
    main()
