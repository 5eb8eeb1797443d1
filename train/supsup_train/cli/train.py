"""The command supsup-train: learn the masks of a stream of tasks."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from torch import nn

from supsup_runtime.arrays import check_number
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import STATE_DTYPES, Network
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    add_renamed,
    parser,
    positive,
    to_path,
    whole,
)
from supsup_runtime.data.options import say_skipped
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError
from supsup_train.cli.options import (
    DEFAULTS,
    add_network_options,
    add_training_options,
    bank_network,
    either,
    module_of,
    stream_of,
    take_defaults,
    use_threads,
    workers_of,
)
from supsup_train.cli.own import MAX_CLASSES_HELP, print_check, reserved_outputs
from supsup_train.cli.presets import PRESETS, steps_of, with_preset
from supsup_train.masks.device import Device, Precision
from supsup_train.masks.inputs import shares_images
from supsup_train.masks.recipe import (
    AugmentKind,
    OptimizerKind,
    Recipe,
    ScheduleKind,
    ScoreInit,
    TransferKind,
)
from supsup_train.masks.rules import Rule, RuleKind
from supsup_train.masks.train_stream import train_stream
from supsup_train.masks.train_task import takes_negatives
from supsup_train.networks.base import HEADS, Base, Head, Kept, load_base
from supsup_train.networks.create_bank import open_bank
from supsup_train.nns.learner import NnsLearner, NnsSettings
from supsup_train.nns.scores import Objective
from supsup_train.nns.stream import learn_stream
from supsup_train.programs.agreement import ProgramError
from supsup_train.reporting import reporting
from supsup_train.resume import training

_EXAMPLES = (
    "permuted --bank masks/",
    "permuted --data mnist/ --outputs 100 --tasks 10 --bank masks/",
    "split --data mine.npz --module net.py:make --tasks 5 --bank masks/",
    "own --data pictures/ --size 32 --mode rgb --bank masks/",
    "splitcifar100 --preset paper --data cifar-100-python/ --bank masks/",
)
_RENAMED = {
    "--images": "--pictures",
    "--schedule": "--lr-schedule",
    "--threshold": "--certainty",
}
_NETWORK: tuple[Row, ...] = (
    ("--outputs", positive, 100, "number of outputs, superfluous ones included"),
    ("--max-classes", positive, None, MAX_CLASSES_HELP),
    ("--state", STATE_DTYPES, "float32", "how to store state; float16 takes half the bytes"),
    ("--weight-seed", whole(0, 2**64 - 1), 0, "seed of the fixed random weights, in [0, 2**64)"),
)
_SPEED: tuple[Row, ...] = (
    ("--device", str, "cpu", "what computes: cpu, cuda or cuda:N"),
    ("--vectorise", positive, 1, "tasks to learn at once; for CUDA, and for small networks"),
    ("--precision", get_args(Precision), "float32", "of products; bfloat16 is mixed precision"),
)
_NEGATIVES = (
    "images that are not the task's, learned by superfluous outputs: none, or some of turned, "
    "shuffled (its own, in patches), memory (these, and stored ones of earlier tasks), others "
    "(of all other tasks) and file:PATH, joined by commas"
)
_RECIPE: tuple[Row, ...] = (
    (
        "--optimizer",
        get_args(OptimizerKind),
        None,
        f"optimizer of scores and trained state (default: {either('optimizer')})",
    ),
    ("--lr", float, None, f"learning rate, above 0 (default: {either('lr')})"),
    (
        "--lr-schedule",
        get_args(ScheduleKind),
        None,
        f"cosine decays --lr to 0 over each task (default: {either('lr_schedule')})",
    ),
    ("--warmup", float, 0.0, "share of the steps over which the learning rate rises, in [0, 1)"),
    ("--weight-decay", float, 0.0, "L2 penalty factor, at least 0"),
    (
        "--augment",
        get_args(AugmentKind),
        "none",
        "random changes of pictures: a shift of up to 4 pixels, a part of any size, mirroring",
    ),
    (
        "--negatives",
        str,
        None,
        f"{_NEGATIVES} (default: {either('negatives')})",
    ),
    ("--memory", positive, None, "negatives memory: images of each task to store (default: 20)"),
    ("--score-init", get_args(ScoreInit), "uniform", "initial scores; zeros give a mask of ones"),
    ("--rule", get_args(RuleKind), "threshold", "keep scores >= 0, or those of largest magnitude"),
    ("--density", float, None, "top-k: fraction of weights to keep, in (0, 1] (default: 0.5)"),
    (
        "--er",
        float,
        None,
        "top-k: density min(0.5, X * (out + in) / weights) per layer (default: use --density)",
    ),
    (
        "--transfer",
        get_args(TransferKind),
        "none",
        "initial scores: random, or the mean of earlier masks or scores",
    ),
)
_BASE: tuple[Row, ...] = (
    ("--head", get_args(Head), None, f"of the layer of logits: {HEADS} (default: new)"),
    ("--norms", get_args(Kept), None, "scales and shifts of normalisation (default: per-task)"),
    ("--biases", get_args(Kept), None, "other biases (default: frozen)"),
)
_NNS: tuple[Row, ...] = (
    (
        "--certainty",
        float,
        None,
        "allocate a mask if masks * largest probability < X, X > 1 (default: 1.125)",
    ),
    ("--period", positive, None, "infer the task every N batches (default: 100)"),
    ("--max-tasks", positive, None, "allocate at most N masks (default: 2500)"),
    ("--objective", get_args(Objective), None, "objective to differentiate (default: entropy)"),
)


def run(words: Sequence[str] | None = None) -> None:
    """Run ``supsup-train`` with these arguments, by default those of the command line."""
    arguments = with_preset(training_parser, words)
    if arguments.check:
        print_check(arguments)
        return
    is_given = arguments.steps is not None
    take_defaults(arguments, *DEFAULTS)
    use_threads(arguments)
    recipe_of(arguments)  # before data are read
    settings = nns_settings(arguments)
    device_of(arguments).check()
    network = bank_network(arguments.bank)
    stream = stream_of(arguments, network)
    if arguments.epochs and not is_given:
        arguments.steps = steps_of(arguments.epochs, arguments.batch_size, stream)
    recipe = recipe_of(arguments)
    made_with = bank_options(arguments, stream, network)
    module = module_of(arguments, stream, arguments.outputs, seed=arguments.weight_seed)
    base = base_of(arguments)
    if base is not None:
        head = load_base(module, arguments.base, outputs=arguments.outputs, base=base)
        sys.stderr.write(f"head: {head}, {base.head}\n")
        made_with["weights"] = base
    if settings is not None and stream.kind == "own":
        raise InputError("--scenario NNs: goes with streams, got own tasks; leave it out")
    try:
        bank = open_bank(arguments.bank, module, **made_with)
    except ProgramError as error:
        if arguments.module is None or len(stream.input_shape) == 3:
            raise
        raise ProgramError(
            f"{error}; a module of (channels, height, width) needs --pictures"
        ) from error
    masked = ", ".join(f"{p.name} {p.shape}" for p in bank.network.parameters)
    sys.stderr.write(f"masked parameters: {masked}\n")
    if settings is not None:
        origin, own = stream.origin(0), arguments.log is None
        log = arguments.log or arguments.bank / "train.jsonl"
        with training(arguments.bank):
            learner = NnsLearner(bank, module, recipe=recipe, settings=settings, origin=origin)
            learn_stream(learner, stream, recipe, log, quiet=arguments.quiet, own=own)
        return
    learn_tasks(bank, module, stream, recipe, arguments)
    say_skipped(stream)


def learn_tasks(
    bank: MaskBank,
    module: nn.Module,
    tasks: Tasks,
    recipe: Recipe,
    arguments: argparse.Namespace,
) -> None:
    """Learn the tasks that are missing in a bank, reported as the options say."""
    if recipe.negatives != "none" and not _says_negatives(arguments):
        recipe = _with_default_negatives(bank, module, tasks, recipe)
    device = device_of(arguments)
    shared = shares_images(tasks, recipe, device)
    workers = workers_of(arguments, tasks, module, shared=shared)
    shown = reporting(
        bank.path,
        arguments.log,
        recipe.steps,
        tasks.num_tasks,
        quiet=arguments.quiet,
        together=device.tasks,
        workers=workers.count,
    )
    with shown as reporter:
        train_stream(
            bank,
            module,
            tasks,
            recipe=recipe,
            report=reporter.report,
            progress=reporter.bar,
            workers=workers,
            device=device,
        )


def _with_default_negatives(
    bank: MaskBank, module: nn.Module, tasks: Tasks, recipe: Recipe
) -> Recipe:
    """Leave negatives out, which were not asked for, where they cannot be."""
    if not bank.network.superfluous_outputs:
        why = "the network has no superfluous outputs"
    elif math.prod((tasks.picture_shape or ())[1:]) < 2:
        why = "inputs are no pictures"
    elif not takes_negatives(bank.network, module):
        why = "they would change the statistics of a batch"
    else:
        return recipe
    sys.stderr.write(f"negatives: none, as {why}\n")
    return replace(recipe, negatives="none")


def _says_negatives(arguments: argparse.Namespace) -> bool:
    """Return whether negatives are asked for, not by default."""
    return "negatives" in getattr(arguments, "_given", ()) and arguments.negatives != "none"


def device_of(arguments: argparse.Namespace) -> Device:
    """Return what computes."""
    name, tasks, precision = arguments.device, arguments.vectorise, arguments.precision
    return Device(name=name, tasks=tasks, precision=precision)


def bank_options(
    arguments: argparse.Namespace, stream: Tasks, network: Network | None
) -> dict[str, Any]:
    """Return what `open_bank` takes, by keyword; `network` is that of the bank, if it exists."""
    return {
        "input_shape": stream.input_shape,
        "real_outputs": reserved_outputs(stream, arguments.max_classes, network, arguments.outputs),
        "weight_seed": arguments.weight_seed,
        "masked": arguments.mask,
        "preprocessing": stream.preprocessing,
        "state_dtype": arguments.state,
    }


def base_of(arguments: argparse.Namespace) -> Base | None:
    """Return the choices of ``--base``; None without it."""
    names = ("head", "norms", "biases")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.base is not None:
        return Base(**given)
    for name in given:
        raise InputError(f"--{name}: goes with --base; leave it out")
    return None


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of the command's options."""
    if arguments.memory is not None and "memory" not in arguments.negatives.split(","):
        raise InputError(
            f"--memory: goes with --negatives memory, got {arguments.negatives:.80}; leave it out"
        )
    check_number("--warmup:", arguments.warmup, lambda share: 0 <= share < 1, "in [0, 1)")
    return Recipe(
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
        warmup=int(arguments.warmup * arguments.steps),
        augment=arguments.augment,
        negatives=arguments.negatives,
        memory=Recipe().memory if arguments.memory is None else arguments.memory,
    )


