"""Which task is this input of? One-shot inference with the logits, against the peers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tools.benchmarks.banks import (
    MODELS,
    BenchBank,
    bench_bank,
    float_masks,
    float_model,
    images,
    packed_rows,
)
from tools.benchmarks.peers import (
    AuthorsFormula,
    FloatMatrix,
    OneModelATask,
    SwappedAdapters,
    authors_bytes,
    open_onnx,
)
from tools.benchmarks.timing import Candidate, Row, Setup, measure, skipped, too_large

import supsup_runtime
from supsup_runtime.model.model import Model

__all__ = ["PEERS", "PEER_TASKS", "SWEEP_OUTPUTS", "SWEEP_TASKS", "one_shot", "per_image", "sweep"]

PEERS = "abcdef"
"""Letters of the peers: a and b in torch, c to e with ONNX Runtime, f the limit."""
PEER_TASKS = 250
"""Float models that are opened, at most."""
SWEEP_TASKS = (10, 25, 100, 250, 1000, 2500)
SWEEP_OUTPUTS = 500
"""What the paper gives LeNet 300-100 for 2500 tasks."""
IMAGES = 128

Images = npt.NDArray[np.float32]


def one_shot(
    setup: Setup,
    *,
    model: str = "lenet-300-100",
    outputs: int | None = None,
    tasks: int = 250,
    peers: str = PEERS,
    peer_tasks: int = PEER_TASKS,
) -> Row:
    """One call on one image, its task unknown.

    Args:
        setup: Cache, threads and rounds.
        model: A key of `MODELS`.
        outputs: Length of the logits; the paper's where None.
        tasks: Number of tasks, `K`.
        peers: Letters of the peers to run.
        peer_tasks: Float models that peer c opens, at most; its time is scaled up to `tasks`.

    Returns:
        Settings and rows; ratios are to `predict` with one-shot, which is the first row.
    """
    outputs = outputs or MODELS[model]
    bench = bench_bank(setup.cache, model=model, outputs=outputs, tasks=tasks)
    loaded = supsup_runtime.load(bench.model, threads=setup.threads)
    candidates, left_out = _peers(bench, setup, loaded.info.objective, peers, peer_tasks)
    rows = measure([*_ours(bench, loaded, setup), *candidates], setup)
    return {
        "benchmark": "one-shot",
        "settings": {
            "model": model,
            "outputs": outputs,
            "tasks": tasks,
            "batch": 1,
            "objective": loaded.info.objective,
            "threads": setup.threads,
            "rounds": setup.rounds,
            "masked_weights": bench.bank.network.num_masked,
            "packed_bytes": bench.packed_bytes,
            "float_bytes": bench.float_bytes,
            "model_bytes": bench.model.stat().st_size,
        },
        "rows": rows + left_out,
        "ratio": "to the median of the first row",
    }


def sweep(
    setup: Setup,
    *,
    model: str = "lenet-300-100",
    outputs: int = SWEEP_OUTPUTS,
    tasks: Sequence[int] = SWEEP_TASKS,
    peers: str = "abf",
) -> Row:
    """`one_shot` over the number of tasks; rows have a column `tasks`."""
    rows: list[Row] = []
    for count in tasks:
        print(f"sweep: {count} tasks", file=sys.stderr)
        result = one_shot(setup, model=model, outputs=outputs, tasks=count, peers=peers)
        rows += [{"tasks": count, **row} for row in result["rows"]]
    settings = {"model": model, "outputs": outputs, "tasks": list(tasks), "batch": 1}
    settings |= {"threads": setup.threads, "rounds": setup.rounds}
    ratio = "to the median of the first row of the same number of tasks"
    return {"benchmark": "sweep", "settings": settings, "rows": rows, "ratio": ratio}


def per_image(
    setup: Setup,
    *,
    model: str = "lenet-300-100",
    outputs: int | None = None,
    tasks: int = 250,
    count: int = IMAGES,
) -> Row:
    """A task for each of `count` images: one `infer_tasks` against an `infer_task` a row."""
    outputs = outputs or MODELS[model]
    bench = bench_bank(setup.cache, model=model, outputs=outputs, tasks=tasks)
    loaded = supsup_runtime.load(bench.model, threads=setup.threads)
    x = images(count)
    settings: dict[str, Any] = {
        "model": model,
        "outputs": outputs,
        "tasks": tasks,
        "images": count,
        "threads": setup.threads,
        "rounds": setup.rounds,
    }
    candidates = []
    for method in ("one-shot", "verified"):
        together, alone = _together(loaded, x, method), _a_row(loaded, x, method)
        first, second = together(), alone()
        settings[f"{method}: distinct tasks"] = len(set(first))
        settings[f"{method}: same task both ways"] = float(np.mean(np.equal(first, second)))
        name = f"infer_tasks, {method}"
        candidates.append(Candidate(name=name, call=together, against=name))
        candidates.append(Candidate(name=f"infer_task a row, {method}", call=alone, against=name))
    rows = measure(candidates, setup)
    for row in rows:
        row["images_per_s"] = count / row["ms"] * 1e3
    ratio = "to the median of infer_tasks with the same method, so it is the gain in throughput"
    return {"benchmark": "per-image", "settings": settings, "rows": rows, "ratio": ratio}


def _together(model: Model, x: Images, method: Any) -> Callable[[], list[int]]:  # noqa: ANN401 - a Method
    return lambda: [inference.task.index for inference in model.infer_tasks(x, method=method)]


def _a_row(model: Model, x: Images, method: Any) -> Callable[[], list[int]]:  # noqa: ANN401 - as above
    rows = [x[i : i + 1] for i in range(len(x))]
    return lambda: [model.infer_task(row, method=method).task.index for row in rows]


def _ours(bench: BenchBank, model: Model, setup: Setup) -> list[Candidate]:
    """Supsup through its runtime, and its graph as any host would call it."""
    x = images(1)
    session = open_onnx(bench.model, setup.threads)
    feeds = {
        "x": x,
        "tasks": np.zeros(0, np.int64),
        "alphas": np.zeros(0, np.float32),
        "infer": np.array(True),
    }
    names = [value.name for value in session.get_outputs()]
    position = names.index("task")
    cached = "the same image every call, so the inferred task's weights are cached"
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
            name="supsup infer_task, one-shot",
            call=lambda: model.infer_task(x, method="one-shot").task.index,
            note="the task alone, no logits",
        ),
        Candidate(
            name="the graph, one session.run",
            call=lambda: int(session.run(None, feeds)[position][0]),
            note="as any host would call it: all outputs, the inferred task's weights unpacked",
        ),
    ]


def _peers(
    bench: BenchBank, setup: Setup, objective: str, letters: str, peer_tasks: int
) -> tuple[list[Candidate], list[Row]]:
    """Peers that fit into memory, and rows of those that do not."""
    rows = packed_rows(bench)
    left_out: list[Row] = []
    run = _torch_peers(bench, rows, objective, letters, left_out)
    if "c" in letters or "d" in letters:
        run += _float_models(bench, setup, letters, peer_tasks, left_out)
    if "e" in letters:
        run.append(_adapter(bench, setup))
    if "f" in letters:
        words = torch.from_numpy(rows.reshape(-1).view(np.int64))
        run.append(
            Candidate(
                name="f limit: sum of the bank's bytes",
                call=lambda: _discard(words.sum()),
                note="the packed bank read once by torch as int64: it computes nothing of use",
            )
        )
    return run, left_out


def _torch_peers(
    bench: BenchBank,
    rows: npt.NDArray[np.uint8],
    objective: str,
    letters: str,
    left_out: list[Row],
) -> list[Candidate]:
    """Peers a and b; they share one matrix of float masks, so that more tasks fit."""
    names = {"a": "a authors' formula, torch", "b": "b float matrix products, torch"}
    network, tasks = bench.bank.network, len(bench.bank)
    needed = {"a": authors_bytes(network, tasks), "b": bench.float_bytes}
    fitting = []
    for letter in sorted(set(letters) & set(names)):
        reason = too_large(needed[letter], "with float masks it")
        if reason:
            left_out.append(skipped(names[letter], reason))
        else:
            fitting.append(letter)
    if not fitting:
        return []
    masks = float_masks(rows, network.num_masked)
    peers: list[AuthorsFormula | FloatMatrix] = []
    if "a" in fitting:
        peers.append(AuthorsFormula(network, masks, objective))
    if "b" in fitting:
        peers.append(FloatMatrix(network, masks, objective))
    pairs = zip(fitting, peers, strict=True)
    notes = {"a": "every alpha_i * M_i is formed, as in the authors' code; b is the fast form"}
    return [_torch_candidate(names[key], peer, notes.get(key, "")) for key, peer in pairs]


def _torch_candidate(name: str, peer: AuthorsFormula | FloatMatrix, note: str) -> Candidate:
    x = torch.from_numpy(images(1))
    return Candidate(name=name, call=lambda: peer(x)[0], note=note)


def _float_models(
    bench: BenchBank, setup: Setup, letters: str, peer_tasks: int, left_out: list[Row]
) -> list[Candidate]:
    """Peers c and d: plain models, all tried or one known."""
    tasks = len(bench.bank)
    x = images(1)
    candidates = []
    if "c" in letters:
        opened = min(tasks, peer_tasks)
        name = "c one float model a task, all tried"
        # ONNX Runtime may hold a second, prepacked copy of each weight
        needed = 2 * bench.float_bytes // tasks * opened
        if "a" in letters:  # whose products are not allocated yet
            needed += authors_bytes(bench.bank.network, tasks) - bench.float_bytes
        reason = too_large(needed, f"with {opened} float models it")
        note = "lowest entropy of all outputs wins"
        if opened < tasks:
            note += f"; SCALED: {opened} models run, times {tasks}/{opened}"
            note += "; `task` is among those"
        if reason:
            left_out.append(skipped(name, reason))
        else:
            models = OneModelATask(bench.bank, opened, setup.threads)
            candidates.append(
                Candidate(name=name, call=lambda: models(x)[0], scale=tasks / opened, note=note)
            )
    if "d" in letters:
        session = open_onnx(float_model(bench.bank, 0), setup.threads)
        candidates.append(
            Candidate(
                name="d one float model, task known",
                call=lambda: _discard(session.run(["logits"], {"x": x})),
                note="it is told the task: the floor, not a peer",
            )
        )
    return candidates


def _adapter(bench: BenchBank, setup: Setup) -> Candidate:
    folder = bench.model.parent / "adapters"
    folder.mkdir(exist_ok=True)
    adapters = SwappedAdapters(bench.bank, folder, 1, setup.threads)
    x = images(1)
    return Candidate(
        name="e ONNX Runtime adapter, task known",
        call=lambda: _discard(adapters.known(x, 0)),
        note="cannot infer the task: it is told; one float32 adapter a task, "
        f"{adapters.task_bytes:,} bytes against {bench.row_bytes:,} in supsup",
    )


def _discard(_: object) -> None:
    """Drop a result: the candidate infers no task."""
