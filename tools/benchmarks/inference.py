"""One-shot inference of the task and its logits, compared with the peers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tools.benchmarks.banks import (
    MODELS,
    BenchBank,
    bench_bank,
    float_masks,
    normal_images,
    packed_rows,
)
from tools.benchmarks.peers import (
    AuthorsFormula,
    FloatMatrix,
    Images,
    authors_bytes,
    one_model_a_task,
    open_onnx,
)
from tools.benchmarks.timing import Candidate, Result, Row, Setup, measure

import supsup_runtime
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.memory import available_bytes
from supsup_runtime.model.model import Model

PEERS = {
    "a": (
        "a authors' formula, torch",
        "forms every alpha_i * M_i, as the authors' code does; b is the fast form",
    ),
    "b": ("b float matrix products, torch", ""),
    "c": ("c one float model per task, all run", "lowest entropy of all outputs wins"),
    "f": (
        "f limit: sum of the bank's bytes",
        "torch reads the packed bank once as int64: a lower bound, not an inference",
    ),
    "p": ("p supsup, target portable", "the graph, one session.run"),
}
"""Name and note by letter."""
METHODS: tuple[Literal["one-shot", "verified"], ...] = ("one-shot", "verified")


def one_shot(setup: Setup, *, model: str, outputs: int | None, tasks: int, peers: str) -> Result:
    """Time a call on one image with its task unknown.

    `model` is a key of `MODELS`, `outputs` defaults to its value there; `peers` are letters.
    """
    outputs = outputs or MODELS[model]
    bench = bench_bank(setup.cache, model=model, outputs=outputs, tasks=tasks)
    loaded = supsup_runtime.load(bench.model, threads=setup.threads)
    candidates, left_out = _peers(bench, setup, loaded.info.objective, peers)
    rows = measure([*_ours(bench, loaded, setup), *candidates], setup)
    settings = {
        "outputs": outputs,
        "objective": loaded.info.objective,
        "packed_bytes": bench.packed_bytes,
        "float_bytes": bench.float_bytes,
        "model_bytes": bench.model.stat().st_size,
    }
    ratio = "to the median of the first row"
    return Result(rows=rows + left_out, ratio=ratio, settings=settings)


def sweep(setup: Setup, *, model: str, outputs: int, tasks: Sequence[int], peers: str) -> Result:
    """Run `one_shot` for each number of tasks; rows have a column `tasks`."""
    rows: list[Row] = []
    for count in tasks:
        print(f"sweep: {count} tasks", file=sys.stderr)
        found = one_shot(setup, model=model, outputs=outputs, tasks=count, peers=peers)
        rows += [{"tasks": count, **row} for row in found.rows]
    ratio = "to the median of the first row of the same number of tasks"
    title = f"{model}, {outputs} outputs, {setup.threads} threads"
    return Result(rows=rows, ratio=ratio, draw=partial(_draw, rows, title))


def _draw(rows: Sequence[Row], title: str, axes: Any) -> None:  # noqa: ANN401 - matplotlib's
    """Draw a line per case, quartiles as a band."""
    for case in dict.fromkeys(row["case"] for row in rows):
        points = [row for row in rows if row["case"] == case and row["ms"] is not None]
        if points:
            tasks = [row["tasks"] for row in points]
            axes.plot(tasks, [row["ms"] for row in points], marker="o", label=case)
            low, high = ([row[key] for row in points] for key in ("ms_q25", "ms_q75"))
            axes.fill_between(tasks, low, high, alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="tasks", ylabel="ms a call", title=title)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")


def per_image(setup: Setup, *, model: str, outputs: int | None, tasks: int, images: int) -> Result:
    """A task for each of several images: one `infer_tasks` against an `infer_task` a row."""
    outputs = outputs or MODELS[model]
    bench = bench_bank(setup.cache, model=model, outputs=outputs, tasks=tasks)
    loaded = supsup_runtime.load(bench.model, threads=setup.threads)
    x = normal_images(images)
    rows = []
    for method in METHODS:
        together, alone = partial(_together, loaded, x, method), partial(_alone, loaded, x, method)
        candidates = [
            Candidate(name=f"infer_tasks, {method}", call=together),
            Candidate(name=f"infer_task a row, {method}", call=alone),
        ]
        rows += measure(candidates, setup)
    for row in rows:
        row["images_per_s"] = images / row["ms"] * 1e3
    ratio = "to the median of infer_tasks with the same method, so it is the gain in throughput"
    return Result(rows=rows, ratio=ratio, settings={"outputs": outputs})


def _together(model: Model, x: Images, method: Literal["one-shot", "verified"]) -> list[int]:
    return [inference.task.index for inference in model.infer_tasks(x, method=method)]


def _alone(model: Model, x: Images, method: Literal["one-shot", "verified"]) -> list[int]:
    return [model.infer_task(x[i : i + 1], method=method).task.index for i in range(len(x))]


def _ours(bench: BenchBank, model: Model, setup: Setup) -> list[Candidate]:
    x = normal_images(1)
    cached = "the same image in every call, so the inferred task is cached"
    return [
        Candidate(
            name="supsup predict, one-shot",
            call=lambda: model.predict(x, method="one-shot").task.index,
            note=cached,
        ),
        Candidate(
            name="supsup predict, verified",
            call=lambda: model.predict(x).task.index,
            note=f"the default method; {cached}",
        ),
        Candidate(
            name="the graph, one session.run",
            call=_graph(bench.model, setup),
            note="as any host calls it: all outputs, weights of the inferred task unpacked",
        ),
    ]


def _graph(model: Path, setup: Setup) -> Callable[[], object]:
    """Return a call of a graph that infers the task, with all outputs."""
    session = open_onnx(model, setup.threads)
    feeds = {
        "x": normal_images(1),
        "tasks": np.zeros(0, np.int64),
        "alphas": np.zeros(0, np.float32),
        "infer": np.array(True),
    }
    position = [value.name for value in session.get_outputs()].index("task")
    return lambda: int(session.run(None, feeds)[position][0])


def _portable(bench: BenchBank, setup: Setup) -> Callable[[], object]:
    path = bench.model.with_name("portable.onnx")
    export(bench.bank, path, request=Request(target="portable"), check=False, force=True)
    return _graph(path, setup)


def _peers(
    bench: BenchBank, setup: Setup, objective: str, letters: str
) -> tuple[list[Candidate], list[Row]]:
    """Return peers that fit into memory together, and rows for the others."""
    network, tasks = bench.bank.network, len(bench.bank)
    rows = packed_rows(bench)
    x = normal_images(1)

    @cache
    def masks() -> torch.Tensor:  # shared by a and b, so that more tasks fit
        return float_masks(rows, network.num_masked)

    def matrix(peer: type[AuthorsFormula | FloatMatrix]) -> Callable[[], object]:
        made, row = peer(network, masks(), objective), torch.from_numpy(x)
        return lambda: made(row)[0]

    words = torch.from_numpy(rows.reshape(-1).view(np.int64))
    known: dict[str, tuple[int, Callable[[], Callable[[], object]]]] = {
        "a": (authors_bytes(network, tasks), lambda: matrix(AuthorsFormula)),
        "b": (bench.float_bytes, lambda: matrix(FloatMatrix)),
        # ONNX Runtime may keep a second, prepacked copy of each weight
        "c": (
            2 * bench.float_bytes,
            lambda: partial(one_model_a_task(bench.bank, setup.threads), x),
        ),
        "f": (0, lambda: words.sum),
        "p": (2 * bench.packed_bytes, lambda: _portable(bench, setup)),
    }
    left = available_bytes()
    candidates: list[Candidate] = []
    left_out: list[Row] = []
    for letter in sorted(set(letters)):
        (name, note), (needed, make) = PEERS[letter], known[letter]
        if letter == "b" and masks.cache_info().currsize:
            needed = 0  # shares the masks of a
        if left is not None and needed > left:
            short = f"skipped: needs {needed / 1e9:.1f} GB, {left / 1e9:.1f} GB are available"
            left_out.append({"case": name, "ms": None, "note": short})
            continue
        left = None if left is None else left - needed
        candidates.append(Candidate(name=name, call=make(), note=note))
    return candidates, left_out
