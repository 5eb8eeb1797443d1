"""The command supsup-train: a stream of tasks into a mask bank, one task after the other."""

from __future__ import annotations

import argparse
from typing import get_args

from torch import nn

from supsup_runtime.console import Options, add_renamed, parser, positive, run_command
from supsup_runtime.data.options import stream_of
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream
from supsup_runtime.errors import InputError
from supsup_train.cli.options import NUM_TASKS, add_training_options, use_threads
from supsup_train.masks.recipe import OptimizerKind, Recipe, ScheduleKind, ScoreInit, TransferKind
from supsup_train.masks.rules import Rule, RuleKind
from supsup_train.masks.train_stream import train_stream
from supsup_train.networks.create_bank import open_bank
from supsup_train.networks.models import load_module, make_model, wants_images
from supsup_train.nns.learner import NnsLearner, NnsSettings
from supsup_train.nns.scores import Objective
from supsup_train.nns.stream import learn_stream
from supsup_train.reporting import reporting
from supsup_train.resume import origin_of

__all__ = ["main"]

_EXAMPLES = (
    "permuted --bank masks/",
    "permuted --data mnist/ --outputs 100 --tasks 10 --bank masks/",
    "split --data mine.npz --module net.py:make --tasks 5 --bank masks/",
)
_RENAMED = {
    "--images": "--pictures",
    "--schedule": "--lr-schedule",
    "--threshold": "--certainty",
}
# Options of scenario NNs, and what they are in `NnsSettings`.
_NNS = {
    "--certainty": "threshold",
    "--period": "period",
    "--max-tasks": "max_tasks",
    "--objective": "objective",
}


def main() -> None:
    """Run the command."""
    run_command("supsup-train", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    use_threads(arguments.threads)
    recipe = Recipe(
        rule=_rule(arguments),
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        optimizer=arguments.optimizer,
        learning_rate=arguments.lr,
        schedule=arguments.lr_schedule,
        weight_decay=arguments.weight_decay,
        score_init=arguments.score_init,
        seed=arguments.seed,
        transfer=arguments.transfer,
    )
    if arguments.pictures and not arguments.module:
        raise InputError("--pictures: goes with --module; the named models know what they take")
    pictures = arguments.pictures if arguments.module else wants_images(arguments.model)
    stream = stream_of(
        arguments,
        load_dataset(arguments.data),
        num_tasks=NUM_TASKS,
        layout="image" if pictures else "flat",
    )
    module = _module(arguments, stream)
    settings = _nns_settings(arguments)
    bank = open_bank(
        arguments.bank,
        module,
        input_shape=stream.input_shape,
        real_outputs=stream.real_outputs,
        weight_seed=arguments.weight_seed,
    )
    if settings is not None:
        origin = origin_of(stream)
        learner = NnsLearner(bank, module, recipe=recipe, settings=settings, origin=origin)
        log = arguments.log or arguments.bank / "train.jsonl"
        learn_stream(learner, stream, recipe, log, quiet=arguments.quiet)
        return
    with reporting(arguments.bank, arguments.log, recipe.steps, quiet=arguments.quiet) as reporter:
        train_stream(
            bank, module, stream, recipe=recipe, report=reporter.report, progress=reporter.bar
        )


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "supsup-train",
        "Learn one mask per task, and write each finished task to the bank.",
        _EXAMPLES,
    )
    made.epilog = "A task that the bank has already is kept: run the same command again to resume."
    inputs, _, method, _ = add_training_options(made)
    inputs.add_argument(
        "--pictures",
        action="store_true",
        help="with --module: inputs are (channels, height, width), not flat",
    )
    _add_network_options(method)
    _add_recipe_options(method)
    _add_nns_options(method)
    add_renamed(made, _RENAMED)
    return made


def _add_network_options(method: Options) -> None:
    method.add_argument(
        "--model",
        default="lenet-300-100",
        help="lenet-300-100, fc-1024-1024, mlp-WIDTH-..., bnnet-WIDTH-... or cnn "
        "(default: lenet-300-100)",
    )
    method.add_argument(
        "--module",
        metavar="FILE.py:FUNCTION",
        help="your own network in place of --model: FUNCTION(input_shape, outputs)",
    )
    method.add_argument(
        "--outputs",
        type=positive,
        default=100,
        metavar="N",
        help="real and superfluous outputs (default: 100)",
    )
    method.add_argument(
        "--weight-seed",
        type=_from_zero,
        default=0,
        metavar="S",
        help="seed of the fixed random weights, below 2**64 (default: 0)",
    )


