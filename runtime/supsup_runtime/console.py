"""Options, exit statuses and output shared by all commands."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

from supsup_runtime.arrays import MAX_THREADS
from supsup_runtime.errors import SupSupError

GROUPS = ("input", "output", "method", "speed")
"""Titles of the option groups in every command's help."""

INTERRUPTED = 130
MAX_COUNT = 2**31 - 1
_UNKNOWN = "0+unknown"
MAX_CELL, MAX_LINE = 100, 5000
"""Characters of a table's cell and of a line that are shown; a path has up to 4096."""


def run_command(name: str, command: Callable[[], object]) -> NoReturn:
    """Run a command and exit: 0 success, 1 to 5 a known error in one line, 130 interrupted.

    Defects keep their traceback.
    """
    try:
        _open_streams()
        if "--version" in sys.argv[1:]:
            _print(f"{name} {version()}")
        else:
            command()
    except SupSupError as error:
        _fail(name, str(error), error.exit_code)
    except OSError as error:
        _fail(name, f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except MemoryError as error:
        reason = f" ({error})" if str(error) else ""
        _fail(name, f"not enough memory{reason}; take less at once, or free memory", 1)
    except KeyboardInterrupt:
        _fail(name, "interrupted; finished work is kept", INTERRUPTED)
    sys.exit(0)


def _open_streams() -> None:
    """Give streams that are closed to nobody, so that no file takes their descriptors."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
            setattr(sys, name, stream)


def printable(value: object, most: int = MAX_CELL) -> str:
    """Return text for a terminal, on one line: what is not printable escaped, the end cut."""
    text = str(value)
    if len(text) > most:
        text = text[:most] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(text: str) -> None:
    """Print to stderr, if it can be written, with each line `printable`."""
    with suppress(OSError):
        _write(sys.stderr, _lines(text))


def _lines(text: str) -> str:
    return "\n".join(printable(line, MAX_LINE) for line in text.split("\n"))


def _print(text: str) -> None:
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:  # nobody reads on, such as `| head`
        pass
    except OSError as error:
        raise SupSupError(
            f"standard output: {error.strerror}; the work is done, only its result is not printed"
        ) from error


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python fails at its end
        raise


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Append the default, or "(required)", to an option's help."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if not text or not action.option_strings or action.nargs == 0 or "default:" in text:
            return text
        if action.required:
            return text if "required" in text else f"{text} (required)"
        return text if action.default is None else f"{text} (default: %(default)s)"


class _Once(argparse._StoreAction):  # noqa: SLF001 - argparse's way to an action like its own
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401 - as argparse has it
        option_string: str | None = None,
    ) -> None:
        given = vars(namespace).setdefault("_given", set())
        if option_string and self.dest in given:
            parser.error(f"{option_string}: was given twice; give it once")
        given.add(self.dest)
        super().__call__(parser, namespace, values, option_string)


class CommandParser(argparse.ArgumentParser):
    """Parser of a command or subcommand, with ``--version`` and the groups of `GROUPS`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **settings)
        for name in (None, "store"):
            self.register("action", name, _Once)
        self.add_argument("--version", action="store_true", help="print the version and exit")
        groups: list[Options] = [self.add_argument_group(title) for title in GROUPS]
        self.what_in, self.what_out, self.method, self.speed = groups

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 - a stream
        text = message.rstrip("\n")
        _print(text) if file is sys.stdout else say(text)


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
            metavar = "X" if kind is float else "NAME" if kind is str else "N"
            made.add_argument(name, type=kind, default=default, metavar=metavar, help=text)
        else:
            made.add_argument(name, choices=kind, default=default, help=text)


class _Renamed(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 - argparse gives all four
        values: object,  # noqa: ARG002 - as above
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string}: is called {self.const} now")


def add_renamed(made: Options, names: Mapping[str, str]) -> None:
    """Refuse former option names; `names` maps them to the new ones."""
    for old, new in names.items():
        made.add_argument(old, action=_Renamed, nargs="?", const=new, help=argparse.SUPPRESS)


def whole(least: int, most: int = MAX_COUNT) -> Callable[[str], int]:
    """Return a parser of integers of at least `least` and at most `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # thousands of digits, too
            value = least - 1
        if value < least:
            rule = f"an integer of at least {least}"
        elif value > most:
            rule = f"at most {most}"
        else:
            return value
        raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r:.40}")

    return parse


positive, from_zero = whole(1), whole(0)
thread_count = whole(1, MAX_THREADS)


def to_path(text: str) -> Path:
    """Parse a path, which must not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(text)


def print_result(value: object, *, as_json: bool, text: str) -> None:
    """Print one line of JSON, or text with each line `printable`."""
    if as_json:
        _print(json.dumps(value, sort_keys=True, allow_nan=False))
    else:
        _print(_lines(text.rstrip()))


def to_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Align columns with spaces, numbers to the right; each cell is `printable`."""
    header = [printable(title) for title in header]
    cells = [[printable(cell) for cell in row] for row in rows]
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
    say(printable(f"{name}: {message}", MAX_LINE))
    sys.exit(status)


def version() -> str:
    """Return the version of supsup; in a checkout that is not installed, its project's.

    ``0+unknown`` if neither says it.
    """
    try:
        return metadata.version("supsup")
    except metadata.PackageNotFoundError:
        pass
    import tomllib  # rarely needed

    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
        return str(project["project"]["version"])
    except (OSError, KeyError, ValueError):
        return _UNKNOWN
