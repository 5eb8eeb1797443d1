"""``supsup-run --recover``: a mask from a Hopfield store, then the labels through it."""

from __future__ import annotations

import argparse
import math
import time
from typing import Any, get_args

from supsup_runtime.arrays import checked_images
from supsup_runtime.cli.rows import prediction_text, read_inputs
from supsup_runtime.errors import InputError
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import Device
from supsup_runtime.recovery.descent import SCHEDULES, Recovery, Statistics
from supsup_runtime.recovery.model import load_hopfield
from supsup_runtime.recovery.result import Recovered

__all__ = [
    "add_recovery_options",
    "recovered_to_dict",
    "recovery",
    "refuse_recovery_options",
]

BATCH_SIZE = 64
_NUMBERS = {
    "momentum": "of the descent",
    "weight_decay": "of the scores",
    "energy_strength": "factor of the energy",
    "max_entropy_ratio": "entropy over the task's own that is still of it",
    "look_every": "steps from one look to the next, 0 for none",
    "restart_every": "steps in vain to a new beginning, 0 for none",
}
_OTHERS = ("batch_size", "schedule", "start", "statistics")
_OF_INFERENCE = ("task", "per_image", "method", "score", "candidates")


def add_recovery_options(made: argparse.ArgumentParser) -> None:
    """Options of a recovery; ``--steps`` and ``--step-size`` are there already."""
    usual = Recovery()
    group = made.add_argument_group(
        "recovery, of a model of supsup-export --hopfield",
        "--steps is then the number of steps at most, as there are batches by default, and "
        f"--step-size theirs, {usual.step_size:g} by default",
    )
    group.add_argument(
        "--recover", action="store_true", help="recover the mask of the inputs' task first"
    )
    group.add_argument("--batch-size", type=int, help=f"inputs a step; {BATCH_SIZE} by default")
    group.add_argument("--schedule", choices=tuple(SCHEDULES), help="linear by default")
    group.add_argument("--start", choices=("mean", "zero"), help="mean of the masks by default")
    group.add_argument(
        "--statistics", choices=get_args(Statistics), help="of normalisation; batch by default"
    )
    for name, help_ in _NUMBERS.items():
        default = getattr(usual, name)
        said = f"{help_}; {default:g} by default"
        group.add_argument(_option(name), type=type(default), help=said)


def refuse_recovery_options(arguments: argparse.Namespace) -> None:
    """Refuse what means nothing without ``--recover``."""
    for name in (*_NUMBERS, *_OTHERS):
        if getattr(arguments, name) is not None:
            raise InputError(f"{_option(name)}: is of a recovery; add --recover, or leave it out")


def recovery(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Recover a mask, then predict with it where it is a task's; JSON value and text."""
    for name in _OF_INFERENCE:
        given = getattr(arguments, name)
        if given is not None and given is not False:
            raise InputError(f"{_option(name)}: the task is recovered; leave it, or --recover, out")
    device: Device = arguments.device
    model = load_hopfield(arguments.model, device=device, threads=arguments.threads)
    shape = model.info.network.input_shape
    x = checked_images(read_inputs(arguments.input, shape), shape)
    size = BATCH_SIZE if arguments.batch_size is None else arguments.batch_size
    if size < 1:
        raise InputError(f"--batch-size: must be at least 1, got {size}")
    begin = time.perf_counter()
    found = model.recover(
        [x[row : row + size] for row in range(0, len(x), size)],
        steps=arguments.steps,
        schedule=SCHEDULES[arguments.schedule or "linear"],
        settings=_settings(arguments),
    )
    milliseconds = (time.perf_counter() - begin) * 1e3
    prediction = model.predict(x, found) if found.verdict == "stored" else None
    value = {
        **recovered_to_dict(found),
        "labels": None if prediction is None else list(prediction.labels),
        "mask": found.mask.astype(int).tolist(),
        "milliseconds": round(milliseconds, 3),
    }
    return value, _to_text(found, prediction)


def _settings(arguments: argparse.Namespace) -> Recovery:
    names = ("step_size", *_NUMBERS, "start", "statistics")
    given = {name: getattr(arguments, name) for name in names}
    return Recovery(**{name: value for name, value in given.items() if value is not None})


def recovered_to_dict(found: Recovered) -> dict[str, Any]:
    """A recovery as JSON values, but for its mask; null for what is not finite."""
    trace = {key: getattr(found.trace, key).tolist() for key in ("distance", "energy", "entropy")}
    return {
        "converged_after": found.converged_after,
        "entropy": _finite(found.entropy),
        "expected_entropy": found.expected_entropy,
        "looked": found.looked,
        "reason": found.reason,
        "steps": found.steps,
        "task": None if found.task is None else found.task.name,
        "tasks": [task.name for task in found.tasks],
        "trace": {key: [_finite(value) for value in values] for key, values in trace.items()},
        "verdict": found.verdict,
    }


def _finite(value: float) -> float | None:
    """What JSON has a word for: a descent that diverged has none."""
    return value if math.isfinite(value) else None


def _to_text(found: Recovered, prediction: Prediction | None) -> str:
    line = f"{found.verdict}: {found.reason} ({found.steps} steps)"
    return line if prediction is None else f"{line}\n{prediction_text(prediction)}"


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
