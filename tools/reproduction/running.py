"""One experiment from nothing, or from where it stopped, to its files."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.reproduction.budget import Budget
from tools.reproduction.data import DataFolder
from tools.reproduction.experiment import Bank, Experiment
from tools.reproduction.learning import learned_bank, stream_of
from tools.reproduction.measuring import exported_model, measure
from tools.reproduction.store import Store, claim
from tools.reproduction.summary import row_summary

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError

__all__ = ["Run", "carry_out"]

VERSIONED = ("numpy", "onnx", "onnxruntime", "supsup", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How an experiment is run, which its numbers do not depend on, times aside.

    Attributes:
        folder: Of banks, models and measurements; they are kept.
        data: Where the data lie.
        own: Banks that exist, by key.
        threads: Of learning (None: PyTorch's default) and of one call (1).
        budget: When to stop.
        command: As it is written in the documentation.
        overrides: What of the experiment was changed, by option.
    """

    folder: Path
    data: DataFolder
    own: Mapping[str, Path]
    threads: int | None
    budget: Budget
    command: str
    overrides: Mapping[str, Any]


def carry_out(experiment: Experiment, run: Run) -> dict[str, Any]:
    """Learn, export, measure; each step only as far as it has not been done.

    Returns:
        The result, as JSON values.

    Raises:
        InputError: If the folder or a bank is of another setting, or data are missing.
        OutOfTimeError: If the budget is spent first.
    """
    unknown = sorted(set(run.own) - set(experiment.banks))
    if unknown:
        raise InputError(
            f"--bank: {experiment.name} has the banks {', '.join(experiment.banks)}, got "
            f"{unknown[0]!r}"
        )
    claim(run.folder, experiment.setting())
    store = Store(run.folder / "rows.jsonl")
    banks = {key: _bank(key, bank, run) for key, bank in experiment.banks.items()}
    rows = []
    for row in experiment.rows:
        by_bank = {}
        for key in row.banks:
            wanted, bank = experiment.banks[key], banks[key]
            by_bank[key] = measure(
                row,
                bank,
                exported_model(bank, run.folder / "models", key, row.objective),
                stream_of(wanted, run.data),
                store,
                run.budget,
                threads=run.threads or 1,
                unnamed=wanted.scenario == "NNs",
            )
        rows.append(row_summary(row, by_bank, len(banks[row.banks[0]])))
    return {
        "command": run.command,
        "differs": experiment.differs,
        "experiment": experiment.name,
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine()},
        "overrides": dict(run.overrides),
        "references": [row.reference for row in experiment.rows],
        "rows": rows,
        "setting": experiment.setting(),
        "threads": run.threads or 1,
        "title": experiment.title,
        "versions": {name: _version(name) for name in VERSIONED},
    }


def _bank(key: str, wanted: Bank, run: Run) -> MaskBank:
    sys.stderr.write(f"bank {key}: {wanted.tasks} tasks of {wanted.stream}\n")
    return learned_bank(
        wanted,
        run.folder / "banks" / key,
        run.data,
        run.budget,
        own=run.own.get(key),
        threads=run.threads,
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
