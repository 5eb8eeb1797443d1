"""Options that the training commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from supsup_runtime.arrays import checked_threads
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    positive,
    thread_count,
    to_path,
    whole,
)
from supsup_runtime.data.options import add_stream_options, tasks_of
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.errors import InputError
from supsup_train.masks.gathering import values_of_others
from supsup_train.masks.recipe import Recipe
from supsup_train.networks.models import load_module, make_model, wants_images
from supsup_train.workers.room import check_room, check_room_at_once, most_workers
from supsup_train.workers.work import MAX_WORKERS, Workers

NUM_TASKS = 10
"""Default of ``--tasks``."""
_NAMED_TASKS = {"splitcifar100": 20, "splitimagenet": 100}
DEFAULTS: dict[str, tuple[object, object]] = {
    "model": ("lenet-300-100", "conv"),
    "steps": (Recipe().steps, 200),
    "lr": (Recipe().learning_rate, 3e-3),
    "lr_schedule": (Recipe().schedule, "cosine"),
    "optimizer": (Recipe().optimizer, "adam"),
    "negatives": (Recipe().negatives, "turned,shuffled"),
}
"""Of streams, and of own tasks (docs/DATA.md)."""
_TORCH_BYTES = 350 << 20
"""Of a process that imported PyTorch and learned a task."""
_COPIES = 10
"""Of weights: fixed and masked ones, scores, their gradient, optimizer."""


def either(name: str) -> str:
    """Return a default of `DEFAULTS` for the help."""
    return "{}; own: {}".format(*DEFAULTS[name])


def take_defaults(arguments: argparse.Namespace, *names: str) -> None:
    """Set the options that were not given to those of `DEFAULTS`."""
    if arguments.module and arguments.model:
        raise InputError("--model: goes without --module; leave out one of them")
    for name in names:
        if getattr(arguments, name) is None:
            setattr(arguments, name, DEFAULTS[name][arguments.stream == "own"])


def add_training_options(made: CommandParser) -> None:
    """Add the options of the stream, the bank, the log, the steps and the threads."""
    named = [f"{stream}: {count}" for stream, count in _NAMED_TASKS.items()]
    add_stream_options(made.what_in, tasks=", ".join([str(NUM_TASKS), *named]))
    text = "folder of the mask bank, created if missing"
    made.what_out.add_argument("--bank", type=to_path, metavar="FOLDER", help=f"{text} (required)")
    text = "log file, one JSON line per task (default: BANK/train.jsonl)"
    made.what_out.add_argument("--log", type=to_path, metavar="FILE", help=text)
    made.what_out.add_argument("--quiet", action="store_true", help="hide the progress bar")
    recipe = Recipe()
    rows: list[Row] = [
        ("--steps", positive, None, f"training batches per task (default: {either('steps')})"),
        ("--batch-size", positive, recipe.batch_size, "inputs per batch"),
    ]
    add_options(made.method, rows)
    text = "PyTorch threads; 1 is best for small networks (default: PyTorch's choice; own: 1)"
    rows = [("--threads", thread_count, None, text)]
    text = "processes that learn tasks side by side, one thread each, or auto (default: none)"
    rows.append(("--workers", worker_count, None, text))
    text = "HOST:PORT of a Ray cluster to learn on; auto: this machine's (default: none)"
    rows.append(("--cluster", str, None, text))
    add_options(made.speed, rows)


def add_network_options(made: CommandParser) -> None:
    """Add the options of the network: a named one, or the user's own."""
    text = "with --module: inputs are (channels, height, width) instead of flat"
    made.what_in.add_argument("--pictures", action="store_true", help=text)
    text = "lenet-300-100, fc-1024-1024, mlp-WIDTH-..., bnnet-WIDTH-..., conv[-WIDTH-...], "
    text += "vgg-WIDTH-..., cnn, gem-resnet18 or resnet-50"
    made.method.add_argument("--model", help=f"{text} (default: {either('model')})")
    text = "your own network: FUNCTION(input_shape, outputs) (default: use --model)"
    made.method.add_argument("--module", metavar="FILE.py:FUNCTION", help=text)


