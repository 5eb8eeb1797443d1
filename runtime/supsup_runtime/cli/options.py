"""Options that several commands share, and what they ask for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from supsup_runtime.console import Options, add_renamed
from supsup_runtime.data.options import stream_of
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream
from supsup_runtime.model.inference import (
    DEFAULT_CANDIDATES,
    DEFAULT_STEP_SIZE,
    DEFAULT_STEPS,
    METHODS,
    SCORES,
    Inference,
)
from supsup_runtime.model.model import Model, load
from supsup_runtime.model.session import Device, SessionOptions

__all__ = [
    "add_alpha_options",
    "add_inference_options",
    "add_session_options",
    "inference_of",
    "load_model",
    "model_stream",
    "say_progress",
    "session_of",
]


def add_session_options(what_in: Options, speed: Options) -> None:
    """Options of every command that runs a model: which, where, and with how many threads."""
    what_in.add_argument("model", type=Path, help="a model of supsup-export")
    speed.add_argument(
        "--device", choices=get_args(Device), default="cpu", help="where it runs (default: cpu)"
    )
    speed.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of one call (default: 1)"
    )


def session_of(arguments: argparse.Namespace) -> SessionOptions:
    """The session that `add_session_options` describes."""
    return {"device": arguments.device, "threads": arguments.threads}


def load_model(arguments: argparse.Namespace) -> Model:
    """The model that `add_session_options` describes."""
    return load(arguments.model, **session_of(arguments))


def model_stream(arguments: argparse.Namespace, model: Model) -> Stream:
    """The stream that `add_stream_options` describes, with inputs as the model takes them."""
    return stream_of(
        arguments,
        load_dataset(arguments.data),
        num_tasks=model.num_tasks,
        layout="image" if len(model.info.network.input_shape) == 3 else "flat",
    )


def add_inference_options(method: Options, methods: Sequence[str] = METHODS) -> None:
    """Options of every command that infers a task by one of `methods`."""
    method.add_argument(
        "--method", choices=methods, help="how to infer the task (default: by what the model has)"
    )
    method.add_argument(
        "--score",
        choices=SCORES,
        help="verified, exhaustive: what judges a forward pass (default: log-odds where there are "
        "superfluous outputs, else entropy)",
    )
    method.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help=f"verified: tasks to try with a forward pass (default: {DEFAULT_CANDIDATES})",
    )


def add_alpha_options(method: Options) -> None:
    """Options of every command that may infer by ``gradient``."""
    method.add_argument(
        "--alpha-steps",
        type=int,
        metavar="N",
        help=f"gradient: passes at most (default: {DEFAULT_STEPS})",
    )
    method.add_argument(
        "--alpha-step-size",
        type=float,
        metavar="A",
        help=f"gradient: what one step changes an alpha by at most (default: {DEFAULT_STEP_SIZE})",
    )
    add_renamed(method, {"--steps": "--alpha-steps", "--step-size": "--alpha-step-size"})


def inference_of(arguments: argparse.Namespace, model: Model) -> Inference:
    """The inference that `add_inference_options` and `add_alpha_options` describe."""
    return Inference(
        method=arguments.method or model.default_method,
        score=arguments.score,
        candidates=arguments.candidates,
        steps=arguments.alpha_steps,
        step_size=arguments.alpha_step_size,
    )


def say_progress(name: str, done: int, total: int) -> None:
    """Say on stderr which task is done."""
    sys.stderr.write(f"{name}: {done} of {total}\n")
