"""Processes that wait for ever; one that only gets no core can still run, and does not wait."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

SECONDS = 30
"""A case may wait for so long, in looks of a second each."""


def watched(process: subprocess.Popen[bytes], out: Path, seconds: int = SECONDS) -> int:
    """Wait for a process that writes to `out` as it goes on; return its exit status.

    If it waits for so many seconds and writes nothing, it gets an alarm.
    """
    waited, before = 0, -1
    while True:
        try:
            return process.wait(1)
        except subprocess.TimeoutExpired:
            size = out.stat().st_size if out.exists() else 0
            waited = waited + 1 if size == before and is_waiting(process.pid) else 0
            before = size
        if waited == seconds:
            process.send_signal(signal.SIGALRM)


def is_waiting(pid: int) -> bool:
    """Whether no thread of a process, or of those that it started, runs, could run or reads."""
    processes = [pid]
    try:
        for each in processes:
            for task in Path(f"/proc/{each}/task").iterdir():
                if (task / "stat").read_text().rpartition(") ")[2][0] in "RD":
                    return False
                processes += map(int, (task / "children").read_text().split())
    except (OSError, IndexError):  # it has just ended
        return False
    return True
