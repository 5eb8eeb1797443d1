"""Errors that supsup raises, each with the exit status of a command, and one warning.

Messages name the place, the rule, what was expected, what was found and, if there is one, the
remedy.
"""

from __future__ import annotations

from typing import ClassVar


class SupSupError(Exception):
    """Base class of all errors; a command prints one line and exits with `exit_code`."""

    exit_code: ClassVar[int] = 1


class BankError(SupSupError, ValueError):
    """A mask bank or one of its files breaks the format (docs/FORMAT.md)."""

    exit_code = 3


class BankLockedError(SupSupError, RuntimeError):
    """Another process is writing to the bank."""


class DataError(SupSupError, ValueError):
    """A data set or stream of tasks cannot be made from the given files or arguments."""


class InputError(SupSupError, ValueError):
    """An argument or input array has an invalid shape, type or value."""


class ModelError(SupSupError, ValueError):
    """This runtime cannot run the model file (docs/CONTRACT.md)."""


class OutputExistsError(SupSupError, FileExistsError):
    """The output exists and must not be replaced."""


class ParityError(SupSupError, RuntimeError):
    """An exported model and its bank compute different outputs."""

    exit_code = 4


class ProviderUnavailableError(SupSupError, RuntimeError):
    """ONNX Runtime or the requested execution provider is not available."""

    exit_code = 5


class CapacityWarning(UserWarning):
    """A Hopfield store holds more masks than it can return without bit errors."""
