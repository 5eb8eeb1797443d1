"""Kill workers, drivers and nodes of a Ray cluster while tasks are learned side by side.

python -m fuzz.deaths --kills 1000 --nodes 20
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Thread
from typing import IO

from tools.reproduction.tables import Table, record, to_markdown

from commands import program
from fuzz.campaign import environment
from fuzz.judge import work_folder
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.console import to_table

TASKS = 150
OPTIONS = f"permuted --tasks {TASKS} --model mlp-6 --outputs 20 --steps 20 --batch-size 32 --quiet"
PARALLEL = ("--workers", "2")
_GAVE_UP = "its worker died 3 times"
_PAUSE = 0.5
"""Longest time from the first report of a task after a kill to the next kill, in seconds."""
_LEARNED = re.compile(r"permuted-\d+: accuracy")


class Deaths:
    """Learns banks whose workers, drivers and nodes are killed, and counts what is wrong.

    Args:
        folder: For the banks.
        rng: Chooses whom to kill, and when.
    """

    def __init__(self, folder: Path, rng: Random) -> None:
        self.counts = Counter[str]()
        self._folder, self._rng = folder, rng
        whole = folder / "whole"
        words = _words(whole, "--threads", "1")
        done = subprocess.run(words, check=False, capture_output=True, env=environment())
        if done.returncode:
            raise RuntimeError("the bank to compare with cannot be learned")
        self._whole = files(whole)

    def kill_processes(self, kills: int) -> None:
        """Kill so many workers and drivers."""
        while self._killed("worker", "driver") < kills:
            self._learn(PARALLEL, lambda driver: self._kill_process(driver, kills))

    def kill_nodes(self, kills: int) -> None:
        """Kill so many nodes of a cluster; each is replaced."""
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        node = cluster.add_node(num_cpus=1)

        def kill(_: int) -> None:
            nonlocal node
            if self._killed("node") < kills:
                cluster.remove_node(node, allow_graceful=False)
                self.counts["node"] += 1
                node = cluster.add_node(num_cpus=1)

        try:
            while self._killed("node") < kills:
                self._learn(("--cluster", cluster.address), kill)
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray leaves it untyped

    def _killed(self, *kinds: str) -> int:
        return sum(self.counts[kind] for kind in kinds)

    def _learn(self, how: tuple[str, ...], kill: Callable[[int], None]) -> None:
        """Learn a bank to the end, with kills, and compare it."""
        self.counts["banks"] += 1
        bank = self._folder / f"bank-{self.counts['banks']}"
        while not self._run(bank, how, kill):
            self._look(bank)
        self._look(bank)
        if unordered(files(bank)) != unordered(self._whole):
            self.counts["task lost or wrong"] += 1

    def _run(self, bank: Path, how: tuple[str, ...], kill: Callable[[int], None]) -> bool:
        """Run a driver; return whether it came to its end."""
        with _started(_words(bank, *how)) as (driver, err):
            lines: list[str] = []
            reader = Thread(target=lines.extend, args=(err,))  # line by line, as they come
            reader.start()
            before = 0
            while driver.poll() is None:
                if len(lines) > before and _LEARNED.match(lines[-1]):
                    time.sleep(self._rng.random() * _PAUSE)
                    kill(driver.pid)
                    before = len(lines)
                time.sleep(0.01)
            reader.join()
        status, said = driver.wait(), lines[-1] if lines else ""
        if status == 1 and _GAVE_UP in said:
            self.counts["gave up"] += 1
        elif status not in {0, -signal.SIGKILL}:
            self.counts["other error"] += 1
            sys.stderr.write(said)
        return status == 0

    def _kill_process(self, driver: int, kills: int) -> None:
        if self._killed("worker", "driver") >= kills:
            return
        if self._rng.random() < 0.1:
            os.kill(driver, signal.SIGKILL)
            self.counts["driver"] += 1
            return
        for worker in list(workers_of(driver))[: self._rng.randint(1, 2)]:
            try:
                os.kill(worker, signal.SIGKILL)
                self.counts["worker"] += 1
            except ProcessLookupError:
                continue

    def _look(self, bank: Path) -> None:
        if not (bank / "bank.json").exists():  # killed before it was made
            return
        try:
            MaskBank.open(bank)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            self.counts["bank does not open"] += 1
            sys.stderr.write(f"{error}\n")


def files(bank: Path) -> dict[str, bytes]:
    """Return the files of a bank but for locks and logs."""
    paths = [p for p in bank.rglob("*") if p.is_file() and p.suffix not in {"", ".jsonl"}]
    return {path.relative_to(bank).as_posix(): path.read_bytes() for path in paths}


def unordered(found: dict[str, bytes]) -> dict[str, object]:
    """Return files with the index as a set: a command that gives up keeps what later tasks made."""
    index = json.loads(found["bank.json"])
    index["tasks"] = sorted(index["tasks"], key=lambda task: str(task["name"]))
    return {**found, "bank.json": index}


def workers_of(driver: int) -> Iterator[int]:
    """Yield the worker processes of a driver that leads a session."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mine = os.getsid(int(path.name)) == driver
            if mine and b"popen_loky_posix" in (path / "cmdline").read_bytes():
                yield int(path.name)
        except OSError:
            continue


def _words(bank: Path, *more: str) -> list[str]:
    return [program("supsup-train"), *OPTIONS.split(), "--bank", str(bank), *more]


@contextmanager
def _started(words: list[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment()
    ) as process:
        assert process.stderr is not None
        yield process, process.stderr


_HEADER = ("killed", "kills", "banks", "gave up", "other error", "does not open", "lost or wrong")
_COUNTED = ("banks", "gave up", "other error", "bank does not open", "task lost or wrong")


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--kills", type=int, default=1000)
    made.add_argument("--nodes", type=int, default=20)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--record", type=Path, help="page whose table between markers is replaced")
    arguments = made.parse_args()
    rows: list[list[str | int]] = []
    for what, count in (("processes", arguments.kills), ("nodes", arguments.nodes)):
        with TemporaryDirectory(dir=work_folder()) as folder:
            deaths = Deaths(Path(folder), Random(f"{what}/{arguments.seed}"))
            (deaths.kill_processes if what == "processes" else deaths.kill_nodes)(count)
        killed = [(kind, deaths.counts[kind]) for kind in ("worker", "driver", "node")]
        shown = ", ".join(f"{number} {kind}s" for kind, number in killed if number)
        counted = [deaths.counts[key] for key in _COUNTED]
        rows.append([shown, sum(number for _, number in killed), *counted])
    sys.stdout.write(to_table(_HEADER, rows) + "\n")
    if arguments.record:
        title = f"`make deaths N={arguments.kills}`, seed {arguments.seed}"
        cells = [[str(cell) for cell in row] for row in rows]
        table = Table(title=title, header=_HEADER, rows=cells)
        record(arguments.record, "deaths", to_markdown([table]))
    sys.exit(any(sum(row[4:]) for row in rows))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
