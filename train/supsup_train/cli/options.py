"""Options that the training commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from supsup_runtime.arrays import checked_threads
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.console import CommandParser, Row, add_options, positive, thread_count, to_path
from supsup_runtime.data.options import add_stream_options
from supsup_train.masks.recipe import Recipe

NUM_TASKS = 10
"""Default of ``--tasks``."""


def add_training_options(made: CommandParser, *, steps: str) -> None:
    """Add the options of the stream, the bank, the log, the steps and the threads.

    `steps` is the default of ``--steps`` in the help.
    """
    add_stream_options(made.what_in, tasks=str(NUM_TASKS))
    text = "folder of the mask bank, created if missing"
    made.what_out.add_argument("--bank", type=to_path, metavar="FOLDER", help=f"{text} (required)")
    text = "log file, one JSON line per task (default: BANK/train.jsonl)"
    made.what_out.add_argument("--log", type=to_path, metavar="FILE", help=text)
    made.what_out.add_argument("--quiet", action="store_true", help="hide the progress bar")
    recipe = Recipe()
    rows: list[Row] = [
        ("--steps", positive, None, f"training batches per task (default: {steps})"),
        ("--batch-size", positive, recipe.batch_size, "inputs per batch"),
    ]
    add_options(made.method, rows)
    text = "PyTorch threads; 1 is best for small networks (default: PyTorch's choice)"
    add_options(made.speed, [("--threads", thread_count, None, text)])


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


def use_threads(threads: int | None) -> None:
    """Set the number of PyTorch threads unless it is None."""
    if threads is not None:
        torch.set_num_threads(checked_threads(threads))
