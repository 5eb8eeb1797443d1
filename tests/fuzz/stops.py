"""Commands that are stopped at a file operation, whatever the time: in forks of this process.

A fork has all imports already, so a stop takes a tenth of a second instead of four.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from commands import SCRIPTS

_EVENTS = frozenset(
    ["open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink"]
)
"""Audit events of Python; of opens, those that write or sync a folder."""
TRACEBACK = 70
SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
KINDS = (*SIGNALS, "full", "size")
"""A signal; from then on no new file can be made; from then on files can only grow so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What happens at which file operation of a command, counted from 1."""

    kind: str
    count: int
    room: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended: its status, or minus a signal; what it wrote; its file operations."""

    status: int
    text: str
    operations: int


def run_line(words: list[str], folder: Path, stop: Stop | None = None) -> Ended:
    """Run a command in a fork whose current folder is `folder`."""
    (said, saying), (counted, counting) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        _in_child(words, folder, saying, _watch(folder, counting, stop))
    for descriptor in (saying, counting):
        os.close(descriptor)
    with os.fdopen(said, errors="replace") as file, os.fdopen(counted, "rb") as operations:
        text, count = file.read(), len(operations.read())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(status=status, text=text, operations=count)


def _in_child(words: list[str], folder: Path, saying: int, watch: Callable[..., None]) -> NoReturn:
    status = TRACEBACK
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(saying, 1)
        os.dup2(saying, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        sys.argv = words
        module, _, function = SCRIPTS[words[0]].partition(":")
        main = getattr(import_module(module), function)
        sys.addaudithook(watch)
        main()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:  # noqa: BLE001 - what a process would print
        traceback.print_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        for file in (sys.stdout, sys.stderr):
            file.flush()
        os._exit(status)


def _watch(folder: Path, counting: int, stop: Stop | None) -> Callable[..., None]:
    """An audit hook that writes a byte to a pipe for each file operation, and stops."""
    seen = 0

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _EVENTS or not _changes(event, arguments, folder):
            return
        seen += 1
        os.write(counting, b".")
        if stop is None or seen < stop.count:
            return
        if stop.kind == "full" and event in {"open", "os.mkdir"}:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(arguments[0]))
        if stop.kind == "size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (stop.room, resource.RLIM_INFINITY))
        elif seen == stop.count and stop.kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[stop.kind])

    return look


def _changes(event: str, arguments: tuple[Any, ...], folder: Path) -> bool:
    """Whether an event is about this folder, and not about reading a file."""
    try:
        path = Path(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100 - no links
    except TypeError:  # a descriptor
        return False
    if not path.is_relative_to(folder):
        return False
    if event != "open":
        return True
    mode, flags = arguments[1], arguments[2]
    reads = mode is not None and not set(mode) & set("wax+")
    return not reads and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or path.is_dir())
