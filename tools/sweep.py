"""Compare settings: `python tools/sweep.py permuted --set lr=1e-4,1e-3 --work sweep/`.

Every combination of the values of --set, options of supsup-train by name, learns, exports and
evaluates the tasks in a folder of its own, and adds a line to results.jsonl in the work folder.
After an interruption, the same command continues; so does one with other values. Further options
are those of supsup-train; --tasks also takes the first of own tasks.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

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
from supsup_train import open_bank
from supsup_train.cli.options import DEFAULTS, module_of, stream_of, take_defaults, use_threads
from supsup_train.cli.train import (
    bank_options,
    learn_tasks,
    nns_settings,
    recipe_of,
    training_parser,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.reproduction.store import Line, Store, claim

_COLUMNS = ("known", "lowest", "inferred", "seconds", "density", "bytes")
_FREE = {"_given", "data", "tasks", "threads", "workers", "cluster", "quiet"}
"""Attributes of a combination that may differ in a work folder; the tasks' data count instead."""


def main() -> None:
    """Run the command."""
    run_command("sweep", run)


def run(words: Sequence[str] | None = None) -> None:
    """Run the sweep of these arguments, by default those of the command line."""
    arguments, others = _parser().parse_known_args(words)
    cells, failed = _cells(arguments, others)
    if cells:
        claim(arguments.work, _setting(arguments, next(iter(cells.values()))))
    store, lines = Store(arguments.work / "results.jsonl"), []
    for number, (options, cell) in enumerate(cells.items(), start=1):
        say(f"{number} of {len(cells)}: {options}")
        folder = arguments.work / re.sub(r"[^\w=.+-]+", "_", options.strip("-"))
        try:
            measure = partial(_measured, folder, cell, arguments)
            lines.append(store.measured(options, "all", measure))
        except InputError as error:  # such as of a learning rate that is too high
            failed.append(f"failed: {options}: {error}")
            say(failed[-1])
    if not lines:
        raise InputError(f"all {len(failed)} combinations failed; the first {failed[0]}")
    best = recommended(lines)
    result = {"cells": lines, "failed": failed, "recommended": best}
    accuracy = f"{best['known']:.4f} +- {best['standard_error']:.4f}"
    advice = f"recommended, accuracy {accuracy}: {best['key']}"
    rows = [
        [line["key"], *("-" if line[name] is None else round(line[name], 4) for name in _COLUMNS)]
        for line in lines
    ]
    text = "\n".join([to_table(("options", *_COLUMNS), rows), *failed, advice])
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


def _cells(
    arguments: argparse.Namespace, others: list[str]
) -> tuple[dict[str, argparse.Namespace], list[str]]:
    """Return the arguments of supsup-train by combination, and which it refuses."""
    axes = []
    for text in sorted(arguments.set):
        name, _, values = text.partition("=")
        axes.append([f"--{name}={value}" if value else "" for value in values.split(",")])
    cells, failed = {}, []
    for combination in product(*axes):
        words = [option for option in combination if option]
        made = training_parser()
        made.prog = "sweep"
        cell = made.parse_args([*others, *words])
        if cell.check or cell.bank or cell.log or cell.preset or nns_settings(cell):
            raise InputError(
                "sweep: has no --check, --bank, --log, --preset and NNs; leave them out"
            )
        take_defaults(cell, *DEFAULTS)
        options = " ".join(words) or "defaults"
        try:
            recipe_of(cell)
            cells[options] = cell
        except InputError as error:
            failed.append(f"failed: {options}: {error}")
    return cells, failed


def _setting(arguments: argparse.Namespace, cell: argparse.Namespace) -> Line:
    """Return what all combinations of a work folder share."""
    varied = {text.partition("=")[0].replace("-", "_") for text in arguments.set}
    tasks = _tasks(cell, arguments.tasks)
    setting = {key: value for key, value in vars(cell).items() if key not in _FREE | varied}
    setting["tasks"] = {name: tasks.origin(i) for i, name in enumerate(tasks.task_names)}
    return {**setting, "per_task": arguments.per_task}


def _tasks(cell: argparse.Namespace, first: int | None) -> Tasks:
    own = cell.stream == "own"
    cell.tasks = None if own else first
    tasks = stream_of(cell, None)
    if isinstance(tasks, OwnTasks):
        names, parts = tasks.task_names[:first], tasks.parts[:first]
        tasks = replace(tasks, task_names=names, parts=parts)
    return tasks


def _measured(folder: Path, cell: argparse.Namespace, arguments: argparse.Namespace) -> Line:
    """Learn, export and evaluate a combination."""
    use_threads(cell)
    recipe, tasks = recipe_of(cell), _tasks(cell, arguments.tasks)
    module = module_of(cell, tasks, cell.outputs, seed=cell.weight_seed)
    folder.mkdir(exist_ok=True)
    bank = open_bank(folder / "masks", module, **bank_options(cell, tasks, None))
    learn_tasks(bank, module, tasks, recipe, cell)
    say_skipped(tasks)
    exported = export(bank, folder / "out.onnx", force=True)
    per_task = arguments.per_task if bank.network.superfluous_outputs else 0
    found = evaluate(load(exported.path), tasks, per_task=per_task)
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


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--work", type=to_path, required=True, metavar="FOLDER", help="keep banks and results here")
    text = "values of an option of supsup-train, repeatable; an empty one leaves it out"
    add("--set", action="append", required=True, metavar="NAME=A,B", help=text)
    text = "test images per task to infer the task of, with superfluous outputs; 0 skips inference"
    rows = [("--tasks", positive, None, "learn the first N tasks (default: 10; own: all)")]
    add_options(made, [*rows, ("--per-task", from_zero, 20, f"{text} (default: 20)")])
    add("--json", action="store_true", help="print JSON instead of a table")
    return made


if __name__ == "__main__":
    main()
