"""The command ``supsup-hopfield recover``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import get_args

from supsup_runtime.arrays import checked_images
from supsup_runtime.cli.options import add_model_options, prediction_text, read_inputs, session_of
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    add_renamed,
    from_zero,
    positive,
    print_result,
    to_path,
)
from supsup_runtime.recovery.descent import SCHEDULES, Recovery, Statistics
from supsup_runtime.recovery.model import load_hopfield

_SETTINGS: dict[str, tuple[Callable[[str], object] | tuple[str, ...], str]] = {
    "start": (("mean", "zero"), "initial scores: mean of the stored masks, or zero"),
    "statistics": (get_args(Statistics), "batch normalisation statistics: of the batch or running"),
    "step_size": (float, "step size of the descent on the scores, above 0"),
    "momentum": (float, "momentum of the descent, in [0, 1)"),
    "weight_decay": (float, "fraction of the scores added to the gradient, at least 0"),
    "energy_strength": (float, "factor of the energy term, at least 0"),
    "max_entropy_ratio": (
        float,
        "largest accepted entropy, as a multiple of the stored task's own, at least 1",
    ),
    "look_every": (
        from_zero,
        "check where the mask settles every N steps, 0 to check only at the end",
    ),
    "restart_every": (from_zero, "restart after N steps without a match, 0 for never"),
}
"""Options that are fields of `Recovery`."""


def add_recovery_options(made: CommandParser) -> None:
    """Add the options of the command."""
    add_model_options(made)
    text = ".npy file with a float32 batch (batch, ...) or one input, of one task"
    made.what_in.add_argument("input", type=to_path, help=text)
    rows: list[Row] = [
        ("--batch-size", positive, 64, "inputs per batch"),
        ("--steps", positive, None, "maximum number of steps, at least 1 (default: one per batch)"),
    ]
    add_options(made.what_in, rows)
    text = "strengths of entropy and energy: linear shifts from entropy to energy, constant "
    text += "keeps both in full"
    rows = [("--strengths", tuple(SCHEDULES), "linear", text)]
    usual = Recovery()
    for name, (kind, text) in _SETTINGS.items():
        rows.append(("--" + name.replace("_", "-"), kind, getattr(usual, name), text))
    add_options(made.method, rows)
    add_renamed(made, {"--schedule": "--strengths"})


def recover(arguments: argparse.Namespace) -> None:
    """Recover a mask and, if it is a stored one, predict with it."""
    model = load_hopfield(arguments.model, **session_of(arguments))
    shape = model.info.network.input_shape
    x = read_inputs(arguments.input, shape)
    x = model.prepare(x) if x.dtype == "uint8" else checked_images(x, shape)
    size = arguments.batch_size
    begin = time.perf_counter()
    found = model.recover(
        [x[row : row + size] for row in range(0, len(x), size)],
        steps=arguments.steps,
        schedule=SCHEDULES[arguments.strengths],
        settings=Recovery(**{name: getattr(arguments, name) for name in _SETTINGS}),
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
