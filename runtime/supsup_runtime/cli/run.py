"""The command supsup-run."""

from __future__ import annotations

import argparse
import re
import time

from supsup_runtime.arrays import Images
from supsup_runtime.cli.options import (
    add_inference_options,
    add_model_options,
    inference_of,
    load_model,
    prediction_text,
    read_inputs,
)
from supsup_runtime.console import add_renamed, parser, print_result, run_command, to_path
from supsup_runtime.errors import InputError
from supsup_runtime.model.model import Model
from supsup_runtime.model.prediction import Prediction

_EXAMPLES = (
    "out.onnx input.npy",
    "out.onnx input.npy --task rotated-090",
    "out.onnx input.npy --per-image --json",
)
_INFERRING = ("per_image", "method", "score", "candidates", "alpha_steps", "alpha_step_size")


def main() -> None:
    """Run the command."""
    run_command("supsup-run", _run)


def _run() -> None:
    made = parser("supsup-run", "Run a model on inputs from a .npy file.", _EXAMPLES)
    add_model_options(made)
    text = ".npy file with a float32 batch (batch, ...) or one input"
    made.what_in.add_argument("input", type=to_path, help=text)
    made.what_in.add_argument(
        "--task", metavar="NAME", help="name or index of the task (default: infer the task)"
    )
    text = "infer the task of each input separately"
    made.method.add_argument("--per-image", action="store_true", help=text)
    add_inference_options(made)
    add_renamed(made, {"--recover": "supsup-hopfield recover"})
    arguments = made.parse_args()
    model = load_model(arguments)
    x = read_inputs(arguments.input, model.info.network.input_shape)
    start = time.perf_counter()
    prediction = _predict(model, x, arguments)
    milliseconds = (time.perf_counter() - start) * 1e3
    value = prediction.to_dict() | {"milliseconds": round(milliseconds, 3)}
    print_result(value, as_json=arguments.json, text=prediction_text(prediction))


def _predict(model: Model, x: Images, arguments: argparse.Namespace) -> Prediction:
    if arguments.task is None:
        how = inference_of(arguments, model.default_method)
        return model.predict(x, per_image=arguments.per_image, method=how, timings=True)
    for name in _INFERRING:
        given = getattr(arguments, name)
        if given is not None and given is not False:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{option}: applies only if the task is inferred; omit it or --task")
    return model.predict(x, _task(arguments.task, model), timings=True)


def _task(given: str, model: Model) -> int | str:
    """Parse ``--task``: a task's name if one matches, else an index."""
    names = {task.name for task in model.tasks}
    if given in names or not re.fullmatch(r"-?[0-9]{1,9}", given):
        return given
    return int(given)
