"""Many cases of many targets, in two processes; resumable, and the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.case import read_files
from fuzz.judge import Verdict, ended
from fuzz.target import STAGES
from fuzz.targets import TARGETS
from fuzz.waiting import watched

CHUNK = 1000
FINE = ("answer", "refused")
_ROOT = Path(__file__).resolve().parents[2]
_KEPT = 3
"""Numbers of cases that are kept of each finding."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """What came of the cases of a target.

    Attributes:
        cases: Their number.
        stages: How many got to each stage.
        kinds: How many ended in each way.
        peak: Largest memory of one, in bytes.
        findings: By kind and cause: how many, their first numbers, and a message.
    """

    cases: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    findings: dict[str, tuple[int, list[int], str]] = field(default_factory=dict)

    def add(self, number: int, stages: str, verdict: Verdict) -> None:
        """Count a case that got to stages, by their first letters."""
        self.cases += 1
        self.stages.update(stage for stage in STAGES if stage[0] in stages)
        self.kinds[verdict.kind] += 1
        self.peak = max(self.peak, verdict.peak)
        if verdict.kind not in FINE:
            self._join(f"{verdict.kind}: {verdict.what}", (1, [number], verdict.detail))

    def join(self, other: Counts) -> None:
        """Add the counts of other cases."""
        self.cases += other.cases
        self.stages.update(other.stages)
        self.kinds.update(other.kinds)
        self.peak = max(self.peak, other.peak)
        for key, found in other.findings.items():
            self._join(key, found)

    def _join(self, key: str, found: tuple[int, list[int], str]) -> None:
        count, numbers, detail = self.findings.get(key, (0, [], found[2]))
        self.findings[key] = count + found[0], sorted({*numbers, *found[1]})[:_KEPT], detail


def run_chunk(place: str, seed: int, numbers: range, seeds: Path) -> Counts:
    """Judge a range of cases, each process as long as it lives."""
    counts, first = Counts(), numbers.start
    with TemporaryDirectory() as folder:
        while first < numbers.stop:
            out = Path(folder) / f"{first}"
            words = [place, str(seed), str(first), str(numbers.stop - first), str(seeds), str(out)]
            with (Path(folder) / "errors").open("w+b") as errors:
                worker = [sys.executable, "-m", "fuzz.worker", *words]
                process = subprocess.Popen(worker, stderr=errors, env=environment())
                status = watched(process, out)
                errors.seek(0)
                said = errors.read().decode(errors="replace")
            if status > 0 and "Traceback" in said:
                raise RuntimeError(said)
            first += _count_lines(out, first, counts)
            if status and first < numbers.stop:
                unfinished = out.read_bytes().rpartition(b"\n")[2].decode()
                stack = out.with_suffix(".stack").read_text(errors="replace")
                counts.add(first, unfinished, ended(status, stack))
                first += 1
    return counts


def environment() -> dict[str, str]:
    """The environment of a process of this package, with one thread and its memory in one place."""
    path = os.pathsep.join([f"{_ROOT / 'tests'}", f"{_ROOT}", os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


def fresh_seeds(folder: Path) -> Path:
    """Make the valid files, in a process of its own: what starts workers has run nothing."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "fuzz.seeds", folder], check=True, env=environment()
    )
    return folder


def _count_lines(out: Path, first: int, counts: Counts) -> int:
    lines = out.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, first):
        stages, _, told = line.decode().partition("{")
        counts.add(number, stages, Verdict(**json.loads("{" + told)))
    return len(lines)


def shares(total: int, names: Iterable[str]) -> dict[str, int]:
    """Divide a number of cases among targets, at least one each."""
    wanted = list(names)
    ends = list(accumulate(TARGETS[name].share for name in wanted))
    cuts = [0, *(round(total * end / ends[-1]) for end in ends)]
    return {name: max(1, b - a) for name, (a, b) in zip(wanted, pairwise(cuts), strict=True)}


def code_digest(seeds: Path) -> str:
    """Digest of the code and of the valid files: counts of others are not continued."""
    found = hashlib.sha256()
    for folder in ("runtime", "export", "train", "tests/fuzz"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    for name, data in read_files(seeds).items():
        found.update(name.encode() + data)
    return found.hexdigest()[:12]


def campaign(
    total: int, names: list[str], seed: int, seeds: Path, state: Path
) -> dict[str, Counts]:
    """Run cases of targets in proportion; what `state` holds already is not run again."""
    found = {name: Counts() for name in names}
    todo = {
        (name, start): range(start, min(start + CHUNK, count))
        for name, count in shares(total, names).items()
        for start in range(0, count, CHUNK)
    }
    for name, numbers, counts in _finished(state):
        if todo.get((name, numbers.start)) == numbers:
            found[name].join(counts)
            del todo[name, numbers.start]
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.open("a") as file, ThreadPoolExecutor(2) as pool:
        jobs = {
            key: pool.submit(run_chunk, TARGETS[key[0]].place, seed, numbers, seeds)
            for key, numbers in todo.items()
        }
        try:
            for left, (key, job) in zip(range(len(jobs), 0, -1), jobs.items(), strict=True):
                counts, numbers = job.result(), todo[key]
                found[key[0]].join(counts)
                line = {"name": key[0], "first": numbers.start, "end": numbers.stop}
                file.write(json.dumps({**line, "counts": _to_dict(counts)}) + "\n")
                file.flush()
                sys.stderr.write(f"fuzz: {left - 1} chunks left\n")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an error waits for no other chunk
    return found


def _to_dict(counts: Counts) -> dict[str, object]:
    """Not `asdict`, which makes counts of a counter's items."""
    return {each.name: getattr(counts, each.name) for each in fields(counts)}


def _finished(state: Path) -> Iterator[tuple[str, range, Counts]]:
    for line in state.read_text().splitlines() if state.exists() else ():
        told = json.loads(line)
        counts = told["counts"]
        for key in ("stages", "kinds"):
            counts[key] = Counter(counts[key])
        counts["findings"] = {key: tuple(value) for key, value in counts["findings"].items()}
        yield told["name"], range(told["first"], told["end"]), Counts(**counts)
