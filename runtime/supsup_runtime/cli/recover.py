"""``supsup-hopfield recover``: a mask from a Hopfield store, then the labels through it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

from supsup_runtime.arrays import checked_images
from supsup_runtime.cli.options import add_model_options, prediction_text, read_inputs, session_of
from supsup_runtime.console import CommandParser, add_renamed, positive, print_result
from supsup_runtime.recovery.descent import SCHEDULES, Recovery, Statistics
from supsup_runtime.recovery.model import load_hopfield

__all__ = ["add_recovery_options", "recover"]

_NUMBERS = {
    "step_size": ("A", "step of the descent on the scores"),
    "momentum": ("M", "momentum of the descent, in [0, 1)"),
    "weight_decay": ("D", "fraction of the scores that is added to the gradient"),
    "energy_strength": ("E", "factor of the energy"),
    "max_entropy_ratio": ("R", "a mask with more than R times its task's own entropy is of none"),
    "look_every": ("N", "steps from one look at where the mask settles to the next, 0 for none"),
    "restart_every": ("N", "restart after N steps without a match, 0 for never"),
}


def add_recovery_options(made: CommandParser) -> None:
    """Add the options of a recovery; their defaults are those of `Recovery`."""
    usual = Recovery()
    add_model_options(made)
    made.what_in.add_argument("input", type=Path, help="float32 (batch, ...) of one task, as .npy")
    made.what_in.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="inputs a step"
    )
    made.what_in.add_argument(
        "--steps", type=int, metavar="N", help="steps at most (default: as there are batches)"
    )
    made.method.add_argument(
        "--strengths",
        choices=tuple(SCHEDULES),
        default="linear",
        help="how the strengths of entropy and energy run: from the one to the other, or both in "
        "full",
    )
    add_renamed(made, {"--schedule": "--strengths"})
    made.method.add_argument(
        "--start",
        choices=("mean", "zero"),
        default=usual.start,
        help="scores to start from: the mean of the masks, or zero",
    )
    made.method.add_argument(
        "--statistics",
        choices=get_args(Statistics),
        default=usual.statistics,
        help="what batch normalisation goes by",
    )
    for name, (metavar, text) in _NUMBERS.items():
        default = getattr(usual, name)
        made.method.add_argument(
            "--" + name.replace("_", "-"),
            type=type(default),
            default=default,
            metavar=metavar,
            help=text,
        )


def recover(arguments: argparse.Namespace) -> None:
    """Recover a mask, and predict with it where it is a task's."""
    model = load_hopfield(arguments.model, **session_of(arguments))
    shape = model.info.network.input_shape
    x = checked_images(read_inputs(arguments.input, shape), shape)
    size = arguments.batch_size
    names = (*_NUMBERS, "start", "statistics")
    begin = time.perf_counter()
    found = model.recover(
        [x[row : row + size] for row in range(0, len(x), size)],
        steps=arguments.steps,
        schedule=SCHEDULES[arguments.strengths],
        settings=Recovery(**{name: getattr(arguments, name) for name in names}),
    )
    milliseconds = (time.perf_counter() - begin) * 1e3
    prediction = model.predict(x, found) if found.verdict == "stored" else None
    value = {
        **found.to_dict(),
        "labels": None if prediction is None else list(prediction.labels),
        "mask": found.mask.astype(int).tolist(),
        "milliseconds": round(milliseconds, 3),
    }
    lines = [f"{found.verdict}: {found.reason} ({found.steps} steps)"]
    if prediction is not None:
        lines.append(prediction_text(prediction))
    print_result(value, as_json=arguments.json, text="\n".join(lines))
