"""Training: tasks a minute side by side, at once and on a device; a task against a plain loop."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from tools.benchmarks.timing import Candidate, Result, Row, Setup, measure
from torch.nn.functional import cross_entropy, linear

import supsup_train as st
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import TaskData, make_stream
from supsup_runtime.errors import InputError
from supsup_train.networks.models import wants_images

BATCH, IMAGES = 128, 60_000  # the paper's protocol
OUTPUTS = 100
FILES = {".json", ".onnx", ".safetensors"}
ONE, LENET = "1 process, 1 thread", "lenet-300-100"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of supsup-train to learn a stream.

    Attributes:
        name: In the table.
        options: Of the command.
        at_once: Tasks that are learned at the same time.
        cluster: Whether a Ray cluster learns them.
    """

    name: str
    options: tuple[str, ...]
    at_once: int = 1
    cluster: bool = False


def ways(cores: int) -> list[Way]:
    """Return the ways that this machine has, for so many of its cores."""
    found = [
        Way(name=ONE, options=("--threads", "1")),
        Way(name=f"1 process, {cores} threads", options=("--threads", str(cores))),
        Way(name=f"{cores} workers", options=("--workers", str(cores)), at_once=cores),
    ]
    if importlib.util.find_spec("ray"):
        found.append(Way(name=f"{cores} by Ray", options=(), at_once=cores, cluster=True))
    found += [vectorised(number, "cpu") for number in (4, 16)]
    if torch.cuda.is_available():
        found += [vectorised(number, "cuda") for number in (16, 64, 250)]
    return found


def vectorised(number: int, device: str) -> Way:
    """Return the way to learn so many tasks by the same products."""
    options = ("--vectorise", str(number), "--device", device, "--threads", "1")
    return Way(name=f"{number} at once, {device}", options=options, at_once=number)


def training(
    setup: Setup, *, model: Sequence[str], tasks: int, steps: int, data: Path | None
) -> Result:
    """Compare the ways to learn PermutedMNIST; `data` defaults to generated images of its size."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stream = ("--data", str(data or _generated(folder / "images.npz")), "--steps", str(steps))
        for each in model:
            found = [
                learn(way, each, stream, folder, tasks)
                for _ in range(setup.rounds)
                for way in ways(setup.threads)
            ]
            own = _medians(found)
            if each == LENET:
                own += _bars(own, setup.threads)
            if not wants_images(each):
                own.insert(0, _plain(each, Path(stream[1]), tasks=tasks, steps=steps))
            rows += [{"model": each, **row} for row in own]
    ratio = f"of tasks a minute to {ONE}, or to what follows the stroke"
    return Result(rows=rows, ratio=ratio, settings={"outputs": OUTPUTS}, draw=partial(_draw, rows))


def learn(way: Way, model: str, stream: Sequence[str], folder: Path, tasks: int) -> Row:
    """Learn a stream in a process of its own, of at least twice the tasks that are learned at once.

    Args:
        way: How.
        model: Named network.
        stream: Options of data and steps.
        folder: For the bank.
        tasks: In the stream.

    Returns:
        Tasks a minute once the first `at_once` are done, seconds from the start to these less
        those of learning them, mean accuracy and a digest of the bank's files.
    """
    tasks = max(tasks, 2 * way.at_once)
    sys.stderr.write(f"{model}: {way.name}\n")
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        _cluster(way.at_once) if way.cluster else nullcontext(()) as where,
    ):
        words = ["permuted", *stream, "--model", model, "--outputs", OUTPUTS, "--tasks", tasks]
        times = _reported([*words, "--bank", name, "--quiet", *way.options, *where])
        bank, digest = Path(name), hashlib.sha256()
        for file in sorted(file for file in bank.rglob("*.*") if file.suffix in FILES):
            digest.update(file.read_bytes())
        log = (bank / "train.jsonl").read_text().splitlines()
    first = times[way.at_once - 1]
    rate = (tasks - way.at_once) / (times[-1] - first)
    return {
        "case": way.name,
        "tasks": tasks,
        "a_minute": 60 * rate,
        "start_s": first - way.at_once / rate,
        "accuracy": fmean(json.loads(line)["accuracy"] for line in log),
        "bank": digest.hexdigest()[:8],
    }


def _reported(words: Sequence[object]) -> list[float]:
    """Run supsup-train and return the seconds to the report of each task."""
    program, times, line = Path(sys.executable).with_name("supsup-train"), [], ""
    start = time.perf_counter()
    command = [str(program), *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if line.startswith("permuted-"):
                times.append(time.perf_counter() - start)
    if process.returncode:
        raise InputError(line.strip())
    return times


@contextmanager
def _cluster(cores: int) -> Iterator[tuple[str, str]]:
    """Provide the options for a Ray cluster of this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    try:
        yield "--cluster", cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray leaves it untyped


