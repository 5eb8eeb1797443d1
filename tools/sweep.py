"""Compare settings of training: `python tools/sweep.py permuted --lr 1e-4 1e-3 --work sweep/`.

Every combination of --lr, --steps, --rule and --score-init learns, exports and evaluates the tasks
in a folder of its own. After an interruption, the same command continues; with more values it adds
theirs. Results go to results.jsonl in the work folder, a line per combination.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from torch import nn

from supsup_export import export
from supsup_runtime import load
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    from_zero,
    positive,
    print_result,
    run_command,
    say,
    thread_count,
    to_path,
    to_table,
)
from supsup_runtime.data.options import add_stream_options
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation import evaluate
from supsup_runtime.files import write_whole
from supsup_train import Recipe, Rule, open_bank, train_stream
from supsup_train.cli.options import (
    DEFAULTS,
    NUM_TASKS,
    add_network_options,
    either,
    module_of,
    stream_of,
    take_defaults,
    use_threads,
)
from supsup_train.cli.own import MAX_CLASSES_HELP, reserved_outputs
from supsup_train.masks.recipe import ScoreInit
from supsup_train.reporting import reporting

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.reproduction.store import Line, claim

_ROWS: tuple[Row, ...] = (
    ("--outputs", positive, 100, "number of outputs, superfluous ones included"),
    ("--max-classes", positive, None, MAX_CLASSES_HELP),
    ("--weight-seed", from_zero, 0, "seed of the fixed random weights"),
    ("--batch-size", positive, Recipe().batch_size, "inputs per batch"),
)
_HEADER = ("options", "known", "min", "inferred", "s/task", "density", "MB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What all cells share.

    Attributes:
        folder: Work folder, with a folder for each cell.
        tasks: The tasks.
        module: The network.
        made_with: Arguments of `open_bank`.
        per_task: Test images per task to infer the task of.
        quiet: Whether to hide progress bars.
    """

    folder: Path
    tasks: Tasks
    module: nn.Module
    made_with: dict[str, Any]
    per_task: int
    quiet: bool

    def line(self, recipe: Recipe) -> Line:
        """Return the result of a cell: of its folder, or measured and written there."""
        setting = {"options": options_of(recipe), "recipe": asdict(recipe)}
        folder = self.folder / name_of(recipe)
        file = folder / "result.json"
        if file.exists():
            return {**setting, **_read(file)}
        folder.mkdir(exist_ok=True)
        try:
            bank = self._learned(recipe, folder / "masks")
        except InputError as error:  # such as a learning rate that is too high
            return {**setting, "failed": str(error)}
        result = self._measured(bank, folder / "out.onnx")
        write_whole(file, (json.dumps(result, sort_keys=True) + "\n").encode())
        return {**setting, **result}

    def _learned(self, recipe: Recipe, path: Path) -> MaskBank:
        bank = open_bank(path, self.module, **self.made_with)
        with reporting(path, None, recipe.steps, quiet=self.quiet) as reporter:
            report, bar = reporter.report, reporter.bar
            train_stream(bank, self.module, self.tasks, recipe=recipe, report=report, progress=bar)
        return bank

    def _measured(self, bank: MaskBank, path: Path) -> Line:
        model = load(export(bank, path, force=True).path)
        infers = bank.network.superfluous_outputs > 0
        found = evaluate(model, self.tasks, per_task=self.per_task if infers else 0)
        known = [row["known"] for row in found["tasks"]]
        variances = [
            row["known"] * (1 - row["known"]) / row["test_images"] for row in found["tasks"]
        ]
        log = (bank.path / "train.jsonl").read_text().splitlines()
        return {
            "bytes": path.stat().st_size,
            "density": fmean(task.density(bank.network) for task in bank),
            "inferred": found["inferred"],
            "known": fmean(known),
            "known_min": min(known),
            "method": found["method"],
            "seconds": fmean(json.loads(line)["seconds"] for line in log),
            "standard_error": sum(variances) ** 0.5 / len(known),
        }


def main() -> None:
    """Run the command."""
    run_command("sweep", run)


def run(words: Sequence[str] | None = None) -> None:
    """Run the sweep of these arguments, by default those of the command line."""
    arguments = _parser().parse_args(words)
    own = arguments.stream == "own"
    take_defaults(arguments, "model")
    for name in ("lr", "steps"):
        if getattr(arguments, name) is None:
            setattr(arguments, name, [DEFAULTS[name][own]])
    use_threads(arguments.threads)
    recipes = list(_recipes(arguments))
    sweep = _sweep(arguments)
    lines: list[Line] = []
    for number, recipe in enumerate(recipes, start=1):
        say(f"{number} of {len(recipes)}: {options_of(recipe)}")
        lines.append(sweep.line(recipe))
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        write_whole(sweep.folder / "results.jsonl", text.encode())
    best = recommended(lines)
    print_result(
        {"cells": lines, "recommended": best}, as_json=arguments.json, text=_text(lines, best)
    )


def recommended(lines: Sequence[Line]) -> Line:
    """Return the cheapest of the results within one standard error of the best.

    The cheapest has the fewest steps and, of these, the lowest density. The standard error is that
    of the best result's mean accuracy over the test images.

    Raises:
        InputError: If all failed.
    """
    done = [line for line in lines if "failed" not in line]
    if not done:
        raise InputError(f"all {len(lines)} cells failed, such as by: {lines[0]['failed']}")
    best = max(done, key=lambda line: line["known"])
    least = best["known"] - best["standard_error"]
    near = [line for line in done if line["known"] >= least]
    return min(near, key=lambda each: (each["recipe"]["steps"], each["density"], -each["known"]))