def _add_recipe_options(method: Options) -> None:
    for option, kinds, default, text in (
        ("--optimizer", OptimizerKind, "rmsprop", "of the scores, and of state that is trained"),
        ("--lr-schedule", ScheduleKind, "constant", "of the learning rate; cosine: down to 0"),
        ("--score-init", ScoreInit, "uniform", "fresh scores; zeros: a mask of ones (threshold)"),
        ("--rule", RuleKind, "threshold", "which scores are in the mask"),
        ("--transfer", TransferKind, "none", "scores begin with the mean of earlier tasks'"),
    ):
        text = f"{text} (default: {default})"
        method.add_argument(option, choices=get_args(kinds), default=default, help=text)
    for option, default, text in (
        ("--lr", 1e-4, "learning rate (default: 0.0001)"),
        ("--weight-decay", 0.0, "added to a gradient: this times the value (default: 0)"),
        ("--density", None, "top-k: fraction of weights kept, in (0, 1] (default: 0.5)"),
        ("--er", None, "top-k: multiplier of the ER budget, in place of --density"),
    ):
        method.add_argument(option, type=float, default=default, metavar="X", help=text)


def _add_nns_options(method: Options) -> None:
    default = NnsSettings()
    method.add_argument(
        "--scenario",
        choices=("GG", "GNs", "GNu", "NNs"),
        default="GNu",
        help="GG, GNs, GNu: tasks are told apart in training, and trained alike; NNs: they are "
        "not, and a mask is allocated where the learner is uncertain (default: GNu)",
    )
    method.add_argument(
        "--certainty",
        dest="threshold",
        type=float,
        metavar="X",
        help="NNs: largest probability times number of masks, above 1, below which a task is new "
        f"(default: {default.threshold})",
    )
    method.add_argument(
        "--period",
        type=positive,
        metavar="N",
        help=f"NNs: batches from one inference to the next (default: {default.period})",
    )
    method.add_argument(
        "--max-tasks",
        type=positive,
        metavar="N",
        help=f"NNs: masks to allocate at most (default: {default.max_tasks})",
    )
    method.add_argument(
        "--objective",
        choices=get_args(Objective),
        help=f"NNs: what inference differentiates (default: {default.objective})",
    )


def _from_zero(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text!r}")
    return int(text)


def _rule(arguments: argparse.Namespace) -> Rule:
    kind, density, er = arguments.rule, arguments.density, arguments.er
    if kind != "top-k" and (density is not None or er is not None):
        raise InputError(f"--density, --er: go with --rule top-k, got --rule {kind}")
    if density is not None and er is not None:
        raise InputError("--density, --er: give one of them; --er sets the density by layer")
    if er is not None:
        return Rule(kind="top-k", density=er, budget="er")
    return Rule(kind=kind, density=0.5 if density is None else density)


def _module(arguments: argparse.Namespace, stream: Stream) -> nn.Module:
    shape, outputs = stream.input_shape, arguments.outputs
    if arguments.module is not None:
        return load_module(arguments.module, input_shape=shape, outputs=outputs)
    seed = arguments.weight_seed
    return make_model(arguments.model, input_shape=shape, outputs=outputs, weight_seed=seed)


def _nns_settings(arguments: argparse.Namespace) -> NnsSettings | None:
    """Settings of scenario NNs; None for the others, which have none."""
    values = {option: getattr(arguments, name) for option, name in _NNS.items()}
    given = {option: value for option, value in values.items() if value is not None}
    if arguments.scenario != "NNs":
        if given:
            option, scenario = next(iter(given)), arguments.scenario
            raise InputError(f"{option}: goes with --scenario NNs, got --scenario {scenario}")
        return None
    if arguments.transfer != "none":
        got = arguments.transfer
        raise InputError(f"--transfer: goes with GG, GNs and GNu, got {got} with NNs")
    return NnsSettings(**{_NNS[option]: value for option, value in given.items()})
