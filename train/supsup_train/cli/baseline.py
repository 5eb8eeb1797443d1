"""The command supsup-baseline: learn a stream of tasks with a baseline method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from supsup_runtime.console import CommandParser, Row, add_options, parser, positive
from supsup_runtime.data.options import say_skipped
from supsup_runtime.errors import InputError
from supsup_train.baselines.recipe import METHODS, BaselineRecipe
from supsup_train.baselines.run import make_baseline, train_baseline
from supsup_train.cli.options import (
    add_network_options,
    add_training_options,
    bank_network,
    module_of,
    parsed,
    stream_of,
    take_defaults,
    use_threads,
    workers_of,
)
from supsup_train.cli.own import MAX_CLASSES_HELP, reserved_outputs
from supsup_train.masks.recipe import OptimizerKind
from supsup_train.reporting import reporting

_EXAMPLES = (
    "batche permuted --bank batche/",
    "psp permuted --data mnist/ --tasks 10 --bank psp/",
    "heads own --data pictures/ --size 32 --mode rgb --bank heads/",
)
_RECIPE: tuple[Row, ...] = (
    (
        "--outputs",
        positive,
        None,
        "number of outputs, superfluous ones included (default: real outputs)",
    ),
    ("--max-classes", positive, None, MAX_CLASSES_HELP),
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


def run(words: Sequence[str] | None = None) -> None:
    """Run ``supsup-baseline`` with these arguments, by default those of the command line."""
    arguments = parsed(_parser(), words)
    take_defaults(arguments, "model", "steps")
    use_threads(arguments)
    recipe = BaselineRecipe.of(arguments.method).with_options(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        optimizer=arguments.optimizer,
        learning_rate=arguments.lr,
        first_learning_rate=arguments.first_lr,
        seed=arguments.seed,
    )
    network = bank_network(arguments.bank)
    stream = stream_of(arguments, network)
    real_outputs = reserved_outputs(stream, arguments.max_classes, network, arguments.outputs)
    module = module_of(arguments, stream, arguments.outputs or real_outputs, seed=arguments.seed)
    baseline = make_baseline(
        recipe, module, input_shape=stream.input_shape, matrices=arguments.matrices
    )
    if arguments.every is not None and not baseline.in_sequence:
        method = arguments.method
        raise InputError(f"--every: goes with psp and sequence, got {method}; leave it out")
    workers = workers_of(arguments, stream, module)
    shown = reporting(
        arguments.bank,
        arguments.log,
        recipe.steps,
        stream.num_tasks,
        quiet=arguments.quiet,
        workers=workers.count,
    )
    with shown as reporter:
        train_baseline(
            baseline,
            stream,
            arguments.bank,
            report=reporter.report,
            progress=reporter.bar,
            every=arguments.every or 1,
            real_outputs=real_outputs,
            workers=workers,
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
    add_training_options(made)
    add_network_options(made)
    text = "BatchE: store rank-one matrices instead of vectors, for one-shot inference"
    made.what_out.add_argument("--matrices", action="store_true", help=text)
    text = "psp, sequence: evaluate all tasks so far after every N tasks (default: 1)"
    add_options(made.what_out, [("--every", positive, None, text)])
    add_options(made.method, _RECIPE)
    return made
