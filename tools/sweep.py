"""Compare settings of training: `python tools/sweep.py permuted --lr 1e-4 1e-3 --work sweep/`.

Every combination of --lr, --steps, --rule and --score-init learns, exports and evaluates the tasks
in a folder of its own, and adds a line to results.jsonl in the work folder. After an interruption,
the same command continues; so does one with other values. Further options are those of
supsup-train; --tasks also takes the first of own tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from supsup_export import export
from supsup_runtime import load
from supsup_runtime.console import (
    add_options,
    from_zero,
    positive,
    print_result,
    run_command,
    say,
    to_path,
    to_table,
)
from supsup_runtime.data.options import say_skipped
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation import evaluate
from supsup_train import Recipe, open_bank, train_stream
from supsup_train.cli.options import DEFAULTS, module_of, stream_of, take_defaults, use_threads
from supsup_train.cli.train import bank_options, nns_settings, recipe_of, training_parser
from supsup_train.reporting import reporting

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.reproduction.store import Line, Store, claim

AXES = ("learning_rate", "steps", "rule", "score_init")
"""Attributes of a recipe that differ between cells."""
_RULES = {
    "threshold": "--rule threshold",
    "top-k": "--rule top-k --density {}",
    "er": "--rule top-k --er {}",
}
_COLUMNS = {
    "known": "{:.4f}",
    "lowest": "{:.4f}",
    "inferred": "{:.4f}",
    "seconds": "{:.1f}",
    "density": "{:.3f}",
    "bytes": "{}",
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """What all cells share; `made_with` has arguments of `open_bank`."""

    folder: Path
    tasks: Tasks
    module: nn.Module
    made_with: dict[str, Any]
    per_task: int
    quiet: bool

    def measured(self, recipe: Recipe) -> Line:
        """Learn, export and evaluate a cell."""
        folder = self.folder / options_of(recipe).strip("-").replace(" --", "_").replace(" ", "-")
        folder.mkdir(exist_ok=True)
        bank = open_bank(folder / "masks", self.module, **self.made_with)
        with reporting(bank.path, None, recipe.steps, quiet=self.quiet) as reporter:
            report, bar = reporter.report, reporter.bar
            train_stream(bank, self.module, self.tasks, recipe=recipe, report=report, progress=bar)
        exported = export(bank, folder / "out.onnx", force=True)
        per_task = self.per_task if bank.network.superfluous_outputs else 0
        found = evaluate(load(exported.path), self.tasks, per_task=per_task)
        known = [row["known"] for row in found["tasks"]]
        images = [row["test_images"] for row in found["tasks"]]
        variance = sum(p * (1 - p) / n for p, n in zip(known, images, strict=True))
        log = (bank.path / "train.jsonl").read_text().splitlines()
        seconds = [json.loads(line)["seconds"] for line in log]  # a kill may lose a line
        return {
            "bytes": exported.model_bytes,
            "density": fmean(task.density(bank.network) for task in bank),
            "inferred": found["inferred"],
            "known": fmean(known),
            "lowest": min(known),
            "method": found["method"],
            "recipe": recipe.to_dict(),
            "seconds": fmean(seconds) if seconds else None,
            "standard_error": variance**0.5 / len(known),
        }


def main() -> None:
    """Run the command."""
    run_command("sweep", run)


def run(words: Sequence[str] | None = None) -> None:
    """Run the sweep of these arguments, by default those of the command line."""
    arguments, others = _parser().parse_known_args(words)
    cells = _cells(arguments, others)
    recipes = list(dict.fromkeys(map(recipe_of, cells)))
    sweep = _sweep(arguments, cells[0])
    store, lines, failed = Store(sweep.folder / "results.jsonl"), [], []
    for number, recipe in enumerate(recipes, start=1):
        options = options_of(recipe)
        say(f"{number} of {len(recipes)}: {options}")
        try:
            lines.append(store.measured(options, "all", partial(sweep.measured, recipe)))
        except InputError as error:  # such as of a learning rate that is too high
            failed.append(f"failed: {options}: {error}")
            say(failed[-1])
    say_skipped(sweep.tasks)
    if not lines:
        raise InputError(f"all {len(failed)} cells failed; the first {failed[0]}")
    best = recommended(lines)
    result = {"cells": lines, "failed": failed, "recommended": best}
    text = "\n".join([_table(lines), *failed, _advice(best)])
    print_result(result, as_json=arguments.json, text=text)


def recommended(lines: Sequence[Line]) -> Line:
    """Return the cheapest of the results within one standard error of the best.

    The cheapest has the fewest steps and, of these, the lowest density. The standard error is that
    of the best result's mean accuracy over the test images.
    """
    best = max(lines, key=lambda line: line["known"])
    least = best["known"] - best["standard_error"]
    near = [line for line in lines if line["known"] >= least]
    return min(near, key=lambda each: (each["recipe"]["steps"], each["density"], -each["known"]))


def options_of(recipe: Recipe) -> str:
    """Return the options of supsup-train for a cell."""
    rule = recipe.rule
    density = "--er" if rule.budget == "er" else "--density"
    words = ["--lr", recipe.learning_rate, "--steps", recipe.steps, "--rule", rule.kind]
    words += [density, rule.density] if rule.kind == "top-k" else []
    return " ".join(map(str, [*words, "--score-init", recipe.score_init]))


def _cells(arguments: argparse.Namespace, others: list[str]) -> list[argparse.Namespace]:
    """Return the arguments of supsup-train for each cell."""
    axes = [
        [f"--{name} {text}" for text in getattr(arguments, name.replace("-", "_"))]
        for name in ("lr", "steps", "score-init")
    ]
    axes.insert(2, [_rule(text) for text in arguments.rule])
    cells = []
    for options in product(*(axis or [""] for axis in axes)):
        words = " ".join(options).split()
        if "zeros" in words and "top-k" in words:
            continue
        made = training_parser()
        made.prog = "sweep"
        cell = made.parse_args([*others, *words])
        if cell.check or cell.bank or cell.log or cell.preset or nns_settings(cell):
            raise InputError(
                "sweep: has no --check, --bank, --log, --preset and NNs; leave them out"
            )
        take_defaults(cell, *DEFAULTS)
        cells.append(cell)
    if not cells:
        raise InputError(
            "--score-init: zeros go with --rule threshold alone, got top-k; add uniform"
        )
    return cells


def _rule(text: str) -> str:
    kind, _, number = text.partition(":")
    if kind not in _RULES or ("{}" in _RULES[kind]) != bool(number):
        raise InputError(f"--rule: must be threshold, top-k:DENSITY or er:X, got {text!r}")
    return _RULES[kind].format(number)


def _sweep(arguments: argparse.Namespace, cell: argparse.Namespace) -> Sweep:
    use_threads(cell.threads, own=cell.stream == "own")
    cell.tasks = arguments.tasks if cell.stream != "own" else None
    tasks = stream_of(cell, None)
    if isinstance(tasks, OwnTasks):
        first = slice(arguments.tasks)
        tasks = replace(tasks, task_names=tasks.task_names[first], parts=tasks.parts[first])
    made_with = bank_options(cell, tasks, None)
    recipe = recipe_of(cell).to_dict()
    setting = {name: value for name, value in recipe.items() if name not in AXES}
    setting |= {name: made_with[name] for name in ("masked", "real_outputs", "weight_seed")}
    setting |= {name: getattr(cell, name) for name in ("model", "module", "outputs")}
    setting["per_task"] = arguments.per_task
    setting["tasks"] = {name: tasks.origin(i) for i, name in enumerate(tasks.task_names)}
    claim(arguments.work, setting)
    module = module_of(cell, tasks, cell.outputs, seed=cell.weight_seed)
    return Sweep(arguments.work, tasks, module, made_with, arguments.per_task, cell.quiet)


def _table(lines: Sequence[Line]) -> str:
    def shown(line: Line) -> list[str]:
        values = [(line[key], form) for key, form in _COLUMNS.items()]
        return ["-" if value is None else form.format(value) for value, form in values]

    return to_table(("options", *_COLUMNS), [(line["key"], *shown(line)) for line in lines])


def _advice(best: Line) -> str:
    accuracy = f"{best['known']:.4f} +- {best['standard_error']:.4f}"
    return f"recommended, accuracy {accuracy}: {best['key']}"


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--work", type=to_path, required=True, metavar="FOLDER", help="keep banks and results here")
    add("--lr", nargs="+", default=[], metavar="X", help="learning rates")
    add("--steps", nargs="+", default=[], metavar="N", help="training batches per task")
    text = "threshold, top-k:DENSITY or er:X (--er X)"
    add("--rule", nargs="+", default=[], metavar="RULE", help=text)
    add("--score-init", nargs="+", default=[], metavar="KIND", help="uniform or zeros")
    text = "test images per task to infer the task of, with superfluous outputs; 0 skips inference"
    rows = [("--tasks", positive, None, "learn the first N tasks (default: 10; own: all)")]
    add_options(made, [*rows, ("--per-task", from_zero, 20, f"{text} (default: 20)")])
    add("--json", action="store_true", help="print JSON instead of a table")
    return made


if __name__ == "__main__":
    main()
