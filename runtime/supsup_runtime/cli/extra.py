"""The commands whose packages need an extra, and what they say without it."""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

from supsup_runtime.console import run_command
from supsup_runtime.errors import SupSupError


def export() -> NoReturn:
    """Run supsup-export."""
    _run("supsup-export", "supsup_export.cli", "export,cpu")


def train() -> NoReturn:
    """Run supsup-train."""
    _run("supsup-train", "supsup_train.cli.train", "train")


def baseline() -> NoReturn:
    """Run supsup-baseline."""
    _run("supsup-baseline", "supsup_train.cli.baseline", "train")


def _run(name: str, module: str, extra: str) -> NoReturn:
    """Import the command by name: the runtime depends on neither package."""

    def command() -> None:
        try:
            main = import_module(module).main
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("supsup"):
                raise
            raise SupSupError(
                f"{error.name} is not installed; pip install 'supsup[{extra}]'"
            ) from error
        main()

    run_command(name, command)
