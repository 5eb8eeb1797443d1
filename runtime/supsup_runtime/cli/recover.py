"""``supsup-hopfield recover``: a mask from a Hopfield store, then the labels through it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

from supsup_runtime.arrays import checked_images
from supsup_runtime.cli.options import add_model_options, prediction_text, read_inputs, session_of
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    add_renamed,
    positive,
    print_result,
)
from supsup_runtime.recovery.descent import SCHEDULES, Recovery, Statistics
from supsup_runtime.recovery.model import load_hopfield

_SETTINGS: dict[str, tuple[type | tuple[str, ...], str]] = {
    "start": (("mean", "zero"), "scores to start from: the mean of the masks, or zero"),
    "statistics": (get_args(Statistics), "what batch normalisation goes by"),
    "step_size": (float, "step of the descent on the scores"),
    "momentum": (float, "momentum of the descent, in [0, 1)"),
    "weight_decay": (float, "fraction of the scores that is added to the gradient"),
    "energy_strength": (float, "factor of the energy"),
    "max_entropy_ratio": (float, "largest entropy of a task's mask, in multiples of its own"),
    "look_every": (int, "steps from one look at where the mask settles to the next, 0 for none"),
    "restart_every": (int, "restart after N steps without a match, 0 for never"),
}
"""Fields of `Recovery` that are options, which take their defaults from it."""


def add_recovery_options(made: CommandParser) -> None:
    """Add the options of a recovery."""
    add_model_options(made)
    made.what_in.add_argument("input", type=Path, help="float32 (batch, ...) of one task, as .npy")
    rows: list[Row] = [
        ("--batch-size", positive, 64, "inputs per step"),
        ("--steps", int, None, "steps at most (default: one for each batch)"),
    ]
    add_options(made.what_in, rows)
    text = "how the strengths of entropy and energy run: from one to the other, or both in full"
    rows = [("--strengths", tuple(SCHEDULES), "linear", text)]
    usual = Recovery()
    for name, (kind, text) in _SETTINGS.items():
        rows.append(("--" + name.replace("_", "-"), kind, getattr(usual, name), text))
    add_options(made.method, rows)
    add_renamed(made, {"--schedule": "--strengths"})


def recover(arguments: argparse.Namespace) -> None:
    """Recover a mask, and predict with it where it is a task's."""
    model = load_hopfield(arguments.model, **session_of(arguments))
    shape = model.info.network.input_shape
    x = checked_images(read_inputs(arguments.input, shape), shape)
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
