"""Every error that supsup raises on purpose, with the exit status its commands answer; one warning.

A message names the place, the rule, what was expected, what came and, where there is one,
the remedy.
"""

from __future__ import annotations

from typing import ClassVar


class SupSupError(Exception):
    """Base class; a command prints it as one line and exits with `exit_code`."""

    exit_code: ClassVar[int] = 1


class BankError(SupSupError, ValueError):
    """A mask bank, or one file of it, breaks a rule of the format (docs/FORMAT.md)."""

    exit_code = 3


class BankLockedError(SupSupError, RuntimeError):
    """Another process is writing to the bank."""


class DataError(SupSupError, ValueError):
    """A data set or a stream of tasks cannot be made from what was given."""


class InputError(SupSupError, ValueError):
    """An argument or an input array breaks its stated shape, type or range."""


class ModelError(SupSupError, ValueError):
    """A model file is not one that this runtime can run (docs/CONTRACT.md)."""


class OutputExistsError(SupSupError, FileExistsError):
    """The output is there already and was not to be replaced."""


class ParityError(SupSupError, RuntimeError):
    """An exported model does not compute what its bank says."""

    exit_code = 4


class ProviderUnavailableError(SupSupError, RuntimeError):
    """The execution provider asked for is not there, or ONNX Runtime itself is not."""

    exit_code = 5


class CapacityWarning(UserWarning):
    """A Hopfield store holds more masks than it can give back whole; no error, never silent."""
