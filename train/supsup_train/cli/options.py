"""Options that the commands of training have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from supsup_runtime.console import Options, option_groups, positive
from supsup_runtime.data.options import add_stream_options
from supsup_train.masks.recipe import Recipe

__all__ = [
    "NUM_TASKS",
    "Row",
    "add_options",
    "add_training_options",
    "from_zero",
    "use_threads",
]

NUM_TASKS = 10
"""Tasks of the stream where ``--tasks`` is missing."""
Row = tuple[str, Callable[[str], float] | tuple[str, ...], float | str | None, str]
"""An option: its name, the type of a number or the choices, what it is if missing, and the help."""


def add_options(group: Options, rows: Iterable[Row]) -> None:
    """Add options to a group."""
    for name, kind, default, text in rows:
        if isinstance(kind, tuple):
            group.add_argument(name, choices=kind, default=default, help=text)
        else:
            metavar = "X" if kind is float else "N"
            group.add_argument(name, type=kind, default=default, metavar=metavar, help=text)


def add_training_options(
    made: argparse.ArgumentParser,
) -> tuple[Options, Options, Options, Options]:
    """Add what is learned from, where it goes, for how long, and how fast; the groups, as `GROUPS`.

    Args:
        made: Gets the groups, which the command adds its own options to.
    """
    groups = inputs, outputs, method, speed = option_groups(made)
    add_stream_options(inputs, tasks=str(NUM_TASKS))
    text = "folder of the mask bank, made if missing"
    outputs.add_argument("--bank", type=Path, required=True, metavar="FOLDER", help=text)
    text = "file that gets one JSON line per task (default: BANK/train.jsonl)"
    outputs.add_argument("--log", type=Path, metavar="FILE", help=text)
    outputs.add_argument("--quiet", action="store_true", help="show no progress bar")
    recipe = Recipe()
    rows: list[Row] = [
        ("--steps", positive, recipe.steps, "batches that each task is learned from"),
        ("--batch-size", positive, recipe.batch_size, "inputs per batch"),
    ]
    add_options(method, rows)
    text = "threads of PyTorch, 1 is best for small networks (default: PyTorch's choice)"
    add_options(speed, [("--threads", positive, None, text)])
    return groups


def from_zero(text: str) -> int:
    """The type of an option that is an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text!r}")
    return int(text)


def use_threads(threads: int | None) -> None:
    """Set PyTorch's threads, if there is a number."""
    if threads is not None:
        torch.set_num_threads(threads)
