"""The task is known: plain speed, and what a switch to another task costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tools.benchmarks.banks import MODELS, BenchBank, bench_bank, float_model, images
from tools.benchmarks.peers import SwappedAdapters, open_onnx
from tools.benchmarks.timing import Candidate, Row, Setup, measure

import supsup_runtime

__all__ = ["BATCHES", "known"]

BATCHES = (1, 128)
SWITCHED = 8
"""Tasks that the switching candidates go around."""

Images = npt.NDArray[np.float32]


def known(
    setup: Setup,
    *,
    models: Sequence[str] = tuple(MODELS),
    outputs: int | None = None,
    tasks: int = 250,
    batches: Sequence[int] = BATCHES,
) -> Row:
    """A call with the task known, staying on it, then switching with every call.

    Args:
        setup: Cache, threads and rounds.
        models: Keys of `MODELS`.
        outputs: Length of the logits; the paper's where None.
        tasks: Number of tasks in the bank, at least 2.
        batches: Rows of `x`; switches are measured at one row.
    """
    rows: list[Row] = []
    for name in models:
        bench = bench_bank(setup.cache, model=name, outputs=outputs or MODELS[name], tasks=tasks)
        adapters = _adapters(bench, setup)
        for batch in batches:
            found = measure(_staying(bench, setup, adapters, images(batch)), setup)
            rows += [{"model": name, "batch": batch, **row} for row in found]
        found = measure(_switching(bench, setup, adapters), setup)
        rows += [{"model": name, "batch": 1, **row} for row in found]
    settings = {"models": list(models), "tasks": tasks, "batches": list(batches)}
    settings |= {"threads": setup.threads, "rounds": setup.rounds}
    settings |= {"outputs": [outputs or MODELS[name] for name in models]}
    ratio = "to the median of supsup with the same model and batch, of its switch for switches"
    return {"benchmark": "known", "settings": settings, "rows": rows, "ratio": ratio}


def _adapters(bench: BenchBank, setup: Setup) -> SwappedAdapters:
    folder = bench.model.parent / "adapters"
    folder.mkdir(exist_ok=True)
    return SwappedAdapters(bench.bank, folder, min(SWITCHED, len(bench.bank)), setup.threads)


def _staying(
    bench: BenchBank, setup: Setup, adapters: SwappedAdapters, x: Images
) -> list[Candidate]:
    """The same task with every call."""
    plain = open_onnx(float_model(bench.bank, 0), setup.threads)
    model = supsup_runtime.load(bench.model, threads=setup.threads)
    name = model.tasks[0].name
    graph = open_onnx(bench.model, setup.threads)
    feeds = _feeds(x, 0)
    return [
        Candidate(name="supsup predict, cached", call=lambda: _discard(model.predict(x, name))),
        Candidate(
            name="the graph, one session.run",
            call=lambda: _discard(graph.run(["logits"], feeds)),
            note="a host that keeps nothing: the mask is unpacked with every call",
        ),
        Candidate(name="d one float model", call=lambda: _discard(plain.run(["logits"], {"x": x}))),
        Candidate(
            name="e ONNX Runtime adapter",
            call=lambda: _discard(adapters.known(x, 0)),
            note=_ADAPTER,
        ),
    ]


def _switching(bench: BenchBank, setup: Setup, adapters: SwappedAdapters) -> list[Candidate]:
    """Another task with every call, one image."""
    x = images(1)
    count = min(SWITCHED, len(bench.bank))
    one_task = 4 * bench.bank.network.num_masked
    model = supsup_runtime.load(bench.model, threads=setup.threads, cache_bytes=one_task)
    names = [task.name for task in model.tasks]
    uncached = "a cache of one task, so none of the calls finds its weights there"
    return [
        Candidate(
            name="switch: supsup predict, not cached",
            call=_around(len(names), lambda i: model.predict(x, names[i])),
            note=f"{uncached}; around all {len(names)} tasks",
        ),
        Candidate(
            name="switch: d float model, opened",
            call=_around(count, _opener(bench, setup, x, count)),
            note=f"read from its file and opened with every call; around {count} tasks",
        ),
        Candidate(
            name="switch: e adapter, loaded before",
            call=_around(count, lambda i: adapters.known(x, i)),
            note=f"{count} tasks, all in memory as float32",
        ),
        Candidate(
            name="switch: e adapter, from its file",
            call=_around(count, lambda i: adapters.from_file(x, i)),
            note=f"memory-mapped with every call; around {count} tasks; {_ADAPTER}",
        ),
    ]


def _opener(bench: BenchBank, setup: Setup, x: Images, count: int) -> Callable[[int], object]:
    """Open a task's float model from its file and run it once."""
    files = [bench.model.parent / f"float-{index}.onnx" for index in range(count)]
    for index, file in enumerate(files):
        file.write_bytes(float_model(bench.bank, index))

    def call(index: int) -> object:
        return _run_file(files[index], x, setup.threads)

    return call


def _run_file(file: Path, x: Images, threads: int) -> object:
    return open_onnx(file, threads).run(["logits"], {"x": x})


def _around(count: int, call: Callable[[int], object]) -> Callable[[], None]:
    """Call with 0, 1, ..., count - 1, and from the start again."""
    indices: Iterator[int] = cycle(range(count))
    return lambda: _discard(call(next(indices)))


def _feeds(x: Images, task: int) -> dict[str, npt.NDArray[np.generic]]:
    return {
        "x": x,
        "tasks": np.array([task], np.int64),
        "alphas": np.ones(1, np.float32),
        "infer": np.array(False),
    }


def _discard(_: object) -> None:
    """Drop a result: no task is inferred here."""


_ADAPTER = "float32 weights, one file a task; it cannot infer the task"
