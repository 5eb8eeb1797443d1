"""The command supsup-eval: accuracy and speed of a model on a stream of tasks."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.cli.run import (
    add_inference_options,
    add_model_options,
    inference_of,
    load_model,
)
from supsup_runtime.console import parser, print_result, run_command, to_table
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import LABEL_KINDS, STREAM_KINDS, Stream, TaskData, make_stream
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import Inference, Method, threshold_of
from supsup_runtime.model.model import Model

__all__ = ["add_stream_options", "evaluate_task", "evaluate_unnamed", "main", "stream_of"]

_EXAMPLES = (
    "out.onnx permuted",
    "out.onnx permuted --data mnist/ --tasks 10 --images 100 --method one-shot --json",
)
_CHUNK = 1000
_KEYS = ("known", "unknown", "shared", "inferred", "known_ms", "unknown_ms")


def main() -> None:
    """Run the command."""
    run_command("supsup-eval", _run)


def _run() -> None:
    made = parser(
        "supsup-eval",
        "Evaluate a model on a stream of tasks: with the task known on every test image, with it "
        "unknown on some, an image or a batch of one task at a time.",
        _EXAMPLES,
    )
    add_model_options(made)
    add_stream_options(made)
    made.add_argument("--tasks", type=int, help="tasks to evaluate; all of the model's if missing")
    made.add_argument("--images", type=int, default=100, help="images a task to infer the task of")
    made.add_argument(
        "--scenario",
        choices=("named", "NNs"),
        default="named",
        help="NNs: the model's tasks were found by a learner, and have names of their own",
    )
    made.add_argument("--batch", type=int, default=1, help="images of one task inferred together")
    add_inference_options(made)
    arguments = made.parse_args()
    model = load_model(arguments)
    how = inference_of(arguments, model)
    if arguments.images < 0:
        raise InputError(f"--images must be at least 0, got {arguments.images}")
    stream = stream_of(arguments, model, num_tasks=arguments.tasks)
    rows = []
    options = {"images": arguments.images, "batch": arguments.batch, "method": how}
    unnamed = arguments.scenario == "NNs"
    for index in range(stream.num_tasks):
        data = stream.task(index, train=False)
        evaluate = evaluate_unnamed if unnamed else evaluate_task
        rows.append(evaluate(model, data, **options))
        sys.stderr.write(f"{data.name}: {index + 1} of {stream.num_tasks}\n")
    judged = not unnamed and threshold_of(model.info, how) is not None
    keys = (*_KEYS, "rejected") if judged else _KEYS
    value = {"batch": arguments.batch, "method": how.method, "tasks": rows, **_means(rows, keys)}
    print_result(value, as_json=arguments.json, text=_to_text(rows, value, keys))


def evaluate_task(
    model: Model,
    data: TaskData,
    *,
    images: int,
    batch: int = 1,
    method: Method | Inference | None = None,
) -> dict[str, Any]:
    """Evaluate one task, as the paper's scenarios do.

    Args:
        model: A loaded model that has a task of the data's name.
        data: Its test part is used.
        images: Test images whose task is inferred: a sample of each task's own, the same in every
            run.
        batch: Images whose task is inferred together, at least 1; a last batch may be smaller.
        method: How to infer.

    Returns:
        Fractions in ``[0, 1]``: ``known``, of all test images, right with the task given (GG);
        of the sample, ``unknown``, right with the task inferred, where a wrong task counts as wrong
        even if the label agrees (GNu), ``shared``, where the label alone counts (GNs), and
        ``inferred``, of images whose task was inferred right; of these, ``rejected``, found to be
        of no known task, if the model is calibrated for the method. ``inferred_as`` counts images
        by the name of the task that they were inferred to. ``known_ms`` is the median of a single
        image, ``unknown_ms`` of a batch. What was not measured is None.

    Raises:
        InputError: If `batch` is out of range.
    """
    task = model.task(data.name)
    x, y = data.test_x, data.test_y
    labels = [
        model.predict(x[i : i + _CHUNK], task.index).label_indices for i in range(0, len(x), _CHUNK)
    ]
    chunks = _chunks(len(x), images, batch, task.index)
    row: dict[str, Any] = {
        "images": sum(map(len, chunks)),
        "known": float((np.concatenate(labels) == y).mean()),
        "task": data.name,
        "test_images": len(x),
    }
    row["known_ms"] = _median_ms(
        [_timed(model, x[i : i + 1], task.index)[1] for i in range(min(20, len(x)))]
    )
    counts, times = {"inferred": 0, "shared": 0, "unknown": 0}, []
    rejected = 0
    answers: Counter[str] = Counter()
    for chosen in chunks:
        prediction, milliseconds = _timed(model, x[chosen], None, method)
        times.append(milliseconds)
        right = int((prediction.label_indices == y[chosen]).sum())
        hit = prediction.task.index == task.index
        answers[prediction.task.name] += len(chosen)
        counts["inferred"] += hit * len(chosen)
        counts["shared"] += right
        counts["unknown"] += hit * right
        rejected += hit * prediction.known.count(False)
    row |= {name: count / row["images"] if times else None for name, count in counts.items()}
    if times and prediction.known[0] is not None:
        row["rejected"] = rejected / counts["inferred"] if counts["inferred"] else None
    row["inferred_as"] = dict(answers)
    row["unknown_ms"] = _median_ms(times)
    return row


def evaluate_unnamed(
    model: Model,
    data: TaskData,
    *,
    images: int,
    batch: int = 1,
    method: Method | Inference | None = None,
) -> dict[str, Any]:
    """Evaluate a task that the model's masks are not named after (scenario NNs).

    Args:
        model: A loaded model.
        data: Its test part is used; arguments as `evaluate_task`.
        images: As there.
        batch: As there.
        method: As there.

    Returns:
        ``shared``, the fraction of the sample whose label is right through the inferred mask, as
        the paper counts NNs; ``mask``, the name of the mask that most images were inferred to, and
        ``inferred``, their fraction; ``unknown_ms``. What was not measured is None.
    """
    x, y = data.test_x, data.test_y
    seed = int.from_bytes(data.name.encode()[-4:], "little")
    masks: Counter[str] = Counter()
    right, times = 0, []
    chunks = _chunks(len(x), images, batch, seed)
    for chosen in chunks:
        prediction, milliseconds = _timed(model, x[chosen], None, method)
        times.append(milliseconds)
        right += int((prediction.label_indices == y[chosen]).sum())
        masks[prediction.task.name] += len(chosen)
    count = sum(map(len, chunks))
    mask, used = masks.most_common(1)[0] if masks else (None, 0)
    return {
        "images": count,
        "inferred": used / count if count else None,
        "mask": mask,
        "shared": right / count if count else None,
        "task": data.name,
        "test_images": len(x),
        "unknown_ms": _median_ms(times),
    }


def _chunks(count: int, wanted: int, batch: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """`wanted` of `count` rows, in order, in batches; RandomState's stream is frozen by numpy."""
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    rows = np.sort(np.random.RandomState(seed).permutation(count)[:wanted])
    return np.split(rows, range(batch, len(rows), batch)) if len(rows) else []


