"""Options that the commands of training have in common."""

from __future__ import annotations

from pathlib import Path

import torch

from supsup_runtime.console import CommandParser, Row, add_options, positive
from supsup_runtime.data.options import add_stream_options
from supsup_train.masks.recipe import Recipe

NUM_TASKS = 10
"""Tasks of the stream where ``--tasks`` is missing."""


def add_training_options(made: CommandParser) -> None:
    """Add what is learned from, where it goes, for how long, and how fast."""
    add_stream_options(made.what_in, tasks=str(NUM_TASKS))
    text = "folder of the mask bank, made if missing"
    made.what_out.add_argument("--bank", type=Path, required=True, metavar="FOLDER", help=text)
    text = "file that gets one JSON line per task (default: BANK/train.jsonl)"
    made.what_out.add_argument("--log", type=Path, metavar="FILE", help=text)
    made.what_out.add_argument("--quiet", action="store_true", help="show no progress bar")
    recipe = Recipe()
    rows: list[Row] = [
        ("--steps", positive, recipe.steps, "batches that each task is learned from"),
        ("--batch-size", positive, recipe.batch_size, "inputs per batch"),
    ]
    add_options(made.method, rows)
    text = "threads of PyTorch, 1 is best for small networks (default: PyTorch's choice)"
    add_options(made.speed, [("--threads", positive, None, text)])


def use_threads(threads: int | None) -> None:
    """Set PyTorch's threads, if there is a number."""
    if threads is not None:
        torch.set_num_threads(threads)
