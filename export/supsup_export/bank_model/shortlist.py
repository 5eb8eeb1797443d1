"""Score in passes: all tasks roughly, then exactly those that can still win.

docs/CONTRACT.md, "Which scores are exact", describes the passes. Rounding puts a value off by at
most half a step of its block, up as often as down, so for any mask the deviation is at most
``sqrt(sum step ** 2 / 12)``. Unscored weights add ``sum p u`` on average, with variance
``sum p (1 - p) u ** 2``: ``p`` is the share of tasks with the weight, ``u`` is ``-W * dO/dW``.
Trained masks spread wider; the first pass measures how much.

Passes over the same codes are turns of one Loop: two nodes would repack them twice. The Loop is in
the outermost graph, because ONNX Runtime 1.32 does not repack codes any deeper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from supsup_export.bank_model.layout import Layout
from supsup_export.bank_model.scores import (
    block_peaks,
    block_size,
    by_bit,
    exact_rows,
    part_scores,
    part_vector,
    rounding_factor,
    row_products,
    stack_rows,
)
from supsup_export.bank_model.weights import packed_part, uniform_mask, unpack
from supsup_export.graph import BOOL, FLOAT, INT64, Graph
from supsup_runtime.model.metadata import Scoring, Target

CONTENDERS = 4
"""Tasks scored exactly after the first pass."""
SIGMAS = 8.0
"""Deviations of unscored weights beyond which a task is ruled out."""
ROUNDING_SIGMAS = 6.0
"""The same for rounding: 8.5 deviations for a mask of half the weights."""
ROUNDED_TASKS = 512
"""From here on four contenders cost less than a second int8 row (docs/PERFORMANCE.md)."""
ROUNDED_BYTES = 16 << 20
"""From here on a second row takes longer than finding contenders."""


def choose_scoring(layout: Layout, target: Target) -> Scoring:
    """Return the default scoring of a model."""
    large = len(layout.masks) >= ROUNDED_TASKS and layout.masks.nbytes >= ROUNDED_BYTES
    return "rounded" if target == "cpu" and large else "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Inputs of the passes, as values of the outermost graph.

    Attributes:
        asked: Bool scalar; if false, the answer is `otherwise`.
        every: Bool scalar; whether all scores must be exact.
        vector: ``float32 (8 * row_bytes,)``, W * dO/dW, zero in the padding.
        added: ``float32 (tasks,)``, added to scores, such as that of the state.
        otherwise: ``float32 (n,)``.
    """

    asked: str
    every: str
    vector: str
    added: str
    otherwise: str


def scores_in_passes(graph: Graph, layout: Layout, question: Question, target: Target) -> str:
    """Score every task; `graph` must be the outermost one.

    Returns:
        ``float32 (tasks,)``, exact for the contenders or, after another pass, for all; others are
            expected scores, below the best.
    """
    vectors = _parts_if_asked(graph, layout, question)
    answer, certain, base = _turns(graph, layout, question, vectors, target)
    if len(layout.parts) == 1:
        return answer

    def the_rest(body: Graph) -> list[str]:
        return [body.op("Add", base, part_scores(body, layout, 1, vectors[1], target))]

    settled = graph.op("Or", certain, graph.op("Not", question.asked))
    return graph.branch(settled, lambda _: [answer], the_rest, [FLOAT])[0]


def _parts_if_asked(graph: Graph, layout: Layout, question: Question) -> list[str]:
    if len(layout.parts) == 1:
        return [question.vector]

    def both(body: Graph) -> list[str]:
        return [part_vector(body, layout, part, question.vector) for part in (0, 1)]

    def neither(body: Graph) -> list[str]:
        return [body.constant(np.zeros(0, np.float32))] * 2

    return graph.branch(question.asked, both, neither, [FLOAT, FLOAT])


def _turns(
    graph: Graph, layout: Layout, question: Question, vectors: list[str], target: Target
) -> list[str]:
    """Append the Loop over the first of `Layout.parts`: rounded, then exact if needed.

    Returns:
        The answer, whether it is certain, and that part's scores.
    """
    mine = by_bit(graph, vectors[0], target)
    body = graph.subgraph("turn")
    names = [body.fresh(n) for n in ("index", "go", "rows", "base", "answer", "certain")]
    rough = row_products(body, layout, 0, names[2], target)
    base = body.op("Add", rough, question.added)
    likely = _likely(body, layout, rough, mine, vectors[1:], target)
    answer, certain = _answer(body, layout, question.added, vectors, base, likely)
    enough = body.op("Or", certain, question.every)
    rows = _rows(body, enough, layout, mine, target)
    certain = body.op("And", certain, body.op("Not", question.every))
    outputs = body.own([body.op("Not", enough), rows, base, answer, certain])
    kinds: list[tuple[int, list[None]]] = [
        *((INT64, []), (BOOL, []), (FLOAT, [None] * 3)),
        *((FLOAT, [None]), (FLOAT, [None]), (BOOL, [])),
    ]
    loop = body.close(
        [(name, *kind) for name, kind in zip(names, kinds, strict=True)],
        [(name, *kind) for name, kind in zip(outputs, kinds[1:], strict=True)],
    )
    true, false = graph.constant(True), graph.constant(False)
    turns = graph.op("Where", question.asked, graph.constant(2), graph.constant(0))
    roughly = graph.op("Not", graph.op("And", question.asked, question.every))
    carried = [_rows(graph, roughly, layout, mine, target), question.added, question.otherwise]
    results = [graph.fresh(n) for n in ("rows", "base", "answer", "certain")]
    graph.ops("Loop", [turns, true, *carried, false], results, body=loop)
    return [results[2], results[3], results[1]]


