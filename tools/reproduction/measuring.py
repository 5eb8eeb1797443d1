"""Every task of a bank measured through its exported model, each result kept as it is made."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tools.reproduction.budget import Budget
from tools.reproduction.experiment import Row
from tools.reproduction.store import Store

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.streams import Stream
from supsup_runtime.evaluation import evaluate_task, evaluate_unnamed
from supsup_runtime.model.model import Model, load

__all__ = ["exported_model", "measure", "measuring_key"]

Line = dict[str, Any]


def _content(bank: MaskBank) -> str:
    """A bank's content: its index holds the digests of all its files."""
    return hashlib.sha256((bank.path / "bank.json").read_bytes()).hexdigest()


def measuring_key(row: Row, bank: MaskBank, *, threads: int = 1) -> str:
    """What one row's numbers on one bank depend on, and nothing else; times on the threads."""
    how = {k: v for k, v in asdict(row.how).items() if v is not None}
    parts = [_content(bank), row.objective, how, row.images, row.batch]
    if threads != 1:
        parts.append(threads)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def exported_model(bank: MaskBank, folder: Path, key: str, objective: str) -> Path:
    """The model of a bank, exported and checked unless its folder has it already."""
    path = folder / f"{key}-{objective}-{_content(bank)[:12]}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sys.stderr.write(f"exporting {path.name}\n")
        export(bank, path, request=Request(objective=objective))
    return path


def measure(
    row: Row,
    bank: MaskBank,
    model_path: Path,
    stream: Stream,
    store: Store,
    budget: Budget,
    *,
    threads: int,
    unnamed: bool,
) -> list[Line]:
    """One line a task, from the store or measured now.

    Args:
        row: How to infer.
        bank: What the model was made from.
        model_path: The model.
        stream: The tasks.
        store: Gets each line.
        budget: Checked between tasks.
        threads: Of one call.
        unnamed: The masks are not named after the tasks (NNs).

    Raises:
        OutOfTimeError: If the budget is spent first.
    """
    key = measuring_key(row, bank, threads=threads)
    lines: list[Line] = []
    model: Model | None = None
    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bars:
        bar = bars.add_task(row.label, total=stream.num_tasks)
        for index, name in enumerate(stream.task_names):
            line = store.get(key, name)
            if line is None:
                budget.check()
                model = model or load(model_path, threads=threads)
                evaluate = evaluate_unnamed if unnamed else evaluate_task
                data = stream.task(index, train=False)
                line = evaluate(
                    model, data, per_task=row.images, batch_size=row.batch, method=row.how
                )
                store.add(key, line)
            lines.append(line)
            bars.advance(bar)
    if not console.is_terminal:
        console.print(f"{row.label}: {len(lines)} tasks measured", highlight=False, soft_wrap=True)
    return lines
