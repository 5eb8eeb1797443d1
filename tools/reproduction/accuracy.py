"""Experiments that measure accuracy through exported models."""

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
from tools.reproduction.tables import Table, compact, once


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy(Experiment):
    """Methods of inference, measured on every task of some banks.

    Attributes:
        rows: Rows of the table.
        figure: ``rows``: a group of bars per row. ``tasks``: a line per row, over the tasks.
    """

    rows: tuple[Row, ...]
    figure: Literal["rows", "tasks"] = "rows"
    document: ClassVar[str] = "REPRODUCIBILITY.md"
    options: ClassVar[tuple[str, ...]] = ("tasks", "per_task")

    def setting(self) -> dict[str, Any]:
        """Return banks and rows, without texts and bars."""
        told = ("label", "reference", "at_least")
        rows = [{k: v for k, v in asdict(row).items() if k not in told} for row in self.rows]
        return {"banks": {key: asdict(bank) for key, bank in self.banks.items()}, "rows": rows}

    def tiny(self) -> Accuracy:
        """Use few tasks and batches, and one seed."""
        banks = {key: tiny_bank(bank) for key, bank in self.banks.items()}
        # equal banks are learned once, under the first key
        key_of = {key: list(banks)[list(banks.values()).index(bank)] for key, bank in banks.items()}
        small: dict[str, Any] = {"images": 4, "at_least": ()}
        rows = tuple(
            replace(row, banks=(key_of[row.banks[0]],), batch=min(row.batch, 2), **small)
            for row in self.rows
        )
        used = {key for row in rows for key in row.banks}
        return replace(self, banks={k: bank for k, bank in banks.items() if k in used}, rows=rows)

    def altered(self, numbers: Mapping[str, int]) -> Accuracy:
        """Change the tasks in every bank, or the images per task."""
        banks, rows = self.banks, self.rows
        if "tasks" in numbers:
            banks = {key: replace(b, tasks=numbers["tasks"]) for key, b in banks.items()}
        if "per_task" in numbers:
            rows = tuple(replace(row, images=numbers["per_task"]) for row in rows)
        return replace(self, banks=banks, rows=rows)

    def measure(self, run: Run) -> list[Line]:
        """Return means over tasks and banks for each row."""
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
        """Return one table, samples with standard errors."""
        labels = [row["label"].rpartition(": ") for row in rows]
        settings = [label[0] for label in labels]
        if "" in settings or len(set(settings)) == 1:
            columns = {"method": ["".join(label) for label in labels]}
        else:
            columns = {"setting": once(settings), "method": [label[2] for label in labels]}
        seeds = [len(described.banks) for described in self.rows]
        images = [r["images"] // (r["num_tasks"] * n) for r, n in zip(rows, seeds, strict=True)]
        columns["authors' figure"] = [described.reference for described in self.rows]
        columns |= {COLUMNS[m]: [_percent(row, m) for row in rows] for m in measures_of(rows)}
        if "setting" in columns and COLUMNS["known"] in columns:
            columns[COLUMNS["known"]] = once(columns[COLUMNS["known"]])
        times = [row["unknown_ms"] for row in rows]
        columns["ms"] = ["-" if time is None else f"{time:.2f}" for time in times]
        columns["seeds"] = [str(number) for number in seeds]
        columns["images per task"] = [str(number or "-") for number in images]
        in_title = (COLUMNS["known"], "seeds", "images per task")
        return [compact("In percent", columns, *in_title)]

    def notes(self, rows: Sequence[Line]) -> list[str]:
        """Add bars, and the masks that NNs allocated."""
        allocated = [
            f"{row['masks']} masks allocated for {row['num_tasks']} tasks."
            for row, described in zip(rows, self.rows, strict=True)
            if self.banks[described.banks[0]].scenario == "NNs"
        ]
        return [*Experiment.notes(self, rows), *_bars(rows), *allocated]

    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Draw rows as bars, or as lines over tasks."""
        return plot_rows(self.title, self.figure, rows, file)


def _bars(rows: Sequence[Line]) -> list[str]:
    """Return a sentence with each bar, its methods, and those that miss it."""
    bars: dict[tuple[str, float], list[Line]] = {}
    for row in rows:
        for name in COLUMNS:
            if name in row["asked"]:
                bars.setdefault((name, row["asked"][name]["at_least"]), []).append(row)
    told = []
    for (name, percent), own in bars.items():
        methods = dict.fromkeys(row["label"].rpartition(": ")[2] for row in own)
        missing = [row["label"] for row in own if not row["asked"][name]["met"]]
        missed = [label.rpartition(": ")[0] or label for label in missing]
        where = "in all rows" if len(own) == len(rows) > 1 else f"for {' and '.join(methods)}"
        verdict = f"**not met** by {' and '.join(missed)}" if missed else "met"
        told.append(f"{COLUMNS[name]} at least {percent:g} {where} ({verdict})")
    return [f"Bars: {'; '.join(told)}."] if told else []


def _percent(row: Mapping[str, Any], measure: str) -> str:
    if measure not in row:
        return "-"
    error = row.get(f"{measure}_se")
    plus = f"±{100 * error:.2f}" if error else ""
    return f"{100 * row[measure]:.2f}{plus}"
