"""What all experiments of the catalogue have, and what a run of one has."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tools.reproduction.data import DataFolder
from tools.reproduction.learning import Bank, learned_bank
from tools.reproduction.store import Line, Store
from tools.reproduction.tables import Table

from supsup_runtime.bank.bank import MaskBank


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How an experiment is run, which its numbers do not depend on, times aside.

    Attributes:
        folder: Of banks, models and measurements; they are kept.
        data: Where the data lie.
        own: Banks that exist, by key.
        threads: Of learning (None: PyTorch's default) and of one call (1).
        store: Measurements of the folder.
    """

    folder: Path
    data: DataFolder
    own: Mapping[str, Path]
    threads: int | None
    store: Store

    @property
    def call_threads(self) -> int:
        """Threads of one call of a model."""
        return self.threads or 1

    def bank(self, key: str, wanted: Bank) -> MaskBank:
        """The bank of this key: one that exists, or learned now."""
        sys.stderr.write(f"bank {key}: {wanted.tasks} tasks of {wanted.stream}\n")
        return learned_bank(
            wanted,
            self.folder / "banks" / key,
            self.data,
            own=self.own.get(key),
            threads=self.threads,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(ABC):
    """A table or figure.

    Attributes:
        name: On the command line, of its files, and of its place in the documentation.
        title: One line.
        differs: How it differs from what it reproduces; one sentence or more.
        banks: What is learned, by key.
        seconds: Rough time from nothing on two cores, for `--list`.
        document: File in docs/ that has its rows.
        options: Numbers of the command line that change it.
    """

    name: str
    title: str
    differs: str
    banks: Mapping[str, Bank] = field(default_factory=dict)
    seconds: int = 600
    document: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def setting(self) -> dict[str, Any]:
        """All that numbers depend on, as JSON values; not what is only said of them."""

    @abstractmethod
    def tiny(self) -> Self:
        """The same steps in seconds, on the bundled digits; numbers mean nothing."""

    def altered(self, numbers: Mapping[str, int]) -> Self:  # noqa: ARG002 - for those that have some
        """The experiment with other numbers, by name in `options`."""
        return self

    @abstractmethod
    def measure(self, run: Run) -> list[Line]:
        """Learn, export, measure; each step only as far as it has not been done.

        Returns:
            Rows, as JSON values.

        Raises:
            InputError: If a bank is of another setting, or data are missing.
        """

    @abstractmethod
    def tables(self, rows: Sequence[Line]) -> list[Table]:
        """The rows as tables."""

    def notes(self, rows: Sequence[Line]) -> list[str]:  # noqa: ARG002 - for those that need them
        """Paragraphs below the tables in the documentation."""
        return [f"Differs: {self.differs}"]

    @abstractmethod
    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Write a picture; equal rows give equal bytes.

        Returns:
            What was written, or that matplotlib is missing.
        """
