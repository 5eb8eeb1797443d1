"""The command supsup-run: a model on an array from a file."""

from __future__ import annotations

import argparse
import math
import re
import time
from pathlib import Path
from typing import Any

from supsup_runtime.cli.recover import add_recovery_options, recovery, refuse_recovery_options
from supsup_runtime.cli.rows import prediction_text, read_inputs
from supsup_runtime.console import parser, print_result, run_command
from supsup_runtime.model.inference import METHODS, SCORES, Inference
from supsup_runtime.model.model import Model, load
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.model.session import Device

__all__ = ["add_inference_options", "add_model_options", "inference_of", "load_model", "main"]

_EXAMPLES = (
    "out.onnx input.npy",
    "out.onnx input.npy --task rotated-090",
    "out.onnx input.npy --per-image --json",
    "recover.onnx stream.npy --recover",
)


def main() -> None:
    """Run the command."""
    run_command("supsup-run", _run)


def add_model_options(made: argparse.ArgumentParser) -> None:
    """Options of every command that runs a model."""
    made.add_argument("model", type=Path, help="a model of supsup-export")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--threads", type=int, default=1, help="threads of one call")
    made.add_argument("--json", action="store_true", help="answer in JSON")


def load_model(arguments: argparse.Namespace) -> Model:
    """The model that `add_model_options` describes."""
    device: Device = arguments.device
    return load(arguments.model, device=device, threads=arguments.threads)


def add_inference_options(made: argparse.ArgumentParser) -> None:
    """Options of every command that infers a task."""
    made.add_argument("--method", choices=METHODS, help="how to infer; verified by default")
    made.add_argument("--score", choices=SCORES, help="verified, exhaustive: what judges a pass")
    made.add_argument("--candidates", type=int, help="verified: tasks to try; 4 by default")
    made.add_argument("--steps", type=int, help="gradient: passes at most; 5 by default")
    made.add_argument("--step-size", type=float, help="gradient: an alpha's step; 0.5 by default")


def inference_of(arguments: argparse.Namespace, model: Model) -> Inference:
    """The inference that `add_inference_options` describes."""
    return Inference(
        method=arguments.method or model.default_method,
        score=arguments.score,
        candidates=arguments.candidates,
        steps=arguments.steps,
        step_size=arguments.step_size,
    )


def _run() -> None:
    made = parser("supsup-run", "Run a model on inputs from a .npy file.", _EXAMPLES)
    add_model_options(made)
    made.add_argument("input", type=Path, help="float32 (batch, ...) or one input, as .npy")
    made.add_argument("--task", help="the task's name or index; inferred if missing")
    made.add_argument("--per-image", action="store_true", help="infer each row's task")
    add_inference_options(made)
    add_recovery_options(made)
    arguments = made.parse_args()
    value, text = recovery(arguments) if arguments.recover else _prediction(arguments)
    print_result(value, as_json=arguments.json, text=text)


def _prediction(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    refuse_recovery_options(arguments)
    model = load_model(arguments)
    how = inference_of(arguments, model)
    x = read_inputs(arguments.input, model.info.network.input_shape)
    start = time.perf_counter()
    prediction = model.predict(
        x, _task(arguments.task, model), per_image=arguments.per_image, method=how
    )
    milliseconds = (time.perf_counter() - start) * 1e3
    return _to_dict(prediction, milliseconds), prediction_text(prediction)


def _task(given: str | None, model: Model) -> int | str | None:
    """A task as the shell gives it: its name if there is one, else its index."""
    names = {task.name for task in model.tasks}
    if given is None or given in names or not re.fullmatch(r"-?[0-9]{1,9}", given):
        return given
    return int(given)


def _to_dict(prediction: Prediction, milliseconds: float) -> dict[str, Any]:
    return {
        "known": list(prediction.known),
        "labels": list(prediction.labels),
        "logits": prediction.logits.tolist(),
        "margins": [
            inference.margin if math.isfinite(inference.margin) else None  # one task, no rival
            for inference in prediction.inferences
        ],
        "method": prediction.inferences[0].method if prediction.inferences else None,
        "milliseconds": round(milliseconds, 3),
        "passes": [inference.passes for inference in prediction.inferences],
        "tasks": [task.name for task in prediction.tasks],
    }
