"""What a campaign found, for a terminal and for docs/RELIABILITY.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tools.reproduction.tables import Table, record, to_markdown

from fuzz.campaign import Counts
from fuzz.target import STAGES
from supsup_runtime.console import to_table

KINDS = ("answer", "refused", "foreign", "wrong", "hang", "died", "memory", "endless")
_HEADER = ("target", "cases", *STAGES, *KINDS, "peak MiB")


def to_text(found: Mapping[str, Counts], seed: int) -> str:
    """Counts, then findings, the most frequent first, each with a command that shows it."""
    lines = [to_table(_HEADER, rows(found)), ""]
    causes = [
        (count, name, cause, numbers, detail)
        for name, counts in found.items()
        for cause, (count, numbers, detail) in counts.findings.items()
    ]
    for count, name, cause, numbers, detail in sorted(causes, reverse=True):
        lines.append(f"{count:6} {name}: {cause}  [python -m fuzz show {name} {seed} {numbers[0]}]")
        lines.append(f"       {' '.join(detail.split())[:200]}")
    return "\n".join(lines)


def rows(found: Mapping[str, Counts]) -> list[list[object]]:
    """One row per target, and their sum."""
    total = Counts()
    for counts in found.values():
        total.join(counts)
    return [_row(name, counts) for name, counts in [*found.items(), ("all", total)]]


def _row(name: str, counts: Counts) -> list[object]:
    shares = [f"{counts.stages[stage] / max(1, counts.cases):.0%}" for stage in STAGES]
    return [name, counts.cases, *shares, *(counts.kinds[kind] for kind in KINDS), counts.peak >> 20]


def write_table(page: Path, found: Mapping[str, Counts], seed: int) -> None:
    """Replace the table between the markers ``fuzz`` of a page."""
    cells = [
        [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows(found)
    ]
    total = sum(counts.cases for counts in found.values())
    title = f"`make fuzz N={total}`, seed {seed}"
    record(page, "fuzz", to_markdown([Table(title=title, header=_HEADER, rows=cells)]))
