"""Screened scoring: a first pass over a part of the weights, then exact scores for contenders.

The first pass scores every task over the blocks of weights whose scores differ most between tasks.
The best of it are scored exactly. If the best of those is so far ahead that no other task can
catch up with the rest of its weights, scoring ends there; else the rest is scored for all tasks.

What the rest can add is bounded by chance, not by force: over masks that have each weight as often
as the bank's, its mean is ``sum p u`` and its variance ``sum p (1 - p) u ** 2``, where ``p`` is the
share of tasks that have the weight, and ``u = -W * dO/dW``. Trained masks spread wider than that;
how much wider is seen in the first pass. A task is given up if it would need `SIGMAS` of these
spreads.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from supsup_export.graph import Graph
from supsup_export.layout import ROW_BITS, Layout
from supsup_export.masks import packed_part, uniform_mask, unpack
from supsup_export.scores import part_scores, part_vector
from supsup_runtime.bank import MaskBank
from supsup_runtime.contract import Target
from supsup_runtime.errors import InputError
from supsup_runtime.session import open_session

__all__ = [
    "CONTENDERS",
    "FIRST_PASS",
    "MIN_TASKS",
    "SIGMAS",
    "choose_screen",
    "first_pass",
    "second_pass",
]

CONTENDERS = 4
"""Tasks that are scored exactly after the first pass."""
SIGMAS = 8.0
"""Spreads of what a task's unseen weights add, beyond which it is given up."""
SHARE = 0.3
"""Share of the weights that the first pass scores."""
MIN_TASKS = 64
"""Fewer are not worth four contenders; from some 500 on time is saved (docs/PERFORMANCE.md)."""
_SAMPLE = 64
_FLOAT = TensorProto.FLOAT
FIRST_PASS = (_FLOAT, TensorProto.BOOL, _FLOAT, _FLOAT)
"""ONNX types of what the first pass hands to the second."""


def choose_screen(
    bank: MaskBank, layout: Layout, objective: str, sample: npt.NDArray[np.float32] | None
) -> Layout:
    """Choose the blocks of the first pass: those that tell tasks apart on `sample`.

    Args:
        bank: With a gradient program.
        layout: Its arrays.
        objective: What is differentiated.
        sample: ``float32 (images, *input_shape)``, of which at most 64 are used, spread evenly;
            None takes standard normal ones, which know nothing of the data.

    Returns:
        The layout with its `screen`.

    Raises:
        InputError: If there are too few tasks or weights, or the sample does not fit the network.
    """
    if len(bank) < MIN_TASKS:
        raise InputError(
            f"screen: needs at least {MIN_TASKS} tasks to save time, {bank.path} has {len(bank)}; "
            "leave it out"
        )
    if len(layout.parts[0]) < 2:
        raise InputError(
            f"screen: needs a network of more than {ROW_BITS} masked weights, {bank.path} has "
            f"{bank.network.num_masked}; leave it out"
        )
    images = _checked(bank, sample)
    share = layout.counts.astype(np.float32) / np.float32(len(bank))
    energy = np.zeros(8 * layout.signs.size)  # of u, mean over the sample
    energy[: share.size] = _mean_square(bank, share, objective, images) * share * (1 - share)
    by_block = energy.reshape(-1, ROW_BITS).sum(axis=1)
    count = max(1, round(SHARE * len(by_block)))
    best = np.argsort(-by_block, kind="stable")[:count]
    return replace(layout, screen=np.sort(best).astype(np.int64))


