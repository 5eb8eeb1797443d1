"""Experiments that measure accuracy: banks, and rows of a table measured through their models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from tools.reproduction.experiment import Experiment, Run
from tools.reproduction.learning import stream_of, tiny_bank
from tools.reproduction.measuring import Row, exported_model, measure
from tools.reproduction.plot import plot_rows
from tools.reproduction.store import Line
from tools.reproduction.summary import COLUMNS, measures_of, row_summary
from tools.reproduction.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy(Experiment):
    """Ways to infer the task, measured on every task of some banks.

    Attributes:
        rows: What is measured.
        figure: ``rows``: a group of bars a row. ``tasks``: a line a row, over the tasks.
    """

    rows: tuple[Row, ...]
    figure: Literal["rows", "tasks"] = "rows"
    document: ClassVar[str] = "REPRODUCIBILITY.md"
    options: ClassVar[tuple[str, ...]] = ("tasks", "per_task")

    def setting(self) -> dict[str, Any]:
        """Banks and rows."""
        told = ("label", "reference", "at_least")
        rows = [{k: v for k, v in asdict(row).items() if k not in told} for row in self.rows]
        return {"banks": {key: asdict(bank) for key, bank in self.banks.items()}, "rows": rows}

    def tiny(self) -> Accuracy:
        """Few tasks and batches, one seed."""
        banks = {key: tiny_bank(bank) for key, bank in self.banks.items()}
        # banks that become equal are learned once, under the first one's key
        key_of = {key: list(banks)[list(banks.values()).index(bank)] for key, bank in banks.items()}
        small: dict[str, Any] = {"images": 4, "at_least": ()}
        rows = tuple(
            replace(row, banks=(key_of[row.banks[0]],), batch=min(row.batch, 2), **small)
            for row in self.rows
        )
        used = {key for row in rows for key in row.banks}
        return replace(self, banks={k: bank for k, bank in banks.items() if k in used}, rows=rows)

    def altered(self, numbers: Mapping[str, int]) -> Accuracy:
        """Another number of tasks in every bank, or of images a task in every row."""
        banks, rows = self.banks, self.rows
        if "tasks" in numbers:
            banks = {key: replace(b, tasks=numbers["tasks"]) for key, b in banks.items()}
        if "per_task" in numbers:
            rows = tuple(replace(row, images=numbers["per_task"]) for row in rows)
        return replace(self, banks=banks, rows=rows)

    def measure(self, run: Run) -> list[Line]:
        """A line a row: means over its tasks and banks."""
        banks = {key: run.bank(key, wanted) for key, wanted in self.banks.items()}
        rows = []
        for row in self.rows:
            by_bank = {}
            for key in row.banks:
                wanted, bank = self.banks[key], banks[key]
                model = exported_model(bank, run.folder / "models", key, row.objective)
                stream, unnamed = stream_of(wanted, run.data), wanted.scenario == "NNs"
                by_bank[key] = measure(row, bank, model, stream, run, unnamed=unnamed)
            rows.append(row_summary(row, by_bank, len(banks[row.banks[0]])))
        return rows

    def tables(self, rows: Sequence[Line]) -> list[Table]:
        """One table; percentages, with standard errors where they are of samples."""
        measures = measures_of(rows)
        header = ["what", "paper or reference", *(f"{COLUMNS[m]}, %" for m in measures)]
        header += ["ms", "seeds", "images a task"]
        cells = []
        for row, described in zip(rows, self.rows, strict=True):
            seeds = len(described.banks)
            count = row["images"] // (row["num_tasks"] * seeds)
            made = [row["label"], described.reference, *(_percent(row, m) for m in measures)]
            made += ["-" if row["unknown_ms"] is None else f"{row['unknown_ms']:.2f}"]
            cells.append([*made, str(seeds), str(count or "-")])
        return [Table(header=header, rows=cells)]

    def notes(self, rows: Sequence[Line]) -> list[str]:
        """How it differs, what was asked for, and how many masks NNs allocated."""
        asked = [
            f"{row['label']}: {COLUMNS[measure]} at least {value['at_least']:g}, "
            f"{'met' if value['met'] else '**not met**'}"
            for row in rows
            for measure, value in row["asked"].items()
        ]
        allocated = [
            f"{row['masks']} masks allocated for {row['num_tasks']} tasks"
            for row, described in zip(rows, self.rows, strict=True)
            if self.banks[described.banks[0]].scenario == "NNs"
        ]
        made = [f"Differs: {self.differs}"]
        made += ["Asked for: " + "; ".join(asked) + "."] if asked else []
        return made + (["; ".join(allocated) + "."] if allocated else [])

    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Bars a row, or lines over the tasks."""
        return plot_rows(self.title, self.figure, rows, file)


def _percent(row: Mapping[str, Any], measure: str) -> str:
    if measure not in row:
        return "-"
    error = row.get(f"{measure}_se")
    plus = f" ± {100 * error:.2f}" if error else ""  # none of all right or all wrong
    return f"{100 * row[measure]:.2f}{plus}"
