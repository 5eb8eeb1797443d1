"""Options, inputs and output that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from supsup_runtime.arrays import Array
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    add_renamed,
    positive,
    say,
    thread_count,
    to_path,
    to_table,
)
from supsup_runtime.data.options import add_stream_options, tasks_of
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import (
    DEFAULT_CANDIDATES,
    DEFAULT_STEP_SIZE,
    DEFAULT_STEPS,
    METHODS,
    SCORES,
    Inference,
)
from supsup_runtime.model.model import Model, load
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import Device, SessionOptions
from supsup_runtime.npyfile import read_npy


def add_model_options(made: CommandParser) -> None:
    """Add options to run a model."""
    made.what_in.add_argument("model", type=to_path, help="model file made by supsup-export")
    made.what_out.add_argument("--json", action="store_true", help="print the result as JSON")
    rows: list[Row] = [
        ("--device", get_args(Device), "cpu", "device to run the model on"),
        ("--threads", thread_count, 1, "threads per call, 1 to 1024"),
    ]
    add_options(made.speed, rows)


def session_of(arguments: argparse.Namespace) -> SessionOptions:
    """Return the session options of a command."""
    return {"device": arguments.device, "threads": arguments.threads}


def load_model(arguments: argparse.Namespace) -> Model:
    """Load the model of a command."""
    return load(arguments.model, **session_of(arguments))


def add_sample_options(
    made: CommandParser, per_task: str, number: Callable[[str], int] = positive
) -> None:
    """Add options to sample a stream; `per_task` is the help of ``--per-task``."""
    add_stream_options(made.what_in, tasks="all of the model's")
    add_options(made.what_in, [("--per-task", number, 100, per_task)])
    add_renamed(made, {"--images": "--per-task"})


def model_tasks(arguments: argparse.Namespace, model: Model) -> Tasks:
    """Make the tasks of a command, with inputs shaped for the model."""
    if arguments.stream == "own" and arguments.seed:
        raise InputError("--seed: goes with streams, got own; leave it out")
    return tasks_of(
        arguments,
        num_tasks=model.num_tasks,
        layout="image" if len(model.info.network.input_shape) == 3 else "flat",
        preprocessing=model.info.network.preprocessing,
    )


def add_inference_options(made: CommandParser, methods: Sequence[str] = METHODS) -> None:
    """Add options to infer the task."""
    method = "task inference method; auto is what the calibration found best, without one "
    method += "exhaustive for up to 32 tasks, else verified (default: auto)"
    score = "auto: as calibrated; log-odds if the network has superfluous outputs, else entropy"
    score = f"verified, exhaustive: score of a forward pass through a mask (default: {score})"
    tried = "verified: number of tasks to try, at least 1 (default: auto: as calibrated; "
    tried += f"{DEFAULT_CANDIDATES})"
    rows: list[Row] = [
        ("--method", ("auto", *methods), None, method),
        ("--score", SCORES, None, score),
        ("--candidates", positive, None, tried),
    ]
    if "gradient" in methods:
        steps = f"gradient: maximum number of passes, at least 1 (default: {DEFAULT_STEPS})"
        size = "gradient: largest change of an alpha per step, above 0 "
        size += f"(default: {DEFAULT_STEP_SIZE})"
        rows.append(("--alpha-steps", positive, None, steps))
        rows.append(("--alpha-step-size", float, None, size))
        add_renamed(made, {"--steps": "--alpha-steps", "--step-size": "--alpha-step-size"})
    add_options(made.method, rows)


def inference_of(arguments: argparse.Namespace, default: Inference) -> Inference:
    """Return the inference settings of a command; those of `default` where none are given."""
    method = None if arguments.method == "auto" else arguments.method
    settings = {
        "score": arguments.score,
        "candidates": arguments.candidates,
        "steps": getattr(arguments, "alpha_steps", None),  # absent if `gradient` is not a choice
        "step_size": getattr(arguments, "alpha_step_size", None),
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if method is not None:
        return Inference(method=method, **given)
    return replace(default, method="verified" if "candidates" in given else default.method, **given)


def read_inputs(file: Path, input_shape: tuple[int, ...]) -> Array:
    """Read pictures (``uint8``), a batch, or one input as a batch of one, from a ``.npy`` file."""
    x = read_npy(file)
    return x[None] if x.shape == input_shape and x.dtype != "uint8" else x


def prediction_text(prediction: Prediction, names: Sequence[str] = ()) -> str:
    """Format one row per input, with its name if given; `accepted` only if calibrated."""
    judged = prediction.known if None not in prediction.known else ()
    header = ["file" if names else "row", "task", "label", "logit"] + ["accepted"] * bool(judged)
    answers = zip(prediction.tasks, prediction.labels, prediction.label_indices, strict=True)
    rows = [
        (
            names[row] if names else row,
            task.name,
            label,
            f"{prediction.logits[row, index]:.3f}",
            *("yes" if known else "no" for known in judged[row : row + 1]),
        )
        for row, (task, label, index) in enumerate(answers)
    ]
    return to_table(header, rows)


def say_progress(name: str, done: int, total: int) -> None:
    """Print the progress to stderr."""
    say(f"{name}: {done} of {total}")
