"""Calls with the task known, and switches to another task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from tools.benchmarks.banks import MODELS, BenchBank, bench_bank, float_model, normal_images
from tools.benchmarks.peers import Images, SwappedAdapters, open_onnx
from tools.benchmarks.timing import Candidate, Result, Row, Setup, measure

import supsup_runtime

SWITCHED = 8
"""Number of tasks that d and e switch between."""
ADAPTER = "float32 weights, one file per task; it cannot infer the task"


def known(
    setup: Setup,
    *,
    model: Sequence[str],
    outputs: int | None,
    tasks: int,
    batch_size: Sequence[int],
) -> Result:
    """Time calls on the same task, then on another task in every call (with one row).

    `model` has keys of `MODELS`, `outputs` defaults to their values; `tasks` is at least 2.
    """
    rows: list[Row] = []
    for name in model:
        bench = bench_bank(setup.cache, model=name, outputs=outputs or MODELS[name], tasks=tasks)
        folder = bench.model.parent / "adapters"
        adapters = SwappedAdapters(bench.bank, folder, min(SWITCHED, tasks), setup.threads)
        for size in batch_size:
            found = measure(_staying(bench, setup, adapters, normal_images(size)), setup)
            rows += [{"model": name, "batch": size, **row} for row in found]
        found = measure(_switching(bench, setup, adapters), setup)
        rows += [{"model": name, "batch": 1, **row} for row in found]
    ratio = "to the median of supsup with the same model and batch (of switches: to its switch)"
    settings = {"outputs": [outputs or MODELS[name] for name in model]}
    return Result(rows=rows, ratio=ratio, settings=settings)


def _staying(
    bench: BenchBank, setup: Setup, adapters: SwappedAdapters, x: Images
) -> list[Candidate]:
    plain = open_onnx(float_model(bench.bank, 0), setup.threads)
    model = supsup_runtime.load(bench.model, threads=setup.threads)
    name = model.tasks[0].name
    return [
        Candidate(name="supsup predict, cached", call=lambda: model.predict(x, name)),
        Candidate(name="d one float model", call=lambda: plain.run(["logits"], {"x": x})),
        Candidate(name="e ONNX Runtime adapter", call=lambda: adapters.known(x, 0), note=ADAPTER),
    ]


def _switching(bench: BenchBank, setup: Setup, adapters: SwappedAdapters) -> list[Candidate]:
    x = normal_images(1)
    count = min(SWITCHED, len(bench.bank))
    one_task = 4 * bench.bank.network.num_masked
    model = supsup_runtime.load(bench.model, threads=setup.threads, cache_bytes=one_task)
    names = [task.name for task in model.tasks]
    uncached = "the cache holds one task, so no call finds its weights"
    files = [bench.model.parent / f"float-{index}.onnx" for index in range(count)]
    for index, file in enumerate(files):
        file.write_bytes(float_model(bench.bank, index))
    return [
        Candidate(
            name="switch: supsup predict, not cached",
            call=_around(len(names), lambda i: model.predict(x, names[i])),
            note=f"{uncached}; cycles through all {len(names)} tasks",
        ),
        Candidate(
            name="switch: d float model, opened",
            call=_around(
                count, lambda i: open_onnx(files[i], setup.threads).run(["logits"], {"x": x})
            ),
            note=f"read and opened in every call; cycles through {count} tasks",
        ),
        Candidate(
            name="switch: e adapter, from its file",
            call=_around(count, lambda i: adapters.from_file(x, i)),
            note=f"memory-mapped in every call; cycles through {count} tasks; {ADAPTER}",
        ),
    ]


def _around(count: int, call: Callable[[int], object]) -> Callable[[], object]:
    """Return a call that passes 0, 1, ..., count - 1, 0, ... in turn."""
    indices: Iterator[int] = cycle(range(count))
    return lambda: call(next(indices))
