"""What every target has: a way to make cases, and a way to use them that reports how far it got."""

from __future__ import annotations

import io
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from random import Random
from typing import ClassVar, TextIO
from unittest.mock import patch

from commands import SCRIPTS
from fuzz.case import Case
from supsup_runtime.errors import SupSupError

STAGES = ("header", "load", "call")
"""Past the header, loaded, and answered a call."""
Reach = Callable[[str], None]
"""Tells that a case got to a stage."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
_KEPT = io.StringIO()
_STATUSES = (0, 1, 2, 3, 4, 5)
_SHOWN = 20_000
"""Characters of an error that a person can still read past."""


class Wrong(Exception):  # noqa: N818 - it is a verdict
    """An answer that must not be: misread, accepted against a rule, or badly printed."""


class Refused(SupSupError):  # noqa: N818 - as above
    """A command refused the case."""


class Target(ABC):
    """A reader or interface under test.

    Attributes:
        room: Bytes that a case may take whatever its size.
    """

    room: ClassVar[int] = 64 << 20

    def __init__(self, seeds: Path) -> None:
        """Read the valid files that cases are made from, and import what they are used with."""
        self.seeds = seeds

    @abstractmethod
    def make(self, rng: Random) -> Case:
        """Make a case."""

    @abstractmethod
    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        """Use a case that lies in a folder; only errors of supsup may come out."""

    def memory(self, case: Case) -> int:
        """Bytes that the case may take at most, beyond what the process has (SECURITY.md)."""
        return self.room + 100 * case.size


def command(
    name: str, *words: object, out: TextIO | None = _KEPT, silent: bool = False
) -> tuple[int, str]:
    """Run a command in this process; return its exit status and standard output.

    Args:
        name: The command.
        *words: Its arguments.
        out: Standard output, by default one that is kept and checked.
        silent: It may fail without a word, as where nobody reads its output.

    Raises:
        Wrong: If the status is not documented, or what is printed has control characters, or the
            error is no line that says why, or longer than a screen.
    """
    module, _, function = SCRIPTS[name].partition(":")
    main, status = getattr(import_module(module), function), 0
    said, err = io.StringIO() if out is _KEPT else out, io.StringIO()
    argv = patch.object(sys, "argv", [name, *map(str, words)])
    with redirect_stdout(said), redirect_stderr(err), argv:
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    if status not in _STATUSES:
        raise Wrong(f"{name}: exit status {status}")
    if not silent:
        _check_error(name, status, err.getvalue())
    text = said.getvalue() if isinstance(said, io.StringIO) else ""
    if found := _CONTROL.search(text):
        raise Wrong(f"{name}: prints {found[0]!a}")
    return status, text


def _check_error(name: str, status: int, text: str) -> None:
    if "Traceback" in text:
        raise Wrong(f"{name}: traceback")
    if found := _CONTROL.search(text.replace("\r", "")):  # progress bars
        raise Wrong(f"{name}: error with {found[0]!a}")
    if len(text) > _SHOWN:
        raise Wrong(f"{name}: error of {len(text)} characters")
    lines = text.splitlines()
    if status == 2 and lines and lines[0].startswith("usage: "):
        return
    if status and (not lines or not lines[-1].startswith(f"{name}: ")):
        raise Wrong(f"{name}: exit status {status} without a line that says why")