def _checked(bank: MaskBank, sample: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
    shape = bank.network.input_shape
    if sample is None:
        rng = np.random.default_rng(0)
        return rng.standard_normal((_SAMPLE, *shape)).astype(np.float32)
    if sample.dtype != np.float32 or sample.shape[1:] != shape or len(sample) == 0:
        raise InputError(
            f"sample: must be float32 (images, {', '.join(map(str, shape))}) with at least one "
            f"image, got {sample.dtype} {sample.shape}"
        )
    if not np.isfinite(sample).all():
        raise InputError("sample: must be finite, got NaN or infinity")
    chosen = np.linspace(0, len(sample) - 1, min(len(sample), _SAMPLE)).astype(np.int64)
    return sample[chosen]


def _mean_square(
    bank: MaskBank,
    share: npt.NDArray[np.float32],
    objective: str,
    images: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """Mean of ``(W * dO/dW) ** 2`` at the uniform superposition: ``float64 (num_masked,)``."""
    network = bank.network
    if bank.gradient is None:
        raise InputError(f"screen: {bank.path} has no gradient program")
    session = open_session(bank.gradient, place=f"{bank.path}/programs/gradient.onnx")
    bounds = np.cumsum([p.size for p in network.parameters])[:-1]
    weights = network.weights()
    parts = np.split(share, bounds)
    feeds = {
        p.name: w * part.reshape(p.shape)
        for p, w, part in zip(network.parameters, weights, parts, strict=True)
    }
    tasks = len(bank)
    for state in network.state:
        feeds[state.name] = np.asarray(
            sum(task.state[state.name].astype(np.float64) for task in bank) / tasks, np.float32
        )
    names = [f"{objective}.{p.name}" for p in network.parameters]
    total = np.zeros(network.num_masked)
    for image in images:
        gradients = session.run(names, {"x": image[None], **feeds})
        terms = [(g * w).reshape(-1) for g, w in zip(gradients, weights, strict=True)]
        total += np.square(np.concatenate(terms, dtype=np.float64))
    return total / len(images)


def first_pass(
    graph: Graph, layout: Layout, vector: str, added: str | None, target: Target
) -> list[str]:
    """Score all tasks over the screen, and the contenders over all weights.

    Args:
        graph: Receives the nodes.
        layout: With a screen.
        vector: ``float32 (8 * row_bytes,)``, W * dO/dW, flat, zero in the padding.
        added: ``float32 (tasks,)`` to add to every score, such as that of the state.
        target: Operators to use.

    Returns:
        What `second_pass` takes, of types `FIRST_PASS`: the scores, ``float32 (tasks,)``, exact
        for the contenders and the expected ones for others; whether no other task can win, a bool
        scalar; the scores over the screen alone; and the rest of the vector.
    """
    mine, others = (part_vector(graph, layout, part, vector) for part in (0, 1))
    first = part_scores(graph, layout, 0, mine, target)
    spread = _ratio_of_spreads(graph, layout, first, mine)
    if added is not None:
        first = graph.op("Add", first, added)
    mean, deviation = _moments(graph, layout, 1, others)
    expected = graph.op("Add", first, mean)
    count = graph.constant(np.array([CONTENDERS + 1], np.int64))
    names = [graph.fresh("best"), graph.fresh("contenders")]
    graph.ops("TopK", [expected, count], names)
    bounds = [graph.constant(np.array([v], np.int64)) for v in (0, CONTENDERS, CONTENDERS + 1)]
    contenders = graph.op("Slice", names[1], bounds[0], bounds[1])
    next_best = graph.op("Slice", names[0], bounds[1], bounds[2])
    exact = _exact(graph, layout, first, contenders, others)
    best = graph.op("ReduceMax", exact, keepdims=1)
    reach = graph.op("Mul", graph.op("Mul", deviation, spread), graph.constant(np.float32(SIGMAS)))
    certain = graph.op("Greater", best, graph.op("Add", next_best, reach))
    scores = graph.op("ScatterElements", expected, contenders, exact, axis=0)
    return [scores, graph.op("Squeeze", certain), first, others]


def second_pass(graph: Graph, layout: Layout, first: list[str], target: Target) -> str:
    """Score the rest for all tasks, unless the first pass is certain: ``float32 (tasks,)``."""
    scores, certain, over_screen, others = first

    def the_rest(body: Graph) -> list[str]:
        return [body.op("Add", over_screen, part_scores(body, layout, 1, others, target))]

    return graph.branch(certain, lambda _: [scores], the_rest, [_FLOAT])[0]


def _exact(graph: Graph, layout: Layout, first: str, contenders: str, others: str) -> str:
    """Scores of some tasks, the rest of their weights included: ``float32 (contenders,)``."""
    rows = graph.op("Gather", packed_part(graph, layout, 1), contenders, axis=0)
    # a matrix of one column: with a 1-D operand ONNX Runtime's MatMul takes ten times as long
    column = graph.reshape(others, [-1, 1])
    rest = graph.reshape(graph.op("MatMul", unpack(graph, rows), column), [-1])
    return graph.op("Sub", graph.op("Gather", first, contenders, axis=0), rest)


def _ratio_of_spreads(graph: Graph, layout: Layout, scores: str, vector: str) -> str:
    """How much wider the first pass's scores spread than random masks' would; at least 1."""
    away = graph.op("Sub", scores, graph.op("ReduceMean", scores, keepdims=1))
    square = graph.op("ReduceMean", graph.op("Mul", away, away), keepdims=0)
    _, deviation = _moments(graph, layout, 0, vector)
    ratio = graph.op("Div", graph.op("Sqrt", square), deviation)
    return graph.op("Max", ratio, graph.constant(np.float32(1)))


def _moments(graph: Graph, layout: Layout, part: int, vector: str) -> tuple[str, str]:
    """Mean and standard deviation of a random mask's score over a part: scalars."""
    outer = graph.outermost  # so that ONNX Runtime folds what depends on the counts alone
    padding = outer.constant(np.zeros(8 * layout.signs.size - layout.counts.size, np.float32))
    share = outer.op("Concat", uniform_mask(outer, layout), padding, axis=0)
    share = part_vector(outer, layout, part, share)
    one = outer.constant(np.float32(1))
    variance = outer.op("Mul", share, outer.op("Sub", one, share))
    mean = graph.op("Neg", _dot(graph, share, vector))
    square = graph.op("Mul", vector, vector)
    return mean, graph.op("Sqrt", _dot(graph, variance, square))


def _dot(graph: Graph, left: str, right: str) -> str:
    """Product of two vectors, a scalar; MatMul takes five times as long for it."""
    return graph.op("ReduceSum", graph.op("Mul", left, right), keepdims=0)
