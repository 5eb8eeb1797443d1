"""Screened scoring on trained masks: its time, and its agreement with exact scores.

Tasks are the trained masks in ``masks.npz`` (``m0``, ``m1``, ... of LeNet 300-100, packed rows).
Further tasks permute their first-layer inputs: they are as dense and uneven, and no image belongs
to them. Images are permuted test images of the trained tasks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from tools.benchmarks.banks import cached_bank
from tools.benchmarks.timing import Result, Row, Setup, spread

import supsup_runtime
import supsup_train
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.model.metadata import Scoring
from supsup_runtime.model.model import Model

TRAINED, OUTPUTS = 250, 100
SETTLED = 1e-4
"""A settled call has scores that differ from exact ones by more, relative to the largest."""
SHAPES = ((300, 784), (100, 300), (OUTPUTS, 100))


def screened(setup: Setup, *, data: Path, tasks: int, images: int) -> Result:
    """Time one-shot by exact, rounded and screened scores; each test image is a round.

    `data` is a folder with ``mnist`` and ``permuted-mnist-lenet-250``; `tasks` is at least 250.

    Returns:
        Rows of the limit (the packed bank read once) and of each scoring, with how often it agrees
        with exact scores and how often its first pass settled the call.
    """
    stream = make_stream("permuted", load_dataset(data / "mnist"), num_tasks=TRAINED)
    module = supsup_train.make_model("lenet-300-100", input_shape=(784,), outputs=OUTPUTS)
    path = setup.cache / f"screened-{tasks}"
    bank = cached_bank(path, module, lambda _: trained_tasks(data, tasks))
    sample = np.concatenate([stream.task(k).train_x[:2] for k in range(0, TRAINED, 8)])
    models = {}
    for scoring in get_args(Scoring):
        path = setup.cache / f"screened-{tasks}-{scoring}.onnx"
        request = Request(scoring=scoring)
        chosen = sample if scoring == "screened" else None
        export(bank, path, request=request, sample=chosen, check=False, force=True)
        models[scoring] = supsup_runtime.load(path, threads=setup.threads)
    words = torch.zeros(tasks * (-(-bank.network.num_masked // 256) * 32) // 8, dtype=torch.int64)
    words += torch.arange(len(words))  # touches every page
    return Result(
        rows=_rounds(models, words, list(_images(stream, images))),
        ratio="to the limit, in the same rounds",
        settings={"objective": models["exact"].info.objective},
    )


def _rounds(
    models: dict[str, Model],
    words: torch.Tensor,
    images: list[tuple[int, npt.NDArray[np.float32]]],
) -> list[Row]:
    def timed(call: Any) -> tuple[float, Any]:  # noqa: ANN401 - any call
        start = time.perf_counter()
        answer = call()
        return (time.perf_counter() - start) * 1e3, answer

    for model in models.values():
        model.warmup()
    times: dict[str, list[float]] = {"limit": [], **{name: [] for name in models}}
    right = agreed = settled = np.zeros(len(models), np.int64)
    for task, x in images:
        taken, _ = timed(words.sum)
        times["limit"].append(taken)
        found = []
        for name, model in models.items():
            taken, answer = timed(partial(model.predict, x, method="one-shot"))
            times[name].append(taken)
            found.append(answer.inferences[0])
        exact = found[0]
        right = right + [one.task.index == task for one in found]
        agreed = agreed + [one.task == exact.task for one in found]
        away = [np.abs(one.scores - exact.scores).max() for one in found]
        settled = settled + (np.array(away) > SETTLED * np.abs(exact.scores).max())
    limit = float(np.median(times["limit"]))
    rows: list[Row] = [
        {"case": name, **spread(values, "ms"), "ratio": float(np.median(values)) / limit}
        for name, values in times.items()
    ]
    of = f"of {len(images)} images"
    for row, own, same, early in zip(rows[1:], right, agreed, settled, strict=True):
        row["note"] = f"the task of the image for {own} {of}"
        if row["case"] != "exact":
            row["note"] += f", the task of exact scores for {same}; first pass settled {early}"
    return rows


def _images(stream: Stream, count: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    each = -(-count // TRAINED)
    left = count
    for task in rng.permutation(TRAINED):
        x = stream.task(int(task), train=False).test_x
        for index in rng.choice(len(x), min(each, left), replace=False):
            yield int(task), x[index : index + 1]
        left -= min(each, left)


def trained_tasks(data: Path, tasks: int) -> Iterator[TaskMasks]:
    """Yield the trained tasks, then permuted copies of them."""
    with np.load(data / "permuted-mnist-lenet-250" / "masks.npz", allow_pickle=False) as file:
        trained = [file[f"m{i}"] for i in range(len(SHAPES))]
    rng = np.random.default_rng(0)
    order = np.arange(SHAPES[0][1])
    for index in range(tasks):
        layers = [layer[index % TRAINED] for layer in trained]
        if index >= TRAINED:
            if index % TRAINED == 0:
                order = rng.permutation(SHAPES[0][1])
            rows, columns = SHAPES[0]
            bits = np.unpackbits(layers[0], count=rows * columns, bitorder="little")
            layers[0] = np.packbits(bits.reshape(rows, columns)[:, order], bitorder="little")
        masks = {f"layers.{i}.weight": layer for i, layer in enumerate(layers)}
        yield TaskMasks(name=f"permuted-{index:04d}", masks=masks)
