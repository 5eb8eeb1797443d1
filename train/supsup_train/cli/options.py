"""Options that the training commands share."""

from __future__ import annotations

import torch

from supsup_runtime.arrays import checked_threads
from supsup_runtime.console import CommandParser, Row, add_options, positive, thread_count, to_path
from supsup_runtime.data.options import add_stream_options
from supsup_train.masks.recipe import Recipe

NUM_TASKS = 10
"""Default of ``--tasks``."""


def add_training_options(made: CommandParser) -> None:
    """Add the options of the stream, the bank, the log, the steps and the threads."""
    add_stream_options(made.what_in, tasks=str(NUM_TASKS))
    text = "folder of the mask bank, created if missing"
    made.what_out.add_argument("--bank", type=to_path, required=True, metavar="FOLDER", help=text)
    text = "log file, one JSON line per task (default: BANK/train.jsonl)"
    made.what_out.add_argument("--log", type=to_path, metavar="FILE", help=text)
    made.what_out.add_argument("--quiet", action="store_true", help="hide the progress bar")
    recipe = Recipe()
    rows: list[Row] = [
        ("--steps", positive, recipe.steps, "training batches per task"),
        ("--batch-size", positive, recipe.batch_size, "inputs per batch"),
    ]
    add_options(made.method, rows)
    text = "PyTorch threads; 1 is best for small networks (default: PyTorch's choice)"
    add_options(made.speed, [("--threads", thread_count, None, text)])


def use_threads(threads: int | None) -> None:
    """Set the number of PyTorch threads unless it is None."""
    if threads is not None:
        torch.set_num_threads(checked_threads(threads))
