"""An experiment's own rows in docs/REPRODUCIBILITY.md, between two comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.reproduction.experiment import Experiment
from tools.reproduction.summary import COLUMNS, MEASURES, cells

from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole

__all__ = ["record", "to_markdown"]


def to_markdown(experiment: Experiment, result: Mapping[str, Any]) -> str:
    """The rows as a table, and beneath it what differs and how they were made."""
    rows: Sequence[Mapping[str, Any]] = result["rows"]
    measures = [m for m in MEASURES if any(m in row for row in rows)]
    header = ["what", "paper or reference", *(f"{COLUMNS[m]}, %" for m in measures)]
    header += ["ms", "seeds", "images a task"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row, described in zip(rows, experiment.rows, strict=True):
        seeds = len(described.banks)
        count = row["images"] // (row["num_tasks"] * seeds)
        made = [row["label"], described.reference, *cells(row, measures)]
        made += ["-" if row["unknown_ms"] is None else f"{row['unknown_ms']:.2f}"]
        made += [str(seeds), str(count or "-")]
        lines.append("| " + " | ".join(made) + " |")
    asked = [
        f"{row['label']}: {COLUMNS[measure]} at least {value['at_least']:g}, "
        f"{'met' if value['met'] else '**not met**'}"
        for row in rows
        for measure, value in row["asked"].items()
    ]
    lines += ["", f"Differs: {experiment.differs}"]
    if asked:
        lines += ["", "Asked for: " + "; ".join(asked) + "."]
    found = [
        f"{row['masks']} masks allocated for {row['num_tasks']} tasks"
        for row, described in zip(rows, experiment.rows, strict=True)
        if experiment.banks[described.banks[0]].scenario == "NNs"
    ]
    if found:
        lines += ["", "; ".join(found) + "."]
    numbers = f"[{experiment.name}.json](results/{experiment.name}.json)"
    lines += ["", f"`{result['command']}`; all numbers: {numbers}."]
    return "\n".join(lines)


def record(file: Path, experiment: Experiment, result: Mapping[str, Any]) -> None:
    """Put the rows in their place; all else in the file stays as it is.

    Raises:
        InputError: If the file has no place for them.
    """
    first, last = f"<!-- reproduce:{experiment.name} -->", f"<!-- /reproduce:{experiment.name} -->"
    text = file.read_text() if file.is_file() else ""
    before, opened, rest = text.partition(first)
    _, closed, after = rest.partition(last)
    if not (opened and closed):
        raise InputError(
            f"{file}: must have the line {first}, and after it {last}, once each; put them where "
            "the rows are to go"
        )
    made = f"{before}{first}\n{to_markdown(experiment, result)}\n{last}{after}"
    write_whole(file, made.encode())