def stream_of(arguments: argparse.Namespace, network: Network | None) -> Tasks:
    """Make the tasks, with inputs as the options' network takes them.

    `network` is that of the bank, if it exists.
    """
    if arguments.pictures and not arguments.module:
        raise InputError(
            "--pictures: goes with --module; leave it out, named models set their input shape"
        )
    own = arguments.stream == "own"
    if own and arguments.data and arguments.bank:
        bank, data = (Path(path).resolve() for path in (arguments.bank, arguments.data))
        if bank.is_relative_to(data):
            raise InputError(
                f"--bank: {arguments.bank} must not be in the folder of the tasks, "
                f"{arguments.data}; give another folder"
            )
    pictures = arguments.pictures or own if arguments.module else wants_images(arguments.model)
    return tasks_of(
        arguments,
        num_tasks=_NAMED_TASKS.get(arguments.stream, NUM_TASKS),
        layout="image" if pictures else "flat",
        preprocessing=network.preprocessing if network else None,
    )


def module_of(
    arguments: argparse.Namespace, stream: Tasks, outputs: int, *, seed: int
) -> nn.Module:
    """Make the options' network; `seed` is that of its constants."""
    shape = stream.input_shape
    torch.manual_seed(seed % 2**63)  # constants must be the same in the next run
    if arguments.module is not None:
        return load_module(arguments.module, input_shape=shape, outputs=outputs)
    return make_model(arguments.model, input_shape=shape, outputs=outputs, weight_seed=seed)


def parsed(made: CommandParser, words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments; ``--bank`` is required, but for ``--check``."""
    arguments = made.parse_args(words)
    if arguments.bank is None and not getattr(arguments, "check", False):
        made.error("the following arguments are required: --bank")
    return arguments


def bank_network(path: Path) -> Network | None:
    """Return the network of a bank; None if the bank is still to be made."""
    there = (path / "bank.json").exists()
    return MaskBank.open(path, verify=False).network if there else None


def worker_count(text: str) -> int:
    """Parse ``--workers``; auto is 0."""
    return 0 if text == "auto" else whole(1, MAX_WORKERS)(text)


def workers_of(
    arguments: argparse.Namespace, tasks: Tasks, module: nn.Module, *, shared: bool = False
) -> Workers:
    """Return where to learn; refuse more workers than cores or memory.

    `shared` says that tasks learned at once see the same images.
    """
    asked, threads = arguments.workers, arguments.threads or 1
    if arguments.cluster is not None:
        return Workers(count=asked or 0, threads=threads, cluster=arguments.cluster)
    at_once = min(getattr(arguments, "vectorise", 1), tasks.num_tasks)
    negatives = getattr(arguments, "negatives", "none")
    fixed, each = bytes_of_worker(tasks, module, negatives, shared=shared)
    check_room_at_once(at_once, fixed, each)
    needed = fixed + at_once * each
    if asked is None:
        return Workers()
    if not asked:
        return Workers(count=most_workers(needed, threads=threads), threads=threads)
    check_room(asked, needed, threads=threads)
    return Workers(count=asked, threads=threads)


def bytes_of_worker(
    tasks: Tasks, module: nn.Module, negatives: str = "none", *, shared: bool = False
) -> tuple[int, int]:
    """Estimate the memory of a worker, and what each task that it learns at once adds.

    PyTorch, negatives, and a task that is prepared; inputs of the largest task, or an order of
    `shared` ones; scores, optimizer. Activations, which are large for large pictures, are left out.
    """
    if isinstance(tasks, OwnTasks):
        images = max(len(train.rows) + len(test.rows) for train, test in tasks.parts)
    else:
        data, classes = tasks.dataset, 1.0
        if tasks.kind == "split":
            classes = tasks.real_outputs / data.num_classes
        images = int(classes * (len(data.train_x) + len(data.test_x)))
    weights = sum(value.numel() for value in module.parameters())
    inputs = images * math.prod(tasks.input_shape)
    others = 0
    if "others" in negatives.split(","):
        others = 2 * values_of_others(tasks)  # the second without those of a task
    fixed, own = inputs + others, inputs
    if shared:
        fixed, own = fixed + inputs, 2 * images
    return _TORCH_BYTES + 4 * fixed, 4 * (own + _COPIES * weights)


def use_threads(arguments: argparse.Namespace) -> None:
    """Set the number of PyTorch threads; by default PyTorch's choice, 1 for own tasks, workers."""
    threads = arguments.threads
    side_by_side = arguments.workers is not None or arguments.cluster is not None
    if threads is None and (arguments.stream == "own" or side_by_side):
        threads = 1
    if threads is not None:
        torch.set_num_threads(checked_threads(threads))
