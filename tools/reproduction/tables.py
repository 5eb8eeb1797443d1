"""Tables of results: for a terminal, and in an experiment's own place in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supsup_runtime.console import to_table
from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text.

    Attributes:
        title: A line above the table; empty for none.
        header: Names of the columns.
        rows: As many cells each as the header has.
    """

    title: str = ""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def to_text(tables: Sequence[Table]) -> str:
    """Tables for a terminal."""
    made = [to_table(table.header, table.rows) for table in tables]
    titles = [f"{table.title}\n" if table.title else "" for table in tables]
    return "\n\n".join(title + text for title, text in zip(titles, made, strict=True))


def to_markdown(tables: Sequence[Table]) -> str:
    """Tables for the documentation."""
    parts = []
    for table in tables:
        lines = [f"{table.title}:", ""] if table.title else []
        lines += [_row(table.header), "|" + "---|" * len(table.header), *map(_row, table.rows)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def record(file: Path, name: str, text: str) -> None:
    """Put `text` between the two comments of an experiment; all else in the file stays as it is.

    Raises:
        InputError: If the file has no place for it.
    """
    first, last = f"<!-- reproduce:{name} -->", f"<!-- /reproduce:{name} -->"
    found = file.read_text() if file.is_file() else ""
    before, opened, rest = found.partition(first)
    _, closed, after = rest.partition(last)
    if not (opened and closed):
        raise InputError(
            f"{file}: must have the line {first}, and after it {last}, once each; put them where "
            "the rows are to go"
        )
    write_whole(file, f"{before}{first}\n{text}\n{last}{after}".encode())
