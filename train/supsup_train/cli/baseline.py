"""The command supsup-baseline: a stream of tasks through a method that masks are compared with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from supsup_runtime.console import Row, add_options, parser, positive, run_command
from supsup_runtime.data.options import stream_of
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.errors import InputError
from supsup_train.baselines.recipe import METHODS, BaselineRecipe
from supsup_train.baselines.run import layer_sizes, make_baseline, train_baseline
from supsup_train.cli.options import NUM_TASKS, add_training_options, use_threads
from supsup_train.masks.recipe import OptimizerKind
from supsup_train.reporting import reporting

_EXAMPLES = (
    "batche permuted --bank batche/",
    "psp permuted --data mnist/ --tasks 10 --bank psp/",
)
_RECIPE: tuple[Row, ...] = (
    ("--outputs", positive, None, "real and superfluous outputs (default: a task's classes)"),
    ("--optimizer", get_args(OptimizerKind), None, "of the weights (default: the method's own)"),
    ("--lr", float, None, "learning rate (default: the method's own)"),
    (
        "--first-lr",
        float,
        None,
        "of the first task (default: the method's, or --lr if it has one)",
    ),
)


def main() -> None:
    """Run the command."""
    run_command("supsup-baseline", run)


def run(words: Sequence[str] | None = None) -> None:
    """Run ``supsup-baseline`` with these words; by default with those of the command line."""
    arguments = _parser().parse_args(words)
    use_threads(arguments.threads)
    recipe = BaselineRecipe.of(arguments.method).with_options(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        optimizer=arguments.optimizer,
        learning_rate=arguments.lr,
        first_learning_rate=arguments.first_lr,
        seed=arguments.seed,
    )
    dataset = load_dataset(arguments.data)
    stream = stream_of(arguments, dataset, num_tasks=NUM_TASKS, layout="flat")
    sizes = layer_sizes(arguments.model, stream, arguments.outputs)
    baseline = make_baseline(recipe, sizes, matrices=arguments.matrices)
    if arguments.every is not None and not baseline.in_sequence:
        method = arguments.method
        raise InputError(f"--every: goes with psp and sequence, got {method}; leave it out")
    with reporting(arguments.bank, arguments.log, recipe.steps, quiet=arguments.quiet) as reporter:
        train_baseline(
            baseline,
            stream,
            arguments.bank,
            report=reporter.report,
            progress=reporter.bar,
            every=arguments.every or 1,
        )


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "supsup-baseline",
        "Learn a stream of tasks by another method than masks, into a bank of the same format.",
        _EXAMPLES,
    )
    made.epilog = (
        "Run the same command again to resume; psp and sequence cannot, as every task changes the "
        "weights of all."
    )
    made.what_in.add_argument("method", choices=METHODS, help="what masks are compared with")
    add_training_options(made)
    text = "BatchE: write rank-one matrices, for one-shot inference"
    made.what_out.add_argument("--matrices", action="store_true", help=text)
    text = "psp, sequence: tasks from one evaluation of all so far to the next (default: 1)"
    add_options(made.what_out, [("--every", positive, None, text)])
    text = "lenet-300-100, fc-1024-1024 or mlp-WIDTH-..."
    made.method.add_argument("--model", default="lenet-300-100", help=text)
    add_options(made.method, _RECIPE)
    return made
