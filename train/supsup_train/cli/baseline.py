"""The command supsup-baseline: learn a stream of tasks with a baseline method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from supsup_runtime.console import CommandParser, Row, add_options, parser, positive, run_command
from supsup_runtime.data.options import say_skipped, tasks_of
from supsup_runtime.errors import InputError
from supsup_train.baselines.recipe import METHODS, BaselineRecipe
from supsup_train.baselines.run import layer_sizes, make_baseline, train_baseline
from supsup_train.cli.options import (
    NUM_TASKS,
    add_training_options,
    bank_network,
    parsed,
    use_threads,
)
from supsup_train.masks.recipe import OptimizerKind, Recipe
from supsup_train.reporting import reporting

_EXAMPLES = (
    "batche permuted --bank batche/",
    "psp permuted --data mnist/ --tasks 10 --bank psp/",
)
_RECIPE: tuple[Row, ...] = (
    (
        "--outputs",
        positive,
        None,
        "number of outputs, superfluous ones included (default: a task's classes)",
    ),
    (
        "--optimizer",
        get_args(OptimizerKind),
        None,
        "optimizer of the weights (default: the method's)",
    ),
    ("--lr", float, None, "learning rate, above 0 (default: the method's)"),
    (
        "--first-lr",
        float,
        None,
        "learning rate of the first task (default: the method's, or --lr if it has only one)",
    ),
)


def main() -> None:
    """Run the command."""
    run_command("supsup-baseline", run)


def run(words: Sequence[str] | None = None) -> None:
    """Run ``supsup-baseline`` with these arguments, by default those of the command line."""
    arguments = parsed(_parser(), words)
    use_threads(arguments.threads)
    recipe = BaselineRecipe.of(arguments.method).with_options(
        steps=arguments.steps or Recipe().steps,
        batch_size=arguments.batch_size,
        optimizer=arguments.optimizer,
        learning_rate=arguments.lr,
        first_learning_rate=arguments.first_lr,
        seed=arguments.seed,
    )
    network = bank_network(arguments.bank)
    stream = tasks_of(
        arguments,
        num_tasks=NUM_TASKS,
        layout="flat",
        preprocessing=network.preprocessing if network else None,
    )
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
    say_skipped(stream)


def _parser() -> CommandParser:
    made = parser(
        "supsup-baseline",
        "Learn a stream of tasks with a baseline method instead of masks, into a bank.",
        _EXAMPLES,
    )
    made.epilog = (
        "Run the same command again to resume. psp and sequence cannot resume: each task changes "
        "the weights of all tasks."
    )
    made.what_in.add_argument(
        "method",
        choices=METHODS,
        help="baseline; dense is the upper bound, sequence the lower",
    )
    add_training_options(made, steps=str(Recipe().steps))
    text = "BatchE: store rank-one matrices instead of vectors, for one-shot inference"
    made.what_out.add_argument("--matrices", action="store_true", help=text)
    text = "psp, sequence: evaluate all tasks so far after every N tasks (default: 1)"
    add_options(made.what_out, [("--every", positive, None, text)])
    text = "lenet-300-100, fc-1024-1024 or mlp-WIDTH-..."
    made.method.add_argument("--model", default="lenet-300-100", help=text)
    add_options(made.method, _RECIPE)
    return made
