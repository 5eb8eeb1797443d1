"""Progress bars, console lines and logs of training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from supsup_runtime.errors import InputError, SupSupError
from supsup_runtime.files import read_file, regular_file, system_errors
from supsup_train.resume import Progress as StepProgress


def progress_bars(*, quiet: bool) -> Progress:
    """Return progress bars on stderr, shown on a terminal unless `quiet`."""
    console = Console(stderr=True)
    name, loss = TextColumn("{task.description}"), TextColumn("{task.fields[loss]}")
    columns = (name, BarColumn(), MofNCompleteColumn(), loss, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)


MAX_LOG_BYTES = 1 << 30


def open_log(log: Path, mode: str = "ab", *, own: bool) -> AbstractContextManager[IO[bytes]]:
    """Open a log; a bank's `own` must not be a link, pipe or device, another may."""
    return regular_file(log, mode) if own else log.open(mode)


def begin_log(log: Path, keep: Callable[[bytes], bool] = bool, *, own: bool = False) -> None:
    """Check that a log is writable; remove a truncated last line and what `keep` rejects."""
    if not log.parent.is_dir():
        raise InputError(
            f"--log: {log.parent} must be a folder, it does not exist; create it first"
        )
    try:
        with open_log(log, own=own):
            pass
    except SupSupError:
        raise
    except OSError as error:
        raise InputError(
            f"--log: {log} cannot be written: {error.strerror}; give another file"
        ) from error
    if not log.is_file():  # a pipe or a device: nothing to trim
        return
    data = read_file(log, max_bytes=MAX_LOG_BYTES, links=not own)
    lines = data.split(b"\n")
    last = lines.pop()  # empty if the log ends with a newline
    if last and (not last.startswith(b"{") or read_record(last) is not None):
        lines.append(last)
    kept = b"".join(line + b"\n" for line in lines if keep(line + b"\n"))
    if kept != data:
        # in place: the log may be a link or open elsewhere
        with open_log(log, "r+b", own=own) as file:
            file.write(kept)
            file.truncate()


def read_record(line: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON of a line, or None if it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


class Reporter:
    """Reports each task with a line on stderr and in the log, and its steps with a bar.

    Args:
        bars: Shows the steps of the task that is learned in this process.
        bank: Folder of the bank.
        log: The log; defaults to ``train.jsonl`` in the bank.
        steps: Steps of a task.
        tasks: Number of tasks, those in the bank included.
        together: Tasks that are learned at once, and so end at once.
        workers: So many times `together` are learned side by side.
    """

    def __init__(
        self,
        bars: Progress,
        bank: Path,
        log: Path | None,
        steps: int,
        tasks: int,
        *,
        together: int = 1,
        workers: int = 1,
    ) -> None:
        self._bars, self._steps = bars, steps
        self._bank, self._log = bank, log
        self._waiting: list[str] = []
        self._tasks, self._done, self._learned = tasks, 0, 0
        self._together, self._first = together, together * max(1, workers)
        self._begun = 0.0  # when as many were learned as begin at once, which the rate leaves out

    def bar(self, name: str) -> StepProgress:
        """Replace the progress bar by one for this task; return its update function."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        task = self._bars.add_task(name, total=self._steps, loss="")

        def show(step: int, loss: float) -> None:
            if step % 10 == 0 or step == self._steps:
                self._bars.update(task, completed=step, loss=f"loss {loss:.3f}")

        return show

    def report(self, line: dict[str, Any]) -> None:
        """Print a `Report` record; if the task was learned, log it."""
        name = line["task"]
        self._done += 1
        if line.get("kept"):
            self._say(f"{name}: already in the bank, skipped")
            return
        self._learned += 1
        if self._learned == self._first:
            self._begun = time.monotonic()
        text = f"{name}: accuracy {line['accuracy']:.4f}, {line['seconds']:.1f} s"
        text += f"; all tasks so far {line['seen']:.4f}" if "seen" in line else ""
        self._say(text + self._rate())
        self._waiting.append(json.dumps(line, sort_keys=True) + "\n")
        self.flush()

    def _rate(self) -> str:
        """Return how many tasks are done and, once there is a rate, the time left."""
        text = f" ({self._done} of {self._tasks}"
        left = self._tasks - self._done
        ended = -(-self._learned // self._together) * self._together - self._first
        if ended <= 0 or not left:
            return f"{text})"
        rate = ended / max(time.monotonic() - self._begun, 1e-3)
        remaining = timedelta(seconds=round(left / rate))
        digits = 0 if 60 * rate >= 100 else 1
        return f"{text}, {60 * rate:,.{digits}f} a minute, {remaining} left)"

    def flush(self) -> None:
        """Write pending lines to the log, once the bank exists if the log is in it."""
        if self._log is None and not (self._bank / "bank.json").exists():
            return
        log = self._log or self._bank / "train.jsonl"
        with system_errors(log, "written"), open_log(log, own=self._log is None) as file:
            file.write("".join(self._waiting).encode())
        self._waiting.clear()

    def _say(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def reporting(
    bank: Path,
    log: Path | None,
    steps: int,
    tasks: int,
    *,
    quiet: bool,
    together: int = 1,
    workers: int = 1,
) -> Iterator[Reporter]:
    """Provide a `Reporter`; `log` defaults to ``train.jsonl`` in the bank."""
    if log is not None or (bank / "bank.json").exists():
        begin_log(log or bank / "train.jsonl", own=log is None)
    with progress_bars(quiet=quiet) as bars:
        made = Reporter(bars, bank, log, steps, tasks, together=together, workers=workers)
        yield made
        made.flush()
