"""Options, exit statuses and output shared by all commands."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from supsup_runtime.errors import InputError, SupSupError

GROUPS = ("input", "output", "method", "speed")
"""Titles of the option groups in every command's help."""

INTERRUPTED = 130
MAX_INPUT_BYTES = 4 << 30


def run_command(name: str, command: Callable[[], object]) -> NoReturn:
    """Run a command and exit: 0 success, 1 to 5 a known error in one line, 130 interrupted.

    Defects keep their traceback.
    """
    if "--version" in sys.argv[1:]:
        sys.stdout.write(f"{name} {_version()}\n")
        sys.exit(0)
    try:
        command()
        sys.stdout.flush()
    except SupSupError as error:
        _fail(name, str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # such as `| head`
        sys.exit(1)
    except OSError as error:
        _fail(name, f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail(name, "interrupted; finished work is kept", INTERRUPTED)
    sys.exit(0)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Append the default, or "(required)", to an option's help."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if not text or not action.option_strings or action.nargs == 0 or "default:" in text:
            return text
        if action.required:
            return text if "required" in text else f"{text} (required)"
        return text if action.default is None else f"{text} (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """Parser of a command or subcommand, with ``--version`` and the groups of `GROUPS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **settings)
        self.add_argument("--version", action="store_true", help="print the version and exit")
        groups: list[Options] = [self.add_argument_group(title) for title in GROUPS]
        self.what_in, self.what_out, self.method, self.speed = groups


def parser(name: str, description: str, examples: Sequence[str]) -> CommandParser:
    """Return a parser whose help has examples and defaults."""
    usage = "\n".join(["examples:", *(f"  {name} {example}" for example in examples)])
    return CommandParser(prog=name, description=f"{description}\n\n{usage}")


class Options(Protocol):
    """A parser or option group."""

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """See `argparse.ArgumentParser.add_argument`."""


Row = tuple[str, Callable[[str], object] | Sequence[str], object, str]
"""An option that takes a value: name, type or choices, default, help."""


def add_options(made: Options, rows: Iterable[Row]) -> None:
    """Add options that take a value."""
    for name, kind, default, text in rows:
        if callable(kind):
            metavar = "X" if kind is float else "N"
            made.add_argument(name, type=kind, default=default, metavar=metavar, help=text)
        else:
            made.add_argument(name, choices=kind, default=default, help=text)


class _Renamed(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 - argparse gives all four
        values: object,  # noqa: ARG002
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string}: is called {self.const} now")


def add_renamed(made: Options, names: Mapping[str, str]) -> None:
    """Refuse former option names; `names` maps them to the new ones."""
    for old, new in names.items():
        made.add_argument(old, action=_Renamed, nargs="?", const=new, help=argparse.SUPPRESS)


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    return _at_least(1, text)


def from_zero(text: str) -> int:
    """Parse an integer of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if int(text) < least:  # argparse reports non-integers
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
    return int(text)


def print_result(value: object, *, as_json: bool, text: str) -> None:
    """Print one line of JSON, or text."""
    line = json.dumps(value, sort_keys=True, allow_nan=False) if as_json else text.rstrip()
    sys.stdout.write(line + "\n")


def to_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns with spaces, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]

    def line(row: Sequence[str], values: Sequence[object]) -> str:
        padded = [
            cell.rjust(width) if isinstance(value, int | float) else cell.ljust(width)
            for cell, width, value in zip(row, widths, values, strict=True)
        ]
        return "  ".join(padded).rstrip()

    like = rows[0] if rows else header
    return "\n".join([line(header, like), *(line(c, r) for c, r in zip(cells, rows, strict=True))])


def _fail(name: str, message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{name}: {message}\n")
    sys.exit(status)


def _version() -> str:
    try:
        return metadata.version("supsup")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a ``.npy`` file, or raise `InputError` unless it holds one array of numbers."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; save an array with numpy.save")
    if path.stat().st_size > MAX_INPUT_BYTES:
        raise InputError(f"{path}: must have at most {MAX_INPUT_BYTES} bytes")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: must be a .npy array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: must be a .npy array, got an archive of several")
    return array