def _timed(
    model: Model,
    x: npt.NDArray[np.float32],
    task: int | None,
    method: Method | Inference | None = None,
) -> tuple[Any, float]:
    start = time.perf_counter()
    prediction = model.predict(x, task, method=method)
    return prediction, (time.perf_counter() - start) * 1e3


def add_stream_options(made: argparse.ArgumentParser) -> None:
    """The options that `stream_of` reads."""
    made.add_argument("stream", choices=STREAM_KINDS)
    made.add_argument("--data", help="folder of IDX files, or an .npz; the digits if missing")
    made.add_argument(
        "--labels", choices=LABEL_KINDS, default="own", help="of split tasks, as in training"
    )
    made.add_argument("--seed", type=int, default=0, help="of the stream, as in training")


def stream_of(
    arguments: argparse.Namespace, model: Model, *, num_tasks: int | None = None
) -> Stream:
    """The stream that `add_stream_options` asks for, with inputs as the model takes them.

    Args:
        arguments: Of a command with these options.
        model: The model to feed.
        num_tasks: Tasks of the stream; as many as the model has if missing.

    Raises:
        InputError: If the data do not fit the model.
    """
    stream = make_stream(
        arguments.stream,
        load_dataset(arguments.data),
        num_tasks=model.num_tasks if num_tasks is None else num_tasks,
        seed=arguments.seed,
        layout="image" if len(model.info.network.input_shape) == 3 else "flat",
        labels=arguments.labels,
    )
    if stream.input_shape != model.info.network.input_shape:
        raise InputError(
            f"{arguments.data or 'digits'}: the model takes inputs "
            f"{model.info.network.input_shape}, the data have {stream.input_shape}"
        )
    real_outputs = model.info.network.real_outputs
    if stream.real_outputs != real_outputs:
        raise InputError(
            f"{stream.kind}: the model has {real_outputs} real outputs, the stream's tasks have "
            f"{stream.real_outputs} classes; give --labels and --tasks as in training"
        )
    return stream


def _median_ms(times: list[float]) -> float | None:
    return round(median(times), 3) if times else None


def _means(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[str, Any]:
    means: dict[str, Any] = {}
    for key in keys:
        values = [row[key] for row in rows if row.get(key) is not None]
        means[key] = fmean(values) if values else None
    return means


def _to_text(rows: list[dict[str, Any]], total: dict[str, Any], keys: tuple[str, ...]) -> str:
    def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
        shown = [
            "-" if row.get(key) is None else f"{row[key]:.2f}" if "ms" in key else f"{row[key]:.4f}"
            for key in keys
        ]
        return (name, *shown)

    body = [line(row["task"], row) for row in rows] + [line("mean", total)]
    return to_table(("task", *keys), body) + f"\nmethod: {total['method']}"
