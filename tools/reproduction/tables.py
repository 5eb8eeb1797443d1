"""Tables for a terminal and for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from supsup_runtime.console import to_table
from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text.

    Attributes:
        title: Line above the table; empty for none.
        header: Names of columns.
        rows: One cell per column.
    """

    title: str = ""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def compact(title: str, columns: Mapping[str, Sequence[str]], *in_title: str) -> Table:
    """Make a table without empty columns; uniform columns of `in_title` move to the title."""
    full = {name: cells for name, cells in columns.items() if not set(cells) <= {"", "-"}}
    moved = [name for name in in_title if name in full and len(set(full[name])) == 1]
    told = [f"{name} {full.pop(name)[0]}" for name in moved]
    title += f"; {', '.join(told)}" if told else ""
    rows = [list(row) for row in zip(*full.values(), strict=True)]
    return Table(title=title, header=list(full), rows=rows)


def once(cells: Sequence[str]) -> list[str]:
    """Blank cells that repeat the one above."""
    return ["" if above == cell else cell for above, cell in pairwise(["", *cells])]


def to_text(tables: Sequence[Table]) -> str:
    """Format tables for a terminal."""
    made = [to_table(table.header, table.rows) for table in tables]
    titles = [f"{table.title}\n" if table.title else "" for table in tables]
    return "\n\n".join(title + text for title, text in zip(titles, made, strict=True))


def to_markdown(tables: Sequence[Table]) -> str:
    """Format tables for the documentation."""
    parts = []
    for table in tables:
        lines = [f"{table.title}:", ""] if table.title else []
        lines += [_row(table.header), "|" + "---|" * len(table.header), *map(_row, table.rows)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def record(file: Path, name: str, text: str) -> None:
    """Replace what is between the comments ``<!-- name -->`` and ``<!-- /name -->`` in `file`.

    Raises:
        InputError: If the file lacks one of the comments.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    found = file.read_text() if file.is_file() else ""
    before, opened, rest = found.partition(first)
    _, closed, after = rest.partition(last)
    if not (opened and closed):
        raise InputError(
            f"{file}: must have the line {first}, and after it {last}, once each; add them where "
            "the rows belong"
        )
    write_whole(file, f"{before}{first}\n{text}\n{last}{after}".encode())