def options_of(recipe: Recipe) -> str:
    """Return the options of supsup-train for a cell."""
    rule = recipe.rule
    density = "--er" if rule.budget == "er" else "--density"
    words = ["--lr", recipe.learning_rate, "--steps", recipe.steps, "--rule", rule.kind]
    words += [density, rule.density] if rule.kind == "top-k" else []
    return " ".join(map(str, [*words, "--score-init", recipe.score_init]))


def name_of(recipe: Recipe) -> str:
    """Return the name of a cell's folder."""
    return options_of(recipe).removeprefix("--").replace(" --", "_").replace(" ", "-")


def _recipes(arguments: argparse.Namespace) -> Iterator[Recipe]:
    """Yield the combinations; initial scores of zero go with the threshold alone."""
    values = (arguments.lr, arguments.steps, arguments.rule, arguments.score_init)
    options = {"batch_size": arguments.batch_size, "seed": arguments.seed}
    for rate, steps, rule, scores in product(*map(dict.fromkeys, values)):
        if scores == "uniform" or rule.kind == "threshold" or len(arguments.score_init) == 1:
            yield Recipe(learning_rate=rate, steps=steps, rule=rule, score_init=scores, **options)


def _sweep(arguments: argparse.Namespace) -> Sweep:
    count = arguments.tasks
    if arguments.stream == "own":
        arguments.tasks = None
    tasks = stream_of(arguments, None)
    if isinstance(tasks, OwnTasks):
        tasks = replace(tasks, task_names=tasks.task_names[:count], parts=tasks.parts[:count])
    module = module_of(arguments, tasks, arguments.outputs, seed=arguments.weight_seed)
    made_with = {
        "input_shape": tasks.input_shape,
        "real_outputs": reserved_outputs(tasks, arguments.max_classes, None),
        "weight_seed": arguments.weight_seed,
        "preprocessing": tasks.preprocessing,
    }
    options = ("batch_size", "model", "module", "outputs", "per_task", "seed", "weight_seed")
    setting = {name: getattr(arguments, name) for name in options}
    setting["tasks"] = {name: tasks.origin(i) for i, name in enumerate(tasks.task_names)}
    claim(arguments.work, {**setting, "real_outputs": made_with["real_outputs"]})
    return Sweep(
        folder=arguments.work,
        tasks=tasks,
        module=module,
        made_with=made_with,
        per_task=arguments.per_task,
        quiet=arguments.quiet,
    )


def _text(lines: Sequence[Line], best: Line) -> str:
    rows = [
        (
            line["options"],
            *(f"{line[key]:.4f}" for key in ("known", "known_min")),
            "-" if line["inferred"] is None else f"{line['inferred']:.4f}",
            f"{line['seconds']:.1f}",
            f"{line['density']:.3f}",
            f"{line['bytes'] / 1e6:.2f}",
        )
        for line in lines
        if "failed" not in line
    ]
    failed = [f"failed: {line['options']}: {line['failed']}" for line in lines if "failed" in line]
    accuracy = f"{best['known']:.4f} +- {best['standard_error']:.4f}"
    told = f"recommended, accuracy {accuracy}: {best['options']}"
    return "\n".join([to_table(_HEADER, rows), *failed, told])


def _rule(text: str) -> Rule:
    kind, colon, number = text.partition(":")
    try:
        if text == "threshold":
            return Rule()
        if colon and kind in {"top-k", "er"}:
            budget: Any = "er" if kind == "er" else "layer"
            return Rule(kind="top-k", density=float(number), budget=budget)
    except ValueError:  # InputError is one
        pass
    raise argparse.ArgumentTypeError(
        f"must be threshold, top-k:DENSITY in (0, 1] or er:X above 0, got {text!r}"
    )


def _read(file: Path) -> Line:
    try:
        found: Line = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: damaged: {error}; remove the file to measure again") from error
    return found


def _parser() -> CommandParser:
    made = CommandParser(description=__doc__)
    add_stream_options(made.what_in, tasks=f"{NUM_TASKS}; own: all")
    add_network_options(made)
    text = "keep banks, models and results here (required)"
    made.what_out.add_argument("--work", type=to_path, required=True, metavar="FOLDER", help=text)
    made.what_out.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.what_out.add_argument("--quiet", action="store_true", help="hide the progress bars")
    axis = made.method.add_argument
    text = f"learning rates (default: {either('lr')})"
    axis("--lr", type=float, nargs="+", metavar="X", help=text)
    text = f"training batches per task (default: {either('steps')})"
    axis("--steps", type=positive, nargs="+", metavar="N", help=text)
    text = "threshold, top-k:DENSITY or er:X, as supsup-train has them (default: threshold)"
    axis("--rule", type=_rule, nargs="+", default=[Rule()], metavar="RULE", help=text)
    text = "initial scores (default: uniform); zeros go with threshold alone"
    axis("--score-init", nargs="+", choices=get_args(ScoreInit), default=["uniform"], help=text)
    add_options(made.method, _ROWS)
    text = "test images per task to infer the task of, with superfluous outputs; 0 skips inference"
    add_options(made.method, [("--per-task", from_zero, 20, text)])
    text = "threads of PyTorch (default: PyTorch's choice)"
    add_options(made.speed, [("--threads", thread_count, None, text)])
    return made


if __name__ == "__main__":
    main()