def _medians(found: Sequence[Row]) -> list[Row]:
    """Return a row per way, with medians of its runs; banks of a way must be equal."""
    rows: dict[str, Row] = {}
    for case in dict.fromkeys(row["case"] for row in found):
        runs = [row for row in found if row["case"] == case]
        middle = {key: median(row[key] for row in runs) for key in ("a_minute", "start_s")}
        bank = "/".join(dict.fromkeys(row["bank"] for row in runs))
        rows[case] = {**runs[0], **middle, "bank": bank}
        rows[case]["ratio"] = middle["a_minute"] / rows[ONE]["a_minute"]
    return list(rows.values())


def _bars(rows: Sequence[Row], cores: int) -> list[Row]:
    """Return rows that compare ways; `cores` workers come third, and then by Ray."""
    one, threads, workers, ray = rows[:4]
    made = [(workers, one, "at least 1.8"), (workers, threads, "at least 1.4")]
    equal = [one, workers]
    if importlib.util.find_spec("ray"):
        made.append((ray, workers, "at least 1 / 1.15"))
        equal.append(ray)
    bars: list[Row] = [
        {"case": f"{a['case']} / {b['case']}", "ratio": a["a_minute"] / b["a_minute"], "bar": bar}
        for a, b, bar in made
    ]
    each = (workers["start_s"] - one["start_s"]) / cores
    bars.append({"case": "each worker adds to the start", "start_s": each})
    same = len({row["bank"] for row in equal}) == 1
    bars.append({"case": "banks of these", "bank": "equal" if same else "DIFFER"})
    return bars


def _draw(rows: Sequence[Row], axes: Any) -> None:  # noqa: ANN401 - matplotlib's
    """Draw a bar of tasks a minute per model and way."""
    shown = [row for row in rows if "a_minute" in row]
    names = [f"{row['model']}: {row['case']}" for row in shown]
    axes.bar_label(axes.barh(names, [row["a_minute"] for row in shown]), fmt="%.1f", padding=2)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="tasks a minute, once learning has begun")
    axes.grid(visible=True, axis="x", alpha=0.3)


def _generated(file: Path) -> Path:
    """Write images of the sizes of MNIST."""
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", IMAGES), ("test", IMAGES // 6)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"y_{part}"] = rng.integers(0, 10, count)
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs know no keywords
    return file


def _plain(model: str, data: Path, *, tasks: int, steps: int) -> Row:
    """Time the authors' way: a task after the other in one process, here without evaluation."""
    stream = make_stream("permuted", load_dataset(data), num_tasks=tasks)
    module = st.make_model(model, input_shape=stream.input_shape, outputs=OUTPUTS)
    weights = [value.detach() for value in module.parameters()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.perf_counter()
    for index in range(tasks):
        task = stream.task(index)
        _plain_loop(weights, torch.from_numpy(task.train_x), torch.from_numpy(task.train_y), steps)
    rate = 60 * tasks / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    return {"case": "plain loop, 1 thread", "tasks": tasks, "a_minute": rate}


def one_task(setup: Setup, *, steps: int) -> Result:
    """Time a task of the size of PermutedMNIST on LeNet 300-100 with 100 outputs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((IMAGES, 784)).astype(np.float32)
    y = rng.integers(0, 10, len(x))
    data = TaskData(name="t", labels=(), train_x=x, train_y=y, test_x=x[:0], test_y=y[:0])
    torch.manual_seed(0)
    module = st.make_model("lenet-300-100", input_shape=(784,), outputs=OUTPUTS)
    recipe = st.Recipe(steps=steps, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        bank = st.create_bank(Path(folder) / "masks", module, input_shape=(784,), real_outputs=10)
        weights = [torch.from_numpy(weight) for weight in bank.network.weights()]
        candidates = [
            Candidate(
                name="plain loop",
                call=lambda: _plain_loop(weights, torch.from_numpy(x), torch.from_numpy(y), steps),
            ),
            Candidate(
                name="supsup train_task",
                call=lambda: st.train_task(bank, module, data, recipe=recipe),
            ),
        ]
        rows = measure(candidates, replace(setup, visit_seconds=0))
    settings = {"model": "lenet-300-100", "outputs": OUTPUTS, "batch": BATCH}
    return Result(rows=rows, ratio="to the median of the plain loop", settings=settings)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - torch's signature
        return (scores >= 0).float()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004 - as above
        return gradient


def _plain_loop(
    weights: Sequence[torch.Tensor], x: torch.Tensor, y: torch.Tensor, steps: int
) -> None:
    """Train without supsup: masked layers, RMSprop."""
    scores = [torch.empty_like(w).uniform_(-0.05, 0.05).requires_grad_() for w in weights]
    optimizer = torch.optim.RMSprop(scores, lr=1e-4)
    epoch = len(x) // BATCH
    for step in range(steps):
        if step % epoch == 0:
            order = torch.randperm(len(x))
        start = step % epoch * BATCH
        rows = order[start : start + BATCH]
        hidden = x[rows]
        for i, (weight, score) in enumerate(zip(weights, scores, strict=True)):
            masked = weight * _Straight.apply(score)  # type: ignore[no-untyped-call]  # torch
            hidden = linear(hidden, masked)
            if i < len(weights) - 1:
                hidden = torch.relu(hidden)
        loss = cross_entropy(hidden, y[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
