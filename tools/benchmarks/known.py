"""The task is known: plain speed, and what a switch to another task costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from tools.benchmarks.banks import MODELS, BenchBank, bench_bank, float_model, normal_images
from tools.benchmarks.peers import Images, SwappedAdapters, open_onnx
from tools.benchmarks.timing import Candidate, Result, Row, Setup, measure

import supsup_runtime

SWITCHED = 8
"""Tasks that the switching candidates go around."""
ADAPTER = "float32 weights, one file a task; it cannot infer the task"


def known(
    setup: Setup,
    *,
    model: Sequence[str],
    outputs: int | None,
    tasks: int,
    batch_size: Sequence[int],
) -> Result:
    """A call with the task known, staying on it, then switching with every call.

    Args:
        setup: Cache, threads and rounds.
        model: Keys of `MODELS`.
        outputs: Length of the logits; the paper's where None.
        tasks: Number of tasks in the bank, at least 2.
        batch_size: Rows of `x`; switches are measured at one row.
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
    ratio = "to the median of supsup with the same model and batch, of its switch for switches"
    settings = {"outputs": [outputs or MODELS[name] for name in model]}
    return Result(rows=rows, ratio=ratio, settings=settings)


def _staying(
    bench: BenchBank, setup: Setup, adapters: SwappedAdapters, x: Images
) -> list[Candidate]:
    """The same task with every call."""
    plain = open_onnx(float_model(bench.bank, 0), setup.threads)
    model = supsup_runtime.load(bench.model, threads=setup.threads)
    name = model.tasks[0].name
    return [
        Candidate(name="supsup predict, cached", call=lambda: model.predict(x, name)),
        Candidate(name="d one float model", call=lambda: plain.run(["logits"], {"x": x})),
        Candidate(name="e ONNX Runtime adapter", call=lambda: adapters.known(x, 0), note=ADAPTER),
    ]


def _switching(bench: BenchBank, setup: Setup, adapters: SwappedAdapters) -> list[Candidate]:
    """Another task with every call, one image."""
    x = normal_images(1)
    count = min(SWITCHED, len(bench.bank))
    one_task = 4 * bench.bank.network.num_masked
    model = supsup_runtime.load(bench.model, threads=setup.threads, cache_bytes=one_task)
    names = [task.name for task in model.tasks]
    uncached = "a cache of one task, so none of the calls finds its weights there"
    files = [bench.model.parent / f"float-{index}.onnx" for index in range(count)]
    for index, file in enumerate(files):
        file.write_bytes(float_model(bench.bank, index))
    return [
        Candidate(
            name="switch: supsup predict, not cached",
            call=_around(len(names), lambda i: model.predict(x, names[i])),
            note=f"{uncached}; around all {len(names)} tasks",
        ),
        Candidate(
            name="switch: d float model, opened",
            call=_around(
                count, lambda i: open_onnx(files[i], setup.threads).run(["logits"], {"x": x})
            ),
            note=f"read from its file and opened with every call; around {count} tasks",
        ),
        Candidate(
            name="switch: e adapter, from its file",
            call=_around(count, lambda i: adapters.from_file(x, i)),
            note=f"memory-mapped with every call; around {count} tasks; {ADAPTER}",
        ),
    ]


def _around(count: int, call: Callable[[int], object]) -> Callable[[], object]:
    """Call with 0, 1, ..., count - 1, and from the start again."""
    indices: Iterator[int] = cycle(range(count))
    return lambda: call(next(indices))
