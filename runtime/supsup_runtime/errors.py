"""Errors and warnings of supsup, with the exit statuses of commands.

Messages name the place, the rule, what was expected and found, and any remedy.
"""

from __future__ import annotations

from typing import ClassVar


class SupSupError(Exception):
    """Base class; a command prints it as one line and exits with `exit_code`."""

    exit_code: ClassVar[int] = 1


class BankError(SupSupError, ValueError):
    """A mask bank or one of its files breaks the format (docs/FORMAT.md)."""

    exit_code = 3


class BankLockedError(SupSupError, RuntimeError):
    """Another process is writing to the bank, or its file system cannot lock files."""


class DataError(SupSupError, ValueError):
    """A data set or stream of tasks is invalid or unavailable."""


class FileError(SupSupError, OSError):
    """The system cannot read or write a file: no space, no permission, a broken disk."""


class InputError(SupSupError, ValueError):
    """An argument or input array has an invalid shape, type or value."""


class ModelError(SupSupError, ValueError):
    """The runtime cannot run a model file (docs/CONTRACT.md)."""


class OutputExistsError(SupSupError, FileExistsError):
    """The output exists and must not be replaced."""


class ParityError(SupSupError, RuntimeError):
    """An exported model and its bank compute different outputs."""

    exit_code = 4


class ProviderUnavailableError(SupSupError, RuntimeError):
    """ONNX Runtime or the requested execution provider is unavailable."""

    exit_code = 5


class CapacityWarning(UserWarning):
    """A Hopfield store holds more masks than it can return intact."""


def explained(error: ModuleNotFoundError, package: str, extra: str) -> ModuleNotFoundError:
    """Return what to raise where the import of `package` failed: which extra it needs."""
    if error.name is None or error.name.startswith("supsup"):  # a defect of ours
        return error
    name = error.name.partition(".")[0]
    text = f"{package} needs {name}, which is not installed; pip install 'supsup[{extra}]'"
    return ModuleNotFoundError(text, name=name)
