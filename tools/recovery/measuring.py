"""Streams recovered through the runtime, each result kept as soon as it is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tools.recovery.making import left_out_model, stored_model, trained_bank
from tools.recovery.setting import Setting, Way, ways
from tools.reproduction.store import Store

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.data.streams import Stream, TaskData
from supsup_runtime.recovery.descent import Recovery, Statistics
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield
from supsup_runtime.recovery.result import Recovered

__all__ = ["Seed", "accuracy", "measure"]

Line = dict[str, Any]
Bits = npt.NDArray[np.bool_]
ROWS = 512
"""Rows of a call with running statistics, where rows do not hang on each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What is measured of one seed.

    Attributes:
        number: The seed.
        orders: Orders of the test images that streams are recovered in.
        first: Whether ways that are not tried everywhere are tried with it.
    """

    number: int
    orders: int
    first: bool


def measure(
    setting: Setting, data: str, stream: Stream, seed: Seed, folder: Path, store: Store
) -> list[Line]:
    """A line a recovery of a seed: by each way, then with each task left out of the store."""
    place = folder / f"seed-{seed.number}"
    place.mkdir(exist_ok=True)
    trained = trained_bank(setting, data, seed.number, place)
    path = stored_model(trained, place)
    lines: list[Line] = []
    for way in ways(setting):
        if way.everywhere or seed.first:
            orders = range(seed.orders if way.everywhere else 1)
            one = _Series(seed=seed.number, stream=stream, trained=trained, store=store, way=way)
            lines += one.lines(lambda: path, orders, left_out=None)
    for name in stream.task_names:
        left = place / "left-out.onnx"
        way = ways(setting)[0]
        one = _Series(seed=seed.number, stream=stream, trained=trained, store=store, way=way)

        def make(name: str = name, left: Path = left) -> Path:
            return left_out_model(trained, name, left)

        lines += one.lines(make, range(seed.orders), left_out=name)
        left.unlink(missing_ok=True)
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """All tasks of a stream, recovered one way from one model."""

    seed: int
    stream: Stream
    trained: MaskBank
    store: Store
    way: Way

    def lines(
        self, make: Callable[[], Path], orders: range, *, left_out: str | None
    ) -> Iterator[Line]:
        """A line an order and task, from the disk or measured now."""
        model: HopfieldModel | None = None
        what = self.way.name + (f", without {left_out}" if left_out else "")
        sys.stderr.write(f"seed {self.seed}: {what}\n")
        for order in orders:
            key = f"seed {self.seed}, order {order}, {what}"
            for index, name in enumerate(self.stream.task_names):
                line = self.store.get(key, name)
                if line is None:
                    model = model or load_hopfield(make())
                    data = self.stream.task(index, train=False)
                    line = self._line(model, data, order, left_out)
                    self.store.add(key, line)
                yield line

    def _line(self, model: HopfieldModel, data: TaskData, order: int, left_out: str | None) -> Line:
        shuffled = np.random.default_rng(order).permutation(len(data.test_x))
        x, size = data.test_x[shuffled], self.way.batch
        batches = [x[start : start + size] for start in range(0, len(x), size)]
        begun = time.perf_counter()
        how = Recovery(start=self.way.start, look_every=self.way.look_every)
        found = model.recover(batches, settings=how)
        seconds = time.perf_counter() - begun
        own, owners = self.trained.task(data.name), model.find(found.mask)
        line: Line = {
            "distance": float(found.trace.distance[-1]),
            "left_out": left_out,
            "off": self._off(found.mask, data.name),
            "order": order,
            "own": own.training["accuracy"],
            "recovered": found.to_dict(),
            "same": data.name in [task.name for task in owners],
            "seconds": round(seconds, 3),
            "seed": self.seed,
            "task": data.name,
            "way": self.way.name,
        }
        if left_out is None:
            line["running"] = accuracy(model, found, data, rows=ROWS, statistics="running")
            line["batch"] = accuracy(
                model, found, data, rows=64, statistics="batch", order=shuffled
            )
        if left_out is not None or size == 1:  # a picture of each would be of no use
            del line["recovered"]["trace"]
        return line

    def _off(self, mask: Bits, name: str) -> float:
        """Fraction of bits in which a mask is not the learned one, the largest of parameters."""
        task, parts, start = self.trained.task(name), [], 0
        for p in self.trained.network.parameters:
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
    order: npt.NDArray[np.int64] | None = None,
) -> float:
    """Fraction of a task's test images that a recovered mask labels right, `rows` a call."""
    shuffled = np.arange(len(data.test_x)) if order is None else order
    right = 0
    for start in range(0, len(shuffled), rows):
        chosen = shuffled[start : start + rows]
        logits = model.logits(data.test_x[chosen], found.mask, statistics=statistics)
        labels = logits[:, : model.info.network.real_outputs].argmax(axis=1)
        right += int(np.sum(labels == data.test_y[chosen]))
    return right / len(shuffled)
