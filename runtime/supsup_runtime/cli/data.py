"""The command supsup-data."""

from __future__ import annotations

import sys
from contextlib import suppress

from supsup_runtime.console import parser, print_result, to_path
from supsup_runtime.data.download import ARCHIVES, Progress, download

_EXAMPLES = (
    "download cifar100",
    "download cifar10 --to data/ --url https://mirror.example/cifar-10-python.tar.gz",
)
_WIDTH = 40


def run() -> None:
    """Run the command."""
    made = parser("supsup-data", "Get published data sets.", _EXAMPLES)
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "Download a data set, check it and unpack it; goes on where it was stopped."
    one = commands.add_parser("download", help=text, description=text)
    one.what_in.add_argument("name", choices=tuple(ARCHIVES), help="data set")
    one.what_in.add_argument(
        "--url", metavar="URL", help="mirror of the archive (default: where it is published)"
    )
    text = "folder to unpack in, made if missing (default: this one)"
    one.what_out.add_argument("--to", type=to_path, default=".", metavar="FOLDER", help=text)
    one.what_out.add_argument("--quiet", action="store_true", help="hide the progress bar")
    one.what_out.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = made.parse_args()
    shown = sys.stderr.isatty() and not arguments.quiet
    progress = _bar(arguments.name) if shown else None
    folder = download(arguments.name, arguments.to, url=arguments.url, progress=progress)
    result = {"folder": str(folder)}
    print_result(result, as_json=arguments.json, text=f"{folder}: give it as --data {folder}")


def _bar(name: str) -> Progress:
    """Return what draws a bar on one line of a terminal."""

    def draw(done: int, total: int) -> None:
        bar, end = "#" * (_WIDTH * done // total), "\n" if done == total else ""
        with suppress(OSError):
            sys.stderr.write(f"\r{name} [{bar:{_WIDTH}}] {done >> 20} of {total >> 20} MiB{end}")
            sys.stderr.flush()

    return draw
