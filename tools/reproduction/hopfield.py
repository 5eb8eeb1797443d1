"""HopSupSup: recover masks from a Hopfield store and a stream of inputs.

For each seed: learn and encode a bank, delete its masks, recover each from one pass over its
task's test images at most, and repeat with each task left out of the store.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from tools.reproduction.experiment import Experiment, Run
from tools.reproduction.hopfield_tables import bars, tables
from tools.reproduction.plot import plot_traces
from tools.reproduction.store import Line
from tools.reproduction.tables import Table

from supsup_export.exporter import export_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, TaskData, make_stream
from supsup_runtime.hopfield.file import encode_into
from supsup_runtime.recovery.descent import Recovery, Statistics, linear
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield
from supsup_runtime.recovery.result import Recovered
from supsup_train.cli.train import run as train

Bits = npt.NDArray[np.bool_]
STREAM, LABELS = "split", "shared"
OPTIONS = (
    "--outputs 10 --optimizer sgd --lr 0.1 --lr-schedule cosine --weight-decay 1e-4 "
    "--score-init zeros"
)
ROWS: dict[Statistics, int] = {"running": 512, "batch": 64}
"""Images per call; with running statistics they are independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to recover streams.

    Attributes:
        batch: Inputs per step.
        start: See `Recovery`.
        look_every: See `Recovery`; the paper does not look before the end.
        everywhere: Use all seeds and orders instead of the first.
    """

    batch: int
    start: Literal["mean", "zero"] = "mean"
    look_every: int = 1
    everywhere: bool = False

    @property
    def name(self) -> str:
        """Name in tables and in measurements on disk."""
        batches = "single images" if self.batch == 1 else f"batches of {self.batch}"
        looks = "" if self.look_every else ", no looks"
        return f"{batches}, from {self.start}{looks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopfield(Experiment):
    """Recovery on SplitMNIST; more seeds or orders reuse existing measurements.

    Attributes:
        steps: Training batches per task.
        source: ``mnist``, in the data folder, or the bundled ``digits``.
        batch: Inputs per step of recovery.
        small_batch: The same for small batches.
        seeds: Number of seeds of weights and batches.
        orders: Number of orders of test images.
        judged: Whether bars apply.
    """

    model: str
    tasks: int = 5
    steps: int = 94
    source: Literal["mnist", "digits"] = "mnist"
    batch: int = 64
    small_batch: int = 8
    seeds: int = 3
    orders: int = 7
    judged: bool = True
    document: ClassVar[str] = "HOPFIELD.md"
    options: ClassVar[tuple[str, ...]] = ("seeds", "orders")

    def setting(self) -> dict[str, Any]:
        """Return everything except seeds and orders."""
        return {
            "batch": self.batch,
            "recovery": asdict(Recovery()),
            "schedule": [linear(step, 4) for step in range(4)],
            "small_batch": self.small_batch,
            "source": self.source,
            "training": self._training(0),
        }

    def tiny(self) -> Hopfield:
        """Use a small network, one seed and order, no bars."""
        small = replace(self, model="bnnet-64-64", steps=20, source="digits", batch=16)
        return replace(small, seeds=1, orders=1, judged=False)

    def altered(self, numbers: Mapping[str, int]) -> Hopfield:
        """Change the number of seeds or orders."""
        seeds, orders = numbers.get("seeds", self.seeds), numbers.get("orders", self.orders)
        return replace(self, seeds=seeds, orders=orders)

    @property
    def ways(self) -> tuple[Way, ...]:
        """The default way, the paper's, then others."""
        return (
            Way(batch=self.batch, everywhere=True),
            Way(batch=self.batch, look_every=0, everywhere=True),
            Way(batch=self.batch, start="zero", everywhere=True),
            Way(batch=self.small_batch),
            Way(batch=1),
        )

    def measure(self, run: Run) -> list[Line]:
        """Return a line per recovery: by each way, then with tasks left out."""
        dataset = load_dataset(run.data.dataset(self.source))
        stream = make_stream(STREAM, dataset, num_tasks=self.tasks, labels=LABELS)
        lines: list[Line] = []
        for seed in range(self.seeds):
            trained = self._trained(seed, run)
            for way in self.ways:
                if way.everywhere or not seed:
                    orders = self.orders if way.everywhere else 1
                    lines += _recovered(way, None, seed, orders, stream, trained, run)
            for name in stream.task_names:
                lines += _recovered(self.ways[0], name, seed, self.orders, stream, trained, run)
        return lines

    def _training(self, seed: int) -> list[str]:
        """Return arguments of `supsup-train` except data, bank and threads."""
        words = [STREAM, "--labels", LABELS, "--model", self.model, "--tasks", str(self.tasks)]
        words += ["--steps", str(self.steps), "--seed", str(seed), "--weight-seed", str(seed)]
        return [*words, *OPTIONS.split()]

    def _trained(self, seed: int, run: Run) -> MaskBank:
        """Train or resume the bank of a seed."""
        sys.stderr.write(f"bank seed-{seed}: {self.tasks} tasks of {STREAM}\n")
        path = run.folder / "banks" / f"seed-{seed}"
        words = [*self._training(seed), "--bank", str(path)]
        words += ["--data", run.data.dataset(self.source) or "digits"]
        words += ["--threads", str(run.threads)] if run.threads else []
        train(words)
        return MaskBank.open(path)

    def tables(self, rows: Sequence[Line]) -> list[Table]:
        """Return bars if judged, and the tables of recoveries."""
        made = tables(rows, [way.name for way in self.ways])
        return [bars(rows, self.ways[0].name), *made] if self.judged else made

    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Draw the first seed and order without looks."""
        return plot_traces({line["task"]: line for line in rows if "trace" in line}, file)


def stored_model(trained: MaskBank, folder: Path, left_out: str | None = None) -> Path:
    """Export the store of a bank, without the task `left_out`, from a copy without masks.

    The empty `folder` gets the model and the copy, ``stored``.
    """
    shutil.copytree(trained.path, folder / "stored")
    bank = MaskBank.open(folder / "stored")
    encode_into(bank, [name for name in bank.task_names if name != left_out])
    for name in bank.task_names:
        bank.remove(name)
    return export_recovery(bank, folder / "recover.onnx").path


def _recovered(
    way: Way,
    left_out: str | None,
    seed: int,
    orders: int,
    stream: Stream,
    trained: MaskBank,
    run: Run,
) -> Iterator[Line]:
    """Yield a line per order and task, stored or measured now."""
    name = way.name + (f", without {left_out}" if left_out else "")
    sys.stderr.write(f"seed {seed}: {name}\n")
    model: HopfieldModel | None = None

    def line(order: int, index: int) -> Line:
        nonlocal model
        if model is None:
            with TemporaryDirectory() as folder:
                path = stored_model(trained, Path(folder), left_out)
                model = load_hopfield(path, threads=run.call_threads)
        made = _line(model, stream.task(index, train=False), trained, way, order)
        if left_out or seed or order or way.look_every:
            del made["trace"]  # the plot needs no others
        return {**made, "left_out": left_out, "order": order, "seed": seed}

    for order in range(orders):
        key = f"seed {seed}, order {order}, {name}"
        if run.call_threads != 1:
            key += f", {run.call_threads} threads"
        for index, task in enumerate(stream.task_names):
            yield run.store.measured(key, task, partial(line, order, index))


def _line(model: HopfieldModel, data: TaskData, trained: MaskBank, way: Way, order: int) -> Line:
    shuffled = np.random.default_rng(order).permutation(len(data.test_x))
    x = data.test_x[shuffled]
    batches = [x[start : start + way.batch] for start in range(0, len(x), way.batch)]
    how = Recovery(start=way.start, look_every=way.look_every)
    begun = time.perf_counter()
    found = model.recover(batches, settings=how)
    seconds = time.perf_counter() - begun
    rates: Line = {
        statistics: accuracy(model, found, data, rows=rows, statistics=statistics, order=shuffled)
        for statistics, rows in ROWS.items()
    }
    return {
        **rates,
        "converged_after": found.converged_after,
        "distance": float(found.trace.distance[-1]),
        "entropy": found.entropy if math.isfinite(found.entropy) else None,
        "expected_entropy": found.expected_entropy,
        "found": None if found.task is None else found.task.name,
        "off": _off(found.mask, trained, data.name),
        "own": trained.task(data.name).training["accuracy"],
        "same": data.name in [task.name for task in model.find(found.mask)],
        "seconds": round(seconds, 3),
        "steps": found.steps,
        "trace": {
            key: [value if math.isfinite(value) else None for value in values.tolist()]
            for key, values in asdict(found.trace).items()
        },
        "verdict": found.verdict,
        "way": way.name,
    }


def _off(mask: Bits, trained: MaskBank, name: str) -> float:
    """Return the largest fraction of wrong bits of any parameter."""
    task, parts, start = trained.task(name), [], 0
    for p in trained.network.parameters:
        learned = unpack_mask(task.masks[p.name], (p.size,))
        parts.append(float(np.mean(mask[start : start + p.size] != learned)))
        start += p.size
    return max(parts)


def accuracy(
    model: HopfieldModel,
    found: Recovered,
    data: TaskData,
    *,
    rows: int,
    statistics: Statistics,
    order: npt.NDArray[np.int64],
) -> float:
    """Return the accuracy of a recovered mask, with `rows` images per call."""
    right = 0
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        logits = model.logits(data.test_x[chosen], found.mask, statistics=statistics)
        labels = logits[:, : model.info.network.real_outputs].argmax(axis=1)
        right += int(np.sum(labels == data.test_y[chosen]))
    return right / len(order)
