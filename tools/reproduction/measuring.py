"""Measure every task of a bank through its exported model."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tools.reproduction.experiment import Run
from tools.reproduction.store import Line

from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import Tasks
from supsup_runtime.evaluation import evaluate_task, evaluate_unnamed
from supsup_runtime.model.inference import Inference
from supsup_runtime.model.model import Model, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table: one method of inference on every task of some banks.

    Attributes:
        banks: Keys in `Experiment.banks`; several are seeds, whose mean is reported.
        images: Test images per task; 0 measures known tasks only.
        batch: Images inferred together.
        reference: The authors' figure; empty for none.
        at_least: Bars in percent by measure: ``known`` (GG), ``unknown`` (GNu), ``shared`` (GNs),
            ``inferred`` or ``near``.
    """

    label: str
    banks: tuple[str, ...]
    objective: Literal["entropy", "superfluous"]
    how: Inference
    images: int = 100
    batch: int = 1
    reference: str = ""
    at_least: tuple[tuple[str, float], ...] = ()


def _content(bank: MaskBank) -> str:
    return hashlib.sha256((bank.path / "bank.json").read_bytes()).hexdigest()


def measuring_key(row: Row, bank: MaskBank, *, threads: int = 1) -> str:
    """Return a digest of all that affects a row's numbers and times."""
    how = {k: v for k, v in asdict(row.how).items() if v is not None}
    parts = [_content(bank), row.objective, how, row.images, row.batch]
    if threads != 1:
        parts.append(threads)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def exported_model(bank: MaskBank, folder: Path, key: str, objective: str) -> Path:
    """Return a bank's model, exported if `folder` lacks it."""
    path = folder / f"{key}-{objective}-{_content(bank)[:12]}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sys.stderr.write(f"exporting {path.name}\n")
        export(bank, path, request=Request(objective=objective))
    return path


def measure(
    row: Row, bank: MaskBank, model_path: Path, stream: Tasks, run: Run, *, unnamed: bool
) -> list[Line]:
    """Return a line per task, from the run's store or measured now.

    With `unnamed`, masks are not named after tasks (NNs).
    """
    key = measuring_key(row, bank, threads=run.call_threads)
    evaluate = evaluate_unnamed if unnamed else evaluate_task
    model: Model | None = None

    def line(index: int) -> Line:
        nonlocal model
        model = model or load(model_path, threads=run.call_threads)
        data = stream.task(index, train=False)
        return evaluate(model, data, per_task=row.images, batch_size=row.batch, method=row.how)

    sys.stderr.write(f"{row.label}: {stream.num_tasks} tasks\n")
    names = enumerate(stream.task_names)
    return [run.store.measured(key, name, partial(line, index)) for index, name in names]