def _rows(graph: Graph, roughly: str, layout: Layout, vector: str, target: Target) -> str:
    """Return one row to be rounded if `roughly`, else exact rows."""

    def one(body: Graph) -> list[str]:
        return [stack_rows(body, [vector], target)]

    def several(body: Graph) -> list[str]:
        return [exact_rows(body, layout, vector, target)]

    return graph.branch(roughly, one, several, [FLOAT])[0]


def _likely(
    graph: Graph, layout: Layout, rough: str, vector: str, others: list[str], target: Target
) -> tuple[str, str]:
    """Return the mean that rough scores lack, and the largest likely deviation: scalars.

    `rough` is ``float32 (tasks,)``; `vector` is of the first part, in `by_bit` order, `others` of
    the second.
    """
    reach = _rounding_reach(graph, vector, target)
    if not others:
        return graph.scalar(0), reach
    share = by_bit(graph.outermost, _share(graph.outermost, layout, 0), target)  # folded at load
    away = graph.op("Sub", rough, graph.op("ReduceMean", rough, keepdims=1))
    spread = graph.op("ReduceMean", graph.op("Mul", away, away), keepdims=0)
    ratio = graph.op("Sqrt", graph.op("Div", spread, _variance(graph, vector, share)))
    wider = graph.op("Max", ratio, graph.scalar(1))
    share = _share(graph.outermost, layout, 1)
    # dot product; MatMul takes five times as long
    total = graph.op("ReduceSum", graph.op("Mul", share, others[0]), keepdims=0)
    deviation = graph.op("Sqrt", _variance(graph, others[0], share))
    sigmas = graph.op("Mul", wider, graph.scalar(SIGMAS))
    unseen = graph.op("Mul", deviation, sigmas)
    return graph.op("Neg", total), graph.op("Add", reach, unseen)


def _rounding_reach(graph: Graph, vector: str, target: Target) -> str:
    """Return the largest likely rounding error."""
    peaks = block_peaks(graph, vector, target)
    square = graph.op("ReduceSumSquare", peaks, keepdims=0)  # a peak is 127 steps
    size, factor = block_size(target), rounding_factor(target)
    scale = ROUNDING_SIGMAS * factor * np.sqrt(size / 12) / 127
    return graph.op("Mul", graph.op("Sqrt", square), graph.scalar(scale))


def _answer(
    graph: Graph, layout: Layout, added: str, vectors: list[str], base: str, likely: tuple[str, str]
) -> tuple[str, str]:
    """Return scores, exact for contenders, and whether no other task can win.

    `base` are rough scores, ``float32 (tasks,)``, and `likely` is what they lack.
    """
    mean, reach = likely
    expected = graph.op("Add", base, mean)
    count = graph.ints(CONTENDERS + 1)
    names = [graph.fresh("best"), graph.fresh("contenders")]
    graph.ops("TopK", [expected, count], names)
    bounds = [graph.ints(v) for v in (0, CONTENDERS, CONTENDERS + 1)]
    contenders = graph.op("Slice", names[1], bounds[0], bounds[1])
    next_best = graph.op("Slice", names[0], bounds[1], bounds[2])
    exact = graph.op("Gather", added, contenders, axis=0)
    for part, vector in enumerate(vectors):
        rows = graph.op("Gather", packed_part(graph, layout, part), contenders, axis=0)
        # a matrix of one column: ONNX Runtime's MatMul is ten times slower for 1-D operands
        product = graph.op("MatMul", unpack(graph, rows), graph.reshape(vector, [-1, 1]))
        exact = graph.op("Sub", exact, graph.reshape(product, [-1]))
    best = graph.op("ReduceMax", exact, keepdims=1)
    certain = graph.op("Greater", best, graph.op("Add", next_best, reach))
    answer = graph.op("ScatterElements", expected, contenders, exact, axis=0)
    return answer, graph.op("Squeeze", certain)


def _share(graph: Graph, layout: Layout, part: int) -> str:
    padding = graph.constant(np.zeros(8 * layout.signs.size - layout.counts.size, np.float32))
    share = graph.op("Concat", uniform_mask(graph, layout), padding, axis=0)
    return part_vector(graph, layout, part, share)


def _variance(graph: Graph, vector: str, share: str) -> str:
    """Return the variance of a vector's sum over random masks."""
    outer = graph.outermost  # ONNX Runtime folds there what needs only counts
    without = outer.op("Sub", outer.scalar(1), share)
    deviation = outer.op("Sqrt", outer.op("Mul", share, without))
    return graph.op("ReduceSumSquare", graph.op("Mul", deviation, vector), keepdims=0)
