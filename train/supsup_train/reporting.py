"""How a run over a stream of tasks is told: bars while it learns, a line a task, a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from supsup_runtime.errors import InputError
from supsup_train.masks.train_task import Progress as StepProgress


def progress_bars(*, quiet: bool) -> Progress:
    """Bars on stderr, where that is a terminal; what is printed there goes by their console."""
    console = Console(stderr=True)
    name, loss = TextColumn("{task.description}"), TextColumn("{task.fields[loss]}")
    columns = (name, BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)


def begin_log(log: Path, keep: Callable[[bytes], bool] = bool) -> None:
    """Make a log ready for further lines, before anything is learned.

    A last line of JSON that was cut short goes, and lines that are not to be kept.

    Raises:
        InputError: If it cannot be written.
    """
    if not log.parent.is_dir():
        raise InputError(f"--log: {log.parent} must be a folder, there is none; make it first")
    try:
        log.open("a").close()
    except OSError as error:
        raise InputError(
            f"--log: {log} cannot be written: {error.strerror}; give another file"
        ) from error
    if not log.is_file():  # a pipe or a device
        return
    data = log.read_bytes()
    lines = data.split(b"\n")
    last = lines.pop()  # a whole log ends with a line's end
    if last and not (last.startswith(b"{") and not _is_json(last)):
        lines.append(last)
    kept = b"".join(line + b"\n" for line in lines if keep(line + b"\n"))
    if kept != data:
        with log.open("r+b") as file:  # in place: the log may be a link, or open elsewhere
            file.write(kept)
            file.truncate()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class Reporter:
    """A progress bar a task, a line on stderr, and a JSON line in the log."""

    def __init__(self, bars: Progress, bank: Path, log: Path | None, steps: int) -> None:
        self._bars, self._steps = bars, steps
        self._bank, self._log = bank, log
        self._waiting: list[str] = []

    def bar(self, name: str) -> StepProgress:
        """The bar of one task, in place of the one before it."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        task = self._bars.add_task(name, total=self._steps, loss="")

        def show(step: int, loss: float) -> None:
            if step % 10 == 0 or step == self._steps:
                self._bars.update(task, completed=step, loss=f"loss {loss:.3f}")

        return show

    def report(self, line: dict[str, Any]) -> None:
        """Tell of a task, as `Report` has it; one that was learned goes into the log."""
        name = line["task"]
        if line.get("kept"):
            self._say(f"{name}: in the bank already, kept")
            return
        text = f"{name}: accuracy {line['accuracy']:.4f}, {line['seconds']:.1f} s"
        self._say(text + (f"; all tasks so far {line['seen']:.4f}" if "seen" in line else ""))
        self._waiting.append(json.dumps(line, sort_keys=True) + "\n")
        self.flush()

    def flush(self) -> None:
        """Write what waits; the log in the bank's folder is begun once the bank is there."""
        if self._log is None and not (self._bank / "bank.json").exists():
            return
        with (self._log or self._bank / "train.jsonl").open("a") as file:
            file.writelines(self._waiting)
        self._waiting.clear()

    def _say(self, text: str) -> None:
        self._bars.console.print(text, highlight=False)


@contextmanager
def reporting(bank: Path, log: Path | None, steps: int, *, quiet: bool) -> Iterator[Reporter]:
    """A reporter while a run lasts.

    Args:
        bank: Folder of the bank.
        log: File of one JSON line a task; ``train.jsonl`` of the bank if None.
        steps: Batches a task.
        quiet: No progress bar.

    Raises:
        InputError: If the log cannot be written.
    """
    if log is not None or (bank / "bank.json").exists():
        begin_log(log or bank / "train.jsonl")
    with progress_bars(quiet=quiet) as bars:
        made = Reporter(bars, bank, log, steps)
        yield made
        made.flush()