def training_parser() -> CommandParser:
    """Return the command's parser."""
    made = parser(
        "supsup-train",
        "Learn one mask per task and add each finished task to the bank.",
        _EXAMPLES,
    )
    made.epilog = "Tasks already in the bank are skipped: run the same command again to resume."
    add_training_options(made)
    add_network_options(made)
    text = "own: say what there is, duplicates included, and stop"
    made.what_in.add_argument("--check", action="store_true", help=text)
    text = "mask this parameter, repeatable (default: weights of layers and products)"
    made.method.add_argument("--mask", action="append", metavar="NAME", help=text)
    text = "the paper's settings of splitcifar100 or splitimagenet (default: those of options)"
    made.method.add_argument("--preset", choices=PRESETS, help=text)
    add_options(made.method, _NETWORK)
    text = "safetensors file of trained weights under the masks (default: seeded signed constants)"
    made.method.add_argument("--base", type=to_path, metavar="FILE", help=text)
    add_options(made.method, tuple((*row[:3], f"--base: {row[3]}") for row in _BASE) + _RECIPE)
    made.method.add_argument(
        "--scenario",
        choices=("GG", "GNs", "GNu", "NNs"),
        default="GNu",
        help="NNs: infer the tasks of the training batches; the others train alike, with given "
        "tasks (default: GNu)",
    )
    add_options(made.method, ((*row[:3], f"NNs: {row[3]}") for row in _NNS))
    add_options(made.speed, _SPEED)
    add_renamed(made, _RENAMED)
    return made


