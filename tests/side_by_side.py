"""A command that learns tasks side by side, to be stopped, and the bank that comes of it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from commands import program, run_program
from fuzz.deaths import files

OPTIONS = ("permuted", "--model", "mlp-8", "--outputs", 20, "--steps", 30, "--quiet")


@contextmanager
def begun(bank: Path, *more: object) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start to learn, in a session of its own; provide the process and its standard error."""
    words = [program("supsup-train"), *OPTIONS, "--tasks", 40, "--bank", bank, *more]
    interruptible = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    with subprocess.Popen(
        list(map(str, words)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,  # noqa: PLW1509 - a shell's background jobs ignore interrupts
    ) as process:
        assert process.stderr is not None
        yield process, process.stderr


@cache
def one_after_another() -> dict[str, bytes]:
    """Return the files of the bank, learned in one process."""
    with TemporaryDirectory() as folder:
        bank = Path(folder) / "b"
        run_program("supsup-train", *OPTIONS, "--tasks", 40, "--threads", 1, "--bank", bank)
        return files(bank)
