"""Starts each command by its name, so that an interrupt or a missing package is one line.

It imports next to nothing, because `supsup_runtime` alone imports numpy.
"""

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import PurePath
from typing import NoReturn

MODULES = {
    "supsup-bank": ("supsup_runtime.cli.bank", ""),
    "supsup-run": ("supsup_runtime.cli.run", ""),
    "supsup-calibrate": ("supsup_runtime.cli.calibrate", ""),
    "supsup-inspect": ("supsup_runtime.cli.inspect", ""),
    "supsup-eval": ("supsup_runtime.cli.evaluate", ""),
    "supsup-hopfield": ("supsup_runtime.cli.hopfield", ""),
    "supsup-data": ("supsup_runtime.cli.data", ""),
    "supsup-export": ("supsup_export.cli", "export,cpu"),
    "supsup-train": ("supsup_train.cli.train", "train"),
    "supsup-baseline": ("supsup_train.cli.baseline", "train"),
}
"""Module of each command, and the extra that installs what it needs."""


def main() -> NoReturn:
    """Run the command by whose name this program was started."""
    name = PurePath(sys.argv[0]).stem
    module, extra = MODULES[name]

    def leave(*_signal: object) -> NoReturn:
        if sys.stderr is not None:
            sys.stderr.write(f"{name}: interrupted before it began\n")
        os._exit(130)  # an exception could get lost in the C code of an import

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not ignored, as in a shell's background
        signal.signal(signal.SIGINT, leave)
    try:
        command = import_module(module).run
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("supsup"):
            raise
        command = _refusing(f"{error.name} is not installed; pip install 'supsup[{extra}]'")
    finally:
        signal.signal(signal.SIGINT, usual)
    from supsup_runtime.console import run_command

    run_command(name, command)


def _refusing(message: str) -> Callable[[], NoReturn]:
    from supsup_runtime.errors import SupSupError

    def refuse() -> NoReturn:
        raise SupSupError(message)

    return refuse