def _rule(arguments: argparse.Namespace) -> Rule:
    kind, density, er = arguments.rule, arguments.density, arguments.er
    if kind != "top-k" and (density is not None or er is not None):
        raise InputError(
            f"--density, --er: go with --rule top-k, got --rule {kind}; leave them out"
        )
    if density is not None and er is not None:
        raise InputError("--density, --er: give one of them; --er sets the density of each layer")
    if er is not None:
        return Rule(kind="top-k", density=er, budget="er")
    return Rule(kind=kind, density=0.5 if density is None else density)


def nns_settings(arguments: argparse.Namespace) -> NnsSettings | None:
    """Return the settings of scenario NNs; None for others."""
    scenario, transfer = arguments.scenario, arguments.transfer
    given = {}
    for option, *_ in _NNS:
        name = option.removeprefix("--").replace("-", "_")
        value = getattr(arguments, name)
        if value is not None:
            given["threshold" if name == "certainty" else name] = value
            if scenario != "NNs":
                raise InputError(f"{option}: goes with --scenario NNs, got --scenario {scenario}")
    if scenario != "NNs":
        return None
    if transfer != "none":
        raise InputError(
            f"--transfer: goes with GG, GNs and GNu, got {transfer} with NNs; leave it out"
        )
    if _says_negatives(arguments):
        raise InputError(
            f"--negatives: go with GG, GNs and GNu, got {arguments.negatives:.80} with NNs, where "
            "no batch says which task it is of; leave them out"
        )
    side_by_side = arguments.workers is not None or arguments.cluster is not None
    if side_by_side or not device_of(arguments).is_plain:
        raise InputError(
            "--workers, --cluster, --device, --vectorise, --precision: go with GG, GNs and GNu; "
            "NNs learns from one stream, in order, on the CPU; leave them out"
        )
    return NnsSettings(**given)
