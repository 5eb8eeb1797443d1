"""Starts the commands: by name, so that an interrupt or a missing package is one line.

Nothing is imported before an interrupt is looked for; `supsup_runtime` alone imports numpy.
"""

import os
import signal
import sys
from importlib import import_module
from typing import NoReturn


def bank() -> NoReturn:
    """Run supsup-bank."""
    _start("supsup-bank", "supsup_runtime.cli.bank")


def run() -> NoReturn:
    """Run supsup-run."""
    _start("supsup-run", "supsup_runtime.cli.run")


def calibrate() -> NoReturn:
    """Run supsup-calibrate."""
    _start("supsup-calibrate", "supsup_runtime.cli.calibrate")


def inspect() -> NoReturn:
    """Run supsup-inspect."""
    _start("supsup-inspect", "supsup_runtime.cli.inspect")


def evaluate() -> NoReturn:
    """Run supsup-eval."""
    _start("supsup-eval", "supsup_runtime.cli.evaluate")


def hopfield() -> NoReturn:
    """Run supsup-hopfield."""
    _start("supsup-hopfield", "supsup_runtime.cli.hopfield")


def export() -> NoReturn:
    """Run supsup-export."""
    _start("supsup-export", "supsup_export.cli", "export,cpu")


def train() -> NoReturn:
    """Run supsup-train."""
    _start("supsup-train", "supsup_train.cli.train", "train")


def baseline() -> NoReturn:
    """Run supsup-baseline."""
    _start("supsup-baseline", "supsup_train.cli.baseline", "train")


def _start(name: str, module: str, extra: str = "") -> NoReturn:
    def leave(*_signal: object) -> NoReturn:
        _say(f"{name}: interrupted before it began")
        os._exit(130)  # C code that imports may swallow an exception

    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:  # not ignored, as in a shell's background
        signal.signal(signal.SIGINT, leave)
    try:
        main = import_module(module).main
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("supsup"):
            raise
        _say(f"{name}: {error.name} is not installed; pip install 'supsup[{extra}]'")
        sys.exit(1)
    finally:
        signal.signal(signal.SIGINT, usual)
    main()
    sys.exit(0)


def _say(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(line + "\n")
