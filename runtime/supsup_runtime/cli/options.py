"""What several commands share: options, what they ask for, inputs, and predictions as text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from supsup_runtime.arrays import Images
from supsup_runtime.console import (
    CommandParser,
    Row,
    add_options,
    add_renamed,
    positive,
    read_array,
    to_table,
)
from supsup_runtime.data.options import add_stream_options, stream_of
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream
from supsup_runtime.model.inference import (
    DEFAULT_CANDIDATES,
    DEFAULT_STEP_SIZE,
    DEFAULT_STEPS,
    METHODS,
    SCORES,
    Inference,
    Method,
)
from supsup_runtime.model.model import Model, load
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import Device, SessionOptions


def add_model_options(made: CommandParser) -> None:
    """Options of every command that runs a model."""
    made.what_in.add_argument("model", type=Path, help="a model of supsup-export")
    made.what_out.add_argument("--json", action="store_true", help="answer in JSON")
    rows: list[Row] = [
        ("--device", get_args(Device), "cpu", "where the model runs"),
        ("--threads", positive, 1, "threads of one call"),
    ]
    add_options(made.speed, rows)


def session_of(arguments: argparse.Namespace) -> SessionOptions:
    """The session that `add_model_options` describes."""
    return {"device": arguments.device, "threads": arguments.threads}


def load_model(arguments: argparse.Namespace) -> Model:
    """The model that `add_model_options` describes."""
    return load(arguments.model, **session_of(arguments))


def add_sample_options(
    made: CommandParser, per_task: str, number: Callable[[str], int] = positive
) -> None:
    """Options of every command that takes a sample of each task; `per_task` says what for."""
    add_stream_options(made.what_in, tasks="all of the model's")
    add_options(made.what_in, [("--per-task", number, 100, per_task)])
    add_renamed(made, {"--images": "--per-task"})


def model_stream(arguments: argparse.Namespace, model: Model) -> Stream:
    """The stream that `add_sample_options` describes, with inputs as the model takes them."""
    return stream_of(
        arguments,
        load_dataset(arguments.data),
        num_tasks=model.num_tasks,
        layout="image" if len(model.info.network.input_shape) == 3 else "flat",
    )


def add_inference_options(made: CommandParser, methods: Sequence[str] = METHODS) -> None:
    """Options of every command that infers a task by one of `methods`."""
    by_default = "log-odds where there are superfluous outputs, else entropy"
    rows: list[Row] = [
        ("--method", methods, None, "way to infer the task (default: verified, where it can be)"),
        ("--score", SCORES, None, f"judge of forward passes through masks (default: {by_default})"),
        ("--candidates", positive, None, f"verified: tasks to try (default: {DEFAULT_CANDIDATES})"),
    ]
    if "gradient" in methods:
        steps = f"gradient: passes at most (default: {DEFAULT_STEPS})"
        size = f"gradient: change of an alpha in a step, at most (default: {DEFAULT_STEP_SIZE})"
        rows.append(("--alpha-steps", positive, None, steps))
        rows.append(("--alpha-step-size", float, None, size))
        add_renamed(made, {"--steps": "--alpha-steps", "--step-size": "--alpha-step-size"})
    add_options(made.method, rows)


def inference_of(arguments: argparse.Namespace, default: Method) -> Inference:
    """The inference that `add_inference_options` describes."""
    return Inference(
        method=arguments.method or default,
        score=arguments.score,
        candidates=arguments.candidates,
        steps=getattr(arguments, "alpha_steps", None),  # only where `gradient` is among the methods
        step_size=getattr(arguments, "alpha_step_size", None),
    )


def read_inputs(path: Path, input_shape: tuple[int, ...]) -> Images:
    """A batch from a ``.npy`` file, or one input as a batch of one; the model checks it."""
    x = read_array(path)
    return x[None] if x.shape == input_shape else x


def prediction_text(prediction: Prediction) -> str:
    """A row for each input; whether its task is known where the model can tell."""
    judged = prediction.known if None not in prediction.known else ()
    header = ("row", "task", "label", "logit", *(["known"] if judged else []))
    answers = zip(prediction.tasks, prediction.labels, prediction.label_indices, strict=True)
    rows = [
        (
            row,
            task.name,
            label,
            f"{prediction.logits[row, index]:.3f}",
            *("yes" if known else "no" for known in judged[row : row + 1]),
        )
        for row, (task, label, index) in enumerate(answers)
    ]
    return to_table(header, rows)


def say_progress(name: str, done: int, total: int) -> None:
    """Say on stderr which task is done."""
    sys.stderr.write(f"{name}: {done} of {total}\n")
