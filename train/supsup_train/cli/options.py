"""Options that the commands of training have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from supsup_runtime.console import GROUPS, Options, positive
from supsup_runtime.data.options import add_stream_options
from supsup_train.masks.recipe import Recipe

__all__ = ["NUM_TASKS", "add_training_options", "use_threads"]

NUM_TASKS = 10
"""Tasks of the stream where ``--tasks`` is missing."""


def add_training_options(made: argparse.ArgumentParser) -> list[Options]:
    """Add what is learned from, where it goes, for how long, and how fast; the groups, as `GROUPS`.

    Args:
        made: Gets the groups, which the command adds its own options to.
    """
    groups: list[Options] = [made.add_argument_group(title) for title in GROUPS]
    inputs, outputs, method, speed = groups
    add_stream_options(inputs, tasks=str(NUM_TASKS))
    outputs.add_argument(
        "--bank",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the mask bank, made if missing",
    )
    outputs.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="gets one JSON line per task (default: BANK/train.jsonl)",
    )
    outputs.add_argument("--quiet", action="store_true", help="show no progress bar")
    default = Recipe()
    method.add_argument(
        "--steps",
        type=positive,
        default=default.steps,
        metavar="N",
        help=f"batches that each task is learned from (default: {default.steps})",
    )
    method.add_argument(
        "--batch-size",
        type=positive,
        default=default.batch_size,
        metavar="N",
        help=f"inputs per batch (default: {default.batch_size})",
    )
    speed.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="threads of PyTorch; 1 is best for small networks (default: PyTorch's)",
    )
    return groups


def use_threads(threads: int | None) -> None:
    """Set PyTorch's threads, if there is a number."""
    if threads is not None:
        torch.set_num_threads(threads)
