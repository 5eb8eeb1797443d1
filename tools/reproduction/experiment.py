"""The base of all experiments, and one run."""

from __future__ import annotations

import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from tools.reproduction.data import DataFolder
from tools.reproduction.learning import Bank, learned_bank
from tools.reproduction.store import Line, Store
from tools.reproduction.tables import Table, to_markdown

from supsup_runtime.bank.bank import MaskBank


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Settings of a run that change its times but no other number.

    Attributes:
        folder: Keeps banks, models and measurements.
        own: Existing banks, by key.
        threads: For learning (None: PyTorch's default) and for one call (None: 1).
        workers: Processes that learn; None learns in this one.
    """

    folder: Path
    data: DataFolder
    own: Mapping[str, Path]
    threads: int | None
    workers: str | None
    store: Store

    @property
    def call_threads(self) -> int:
        """Threads per call of a model."""
        return self.threads or 1

    def bank(self, key: str, wanted: Bank) -> MaskBank:
        """Return an existing bank, or learn it."""
        sys.stderr.write(f"bank {key}: {wanted.tasks} tasks of {wanted.stream}\n")
        folder, own = self.folder / "banks" / key, self.own.get(key)
        return learned_bank(
            wanted, folder, self.data, own=own, threads=self.threads, workers=self.workers
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(ABC):
    """A table or figure.

    Attributes:
        name: Used on the command line, for files and in the documentation.
        differs: Sentences on differences from the paper, seeds excepted.
        banks: Banks to learn, by key.
        seconds: Rough time on two cores.
        document: File in docs/ with its rows.
        options: Command-line numbers that apply.
    """

    name: str
    title: str
    differs: str = ""
    banks: Mapping[str, Bank] = field(default_factory=dict)
    seconds: int = 600
    document: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def setting(self) -> dict[str, Any]:
        """Return everything that affects numbers, as JSON values."""

    @abstractmethod
    def tiny(self) -> Self:
        """Return a trial of all steps in seconds, on bundled digits."""

    def altered(self, numbers: Mapping[str, int]) -> Self:  # noqa: ARG002 - for those with options
        """Return the experiment with other numbers."""
        return self

    @abstractmethod
    def measure(self, run: Run) -> list[Line]:
        """Learn, export and measure what is missing; return rows as JSON values.

        Raises:
            InputError: If a bank has another setting, or data are missing.
        """

    @abstractmethod
    def tables(self, rows: Sequence[Line]) -> list[Table]:
        """Return the rows as tables."""

    def notes(self, rows: Sequence[Line]) -> list[str]:  # noqa: ARG002 - for those that need them
        """Return sentences below the tables."""
        return [self.differs] if self.differs else []

    def block(self, result: Mapping[str, Any]) -> str:
        """Return the Markdown of a result."""
        rows = result["rows"]
        made = f"`{result['command']}` ([all numbers](results/{self.name}.json))"
        notes = textwrap.wrap(" ".join(self.notes(rows)), 140, break_on_hyphens=False)
        return "\n".join([to_markdown(self.tables(rows)), "", *notes, made])

    @abstractmethod
    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Write a picture; return a message. Equal rows give equal bytes."""
