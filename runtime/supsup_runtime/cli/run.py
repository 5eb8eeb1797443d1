"""The command supsup-run."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from supsup_runtime.arrays import Array, Given
from supsup_runtime.cli.options import (
    add_inference_options,
    add_model_options,
    inference_of,
    load_model,
    prediction_text,
    read_inputs,
)
from supsup_runtime.console import add_renamed, parser, print_result, to_path
from supsup_runtime.data.options import own_tasks
from supsup_runtime.data.own.folders import pictures_in
from supsup_runtime.data.own.pictures import read_picture
from supsup_runtime.errors import InputError
from supsup_runtime.model.model import Model
from supsup_runtime.model.prediction import Prediction
from supsup_runtime.preprocessing import Preprocessing

_EXAMPLES = (
    "out.onnx input.npy",
    "out.onnx input.npy --task rotated-090",
    "out.onnx input.npy --per-image --json",
    "out.onnx first.png second.jpg",
    "out.onnx pictures/animals/cat/ --task animals",
    "out.onnx tasks.toml --json",
)
_INFERRING = ("per_image", "method", "score", "candidates", "alpha_steps", "alpha_step_size")


def run() -> None:
    """Run the command."""
    made = parser(
        "supsup-run", "Run a model on inputs from a .npy file, or on pictures.", _EXAMPLES
    )
    add_model_options(made)
    text = ".npy file with a float32 batch (batch, ...), one input, or uint8 pictures; or picture "
    text += (
        "files, a folder of them, or a tasks.toml, if the model has preprocessing; each picture "
    )
    text += "has a task of its own"
    made.what_in.add_argument("input", type=to_path, nargs="+", help=text)
    made.what_in.add_argument(
        "--task", metavar="NAME", help="name or index of the task (default: infer the task)"
    )
    text = "infer the task of each input separately"
    made.method.add_argument("--per-image", action="store_true", help=text)
    add_inference_options(made)
    add_renamed(made, {"--recover": "supsup-hopfield recover"})
    arguments = made.parse_args()
    model = load_model(arguments)
    x, files = _read(arguments.input, model)
    start = time.perf_counter()
    prediction = _predict(model, x, arguments, per_image=arguments.per_image or bool(files))
    milliseconds = (time.perf_counter() - start) * 1e3
    value = prediction.to_dict() | {"milliseconds": round(milliseconds, 3)}
    value |= {"files": files} if files else {}
    print_result(value, as_json=arguments.json, text=prediction_text(prediction, files))


def _read(paths: list[Path], model: Model) -> tuple[Given, list[str]]:
    """Return the inputs, and the names of their files if they are pictures."""
    arrays = [path for path in paths if path.suffix == ".npy"]
    if arrays and len(paths) > 1:
        raise InputError(f"{arrays[0]}: must be the only input, or pictures alone; run it for each")
    if arrays:
        return read_inputs(paths[0], model.info.network.input_shape), []
    if model.info.network.preprocessing is None:
        raise InputError(
            f"{paths[0]}: must be a .npy file, as {model.place} has no preprocessing for pictures; "
            "prepare them as in training and save them with numpy.save"
        )
    names: list[str] = []
    x: list[Array] = []
    for name, picture in _pictures(paths, model.info.network.preprocessing):
        names.append(name)  # a picture can be large, so each is prepared before the next is read
        x.append(picture if model.info.baked else model.prepare(picture))
    return x if model.info.baked else np.concatenate(x), names


def _pictures(paths: list[Path], steps: Preprocessing) -> Iterator[tuple[str, Array]]:
    """Yield the pictures of files, of folders, and of the test parts of own tasks, by name."""
    for path in paths:
        if path.suffix == ".toml":
            tasks = own_tasks(path, steps)
            for index in range(tasks.num_tasks):
                yield from tasks.pictures(index, as_stored=True)
        else:
            for file in pictures_in(path) if path.is_dir() else [path]:
                yield str(file), read_picture(file)


def _predict(
    model: Model, x: Given, arguments: argparse.Namespace, *, per_image: bool
) -> Prediction:
    if arguments.task is None:
        how = inference_of(arguments, model.how())
        return model.predict(x, per_image=per_image, method=how, timings=True)
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
