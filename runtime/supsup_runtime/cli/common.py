"""What all commands share: how they end, and how they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NoReturn

from supsup_runtime.errors import SupSupError

__all__ = ["parser", "print_result", "run_command", "to_table"]

INTERRUPTED = 130
_INTERRUPTED = "interrupted; what was finished is kept"


def run_command(name: str, command: Callable[[], object]) -> NoReturn:
    """Run a command and exit: 0 done, 1 to 5 a known error in one line, 130 interrupted.

    Any other exception is a defect and keeps its traceback.
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has enough
        sys.exit(1)
    except OSError as error:
        _fail(name, f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail(name, _INTERRUPTED, INTERRUPTED)
    except SystemExit as done:
        if done.code == INTERRUPTED:  # Typer has caught the interrupt, and says nothing
            _fail(name, _INTERRUPTED, INTERRUPTED)
        raise
    sys.exit(0)


def parser(name: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """An argument parser whose help starts with examples."""
    usage = "\n".join(["examples:", *(f"  {name} {example}" for example in examples)])
    made = argparse.ArgumentParser(
        prog=name,
        description=f"{description}\n\n{usage}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="store_true", help="print the version and exit")
    return made


def print_result(value: object, *, as_json: bool, text: str) -> None:
    """Print a result to stdout: one JSON line for machines, or text."""
    line = json.dumps(value, sort_keys=True, allow_nan=False) if as_json else text.rstrip()
    sys.stdout.write(line + "\n")


def to_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned with spaces; numbers to the right."""
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
