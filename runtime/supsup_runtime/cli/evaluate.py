"""The command supsup-eval: accuracy and speed of a model on a stream of tasks."""

from __future__ import annotations

import argparse
import sys
import time
from statistics import fmean, median
from typing import Any

import numpy as np

from supsup_runtime.cli.common import parser, print_result, run_command, to_table
from supsup_runtime.cli.run import add_model_options, load_model
from supsup_runtime.errors import InputError
from supsup_runtime.inference import METHODS, Method
from supsup_runtime.model import Model
from supsup_runtime.sources import load_dataset
from supsup_runtime.streams import STREAM_KINDS, Stream, TaskData, make_stream

__all__ = ["evaluate_task", "main"]

_EXAMPLES = (
    "out.onnx permuted",
    "out.onnx permuted --data mnist/ --tasks 10 --images 100 --method one-shot --json",
)
_CHUNK = 1000


def main() -> None:
    """Run the command."""
    run_command("supsup-eval", _run)


def _run() -> None:
    made = parser(
        "supsup-eval",
        "Evaluate a model on a stream of tasks: with the task known on every test image, with it "
        "unknown on some, one image at a time.",
        _EXAMPLES,
    )
    add_model_options(made)
    made.add_argument("stream", choices=STREAM_KINDS)
    made.add_argument("--data", help="folder of IDX files, or an .npz; the digits if missing")
    made.add_argument("--tasks", type=int, help="tasks to evaluate; all of the model's if missing")
    made.add_argument("--seed", type=int, default=0, help="of the stream, as in training")
    made.add_argument("--images", type=int, default=100, help="images a task to infer the task of")
    made.add_argument("--method", choices=METHODS, help="how to infer; verified by default")
    arguments = made.parse_args()
    model = load_model(arguments)
    if arguments.images < 0:
        raise InputError(f"--images must be at least 0, got {arguments.images}")
    stream = _stream(arguments, model)
    rows = []
    for index in range(stream.num_tasks):
        data = stream.task(index, train=False)
        rows.append(evaluate_task(model, data, images=arguments.images, method=arguments.method))
        sys.stderr.write(f"{data.name}: {index + 1} of {stream.num_tasks}\n")
    value = {"method": arguments.method or model.default_method, "tasks": rows, **_means(rows)}
    print_result(value, as_json=arguments.json, text=_to_text(rows, value))


def evaluate_task(
    model: Model, data: TaskData, *, images: int, method: Method | None = None
) -> dict[str, Any]:
    """Evaluate one task.

    Args:
        model: A loaded model that has a task of the data's name.
        data: Its test part is used.
        images: Test images whose task is inferred, each on its own: a sample of each task's own,
            the same in every run.
        method: How to infer.

    Returns:
        ``known``, ``unknown``, ``inferred``: fractions in ``[0, 1]``, those of images in order
        right with the task given, right with it inferred (a wrong task counts as wrong even where
        the label agrees: the paper's GNu), and of tasks inferred right; ``known_ms`` and
        ``unknown_ms``: medians a single image. What was not measured is None.
    """
    task = model.task(data.name)
    x, y = data.test_x, data.test_y
    labels = [
        model.predict(x[i : i + _CHUNK], task.index).label_indices for i in range(0, len(x), _CHUNK)
    ]
    row: dict[str, Any] = {
        "images": min(images, len(x)),
        "known": float((np.concatenate(labels) == y).mean()),
        "task": data.name,
        "test_images": len(x),
    }
    row["known_ms"] = _median_ms(
        [_timed(model, x[i : i + 1], task.index)[1] for i in range(min(20, len(x)))]
    )
    right, inferred, times = 0, 0, []
    for i in _sample(len(x), images, task.index):
        prediction, milliseconds = _timed(model, x[i : i + 1], None, method)
        times.append(milliseconds)
        hit = prediction.task.index == task.index
        inferred += hit
        right += hit and int(prediction.label_indices[0]) == int(y[i])
    row["unknown"] = right / row["images"] if times else None
    row["inferred"] = inferred / row["images"] if times else None
    row["unknown_ms"] = _median_ms(times)
    return row


def _sample(count: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of `count` rows, in order; RandomState's stream is frozen by numpy."""
    return sorted(np.random.RandomState(seed).permutation(count)[:wanted].tolist())


def _timed(
    model: Model, x: np.typing.NDArray[np.float32], task: int | None, method: Method | None = None
) -> tuple[Any, float]:
    start = time.perf_counter()
    prediction = model.predict(x, task, method=method)
    return prediction, (time.perf_counter() - start) * 1e3


def _stream(arguments: argparse.Namespace, model: Model) -> Stream:
    num_tasks = model.num_tasks if arguments.tasks is None else arguments.tasks
    stream = make_stream(
        arguments.stream,
        load_dataset(arguments.data),
        num_tasks=num_tasks,
        seed=arguments.seed,
        layout="image" if len(model.info.network.input_shape) == 3 else "flat",
    )
    if stream.input_shape != model.info.network.input_shape:
        raise InputError(
            f"{arguments.data or 'digits'}: the model takes inputs "
            f"{model.info.network.input_shape}, the data have {stream.input_shape}"
        )
    return stream


def _median_ms(times: list[float]) -> float | None:
    return round(median(times), 3) if times else None


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    for key in ("known", "unknown", "inferred", "known_ms", "unknown_ms"):
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = fmean(values) if values else None
    return means


def _to_text(rows: list[dict[str, Any]], total: dict[str, Any]) -> str:
    keys = ("known", "unknown", "inferred", "known_ms", "unknown_ms")

    def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
        shown = [
            "-" if row[key] is None else f"{row[key]:.2f}" if "ms" in key else f"{row[key]:.4f}"
            for key in keys
        ]
        return (name, *shown)

    body = [line(row["task"], row) for row in rows] + [line("mean", total)]
    return to_table(("task", *keys), body) + f"\nmethod: {total['method']}"
