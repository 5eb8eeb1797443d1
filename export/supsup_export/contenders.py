"""Scoring in passes: rough scores of all tasks, then exact ones of those that can still win.

A first pass scores every task roughly: with the vector rounded to int8, over all weights or, in a
screened model, over those that tell tasks apart best. The best of it are scored exactly. If the
best of those is so far ahead that no other task can catch up with what is not yet scored, the
rounding and the other weights, scoring ends there. Else that is scored for all tasks.

What it can add is bounded by chance, not by force: over masks that have each weight as often as
the bank's, its mean is ``sum p u`` and its variance ``sum p (1 - p) u ** 2``, where ``p`` is the
share of tasks that have the weight, and ``u`` what of ``-W * dO/dW`` is not yet scored. Trained
masks spread wider than that; how much wider is seen in the first pass. A task is given up if it
would need `SIGMAS` of these spreads.

Passes over the same codes are turns of one Loop: two nodes would repack them twice. The Loop
stands in the outermost graph, as ONNX Runtime 1.32 does not repack codes any deeper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from supsup_export.graph import Graph, tensor_info
from supsup_export.layout import Layout
from supsup_export.masks import packed_part, uniform_mask, unpack
from supsup_export.scores import (
    by_bit,
    by_weight,
    int8_rows,
    num_rows,
    part_scores,
    part_vector,
    row_products,
)
from supsup_runtime.contract import Scoring, Target

__all__ = [
    "CONTENDERS",
    "ROUNDED_TASKS",
    "SIGMAS",
    "Question",
    "choose_scoring",
    "scores_in_passes",
]

CONTENDERS = 4
"""Tasks that are scored exactly after the first pass."""
SIGMAS = 8.0
"""Spreads of what a task's unscored part adds, beyond which it is given up."""
ROUNDED_TASKS = 512
"""From here on four contenders cost less than a second int8 row for all (docs/PERFORMANCE.md)."""
ROUNDED_BYTES = 16 << 20
"""Packed masks from which on a second row for all takes longer than looking for contenders."""
_FLOAT, _BOOL, _INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def choose_scoring(layout: Layout, target: Target) -> Scoring:
    """How a model scores unless it is told."""
    large = len(layout.masks) >= ROUNDED_TASKS and layout.masks.nbytes >= ROUNDED_BYTES
    return "rounded" if target == "cpu" and large else "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the passes are asked, as values of the outermost graph.

    Attributes:
        asked: Bool scalar; without it there is no pass, and the answer is `otherwise`.
        every: Bool scalar, exact scores of every task are wanted; None where they never are.
        vector: ``float32 (8 * row_bytes,)``, W * dO/dW, flat, zero in the padding.
        added: ``float32 (tasks,)`` to add to every score, such as that of the state.
        otherwise: ``float32 (n,)``.
    """

    asked: str
    every: str | None
    vector: str
    added: str
    otherwise: str


def scores_in_passes(graph: Graph, layout: Layout, question: Question, target: Target) -> str:
    """Score every task in as few passes as it takes.

    Args:
        graph: Receives the nodes; the outermost one.
        layout: The packed masks, with a screen or without.
        question: What is asked.
        target: Operators to use, ``cpu`` or ``cuda``.

    Returns:
        ``float32 (tasks,)``: exact for the contenders and, where another pass was needed, for all;
        the expected score for the others, below the best.
    """
    answer, certain, base, others = _loop(graph, layout, question, target)
    if len(layout.parts) == 1:
        return answer

    def the_rest(body: Graph) -> list[str]:
        return [body.op("Add", base, part_scores(body, layout, 1, others, target))]

    settled = graph.op("Or", certain, graph.op("Not", question.asked))
    return graph.branch(settled, lambda _: [answer], the_rest, [_FLOAT])[0]


def _loop(graph: Graph, layout: Layout, question: Question, target: Target) -> list[str]:
    """Turns over the first of `Layout.parts`: the int8 row of its vector, then what that left.

    Returns:
        The answer, whether it is certain, the scores over that part, and the rest of the vector.
    """
    mine, others = question.vector, ""
    if len(layout.parts) > 1:
        mine, others = _parts_if_asked(graph, layout, question)
    turns = graph.op(
        "Where",
        question.asked,
        graph.constant(np.array(num_rows(layout, target), np.int64)),
        graph.constant(np.array(0, np.int64)),
    )
    body = graph.subgraph("turn")
    names = [body.fresh(n) for n in ("index", "go", "vector", "base", "answer", "certain", "wider")]
    vector, base, wider = names[2], names[3], names[6]
    types = [_INT64, _BOOL, _FLOAT, _FLOAT, _FLOAT, _BOOL, _FLOAT]
    row, rest = int8_rows(body, vector, 2, target)
    products = row_products(body, layout, 0, [row], target)
    scored = body.op("Add", base, products)
    shares = [by_bit(graph, _share(graph, layout, 0), target)]  # folded at load
    # of the first turn: what its rounding left spreads no wider than random masks
    wider = body.op("Max", wider, _ratio_of_spreads(body, products, row, shares[0]))
    unscored = [rest]
    if others:
        unscored.append(others)
        shares.append(_share(graph, layout, 1))
    mean, deviation = _moments(body, unscored, shares)
    unscored[0] = by_weight(body, rest, target)
    reach = body.op("Mul", body.op("Mul", deviation, wider), body.constant(np.float32(SIGMAS)))
    answer, certain = _answer(body, layout, scored, unscored, mean, reach)
    if question.every is not None:
        certain = body.op("And", certain, body.op("Not", question.every))
    outputs = body.own([body.op("Not", certain), rest, scored, answer, certain, wider])
    shapes: list[list[int] | list[None]] = [[], [], [None], [None], [None], [], []]
    loop = body.close(
        [tensor_info(n, t, s) for n, t, s in zip(names, types, shapes, strict=True)],
        [tensor_info(n, t, s) for n, t, s in zip(outputs, types[1:], shapes[1:], strict=True)],
    )
    false, one = graph.constant(np.array(False)), graph.constant(np.float32(1))
    carried = [by_bit(graph, mine, target), question.added, question.otherwise, false, one]
    results = [graph.fresh(n) for n in ("left", "base", "answer", "certain", "spread")]
    graph.ops("Loop", [turns, graph.constant(np.array(True)), *carried], results, body=loop)
    return [results[2], results[3], results[1], others]


def _parts_if_asked(graph: Graph, layout: Layout, question: Question) -> list[str]:
    """Both parts of the vector; of no vector, both empty."""

    def both(body: Graph) -> list[str]:
        return [part_vector(body, layout, part, question.vector) for part in (0, 1)]

    def neither(body: Graph) -> list[str]:
        return [body.constant(np.zeros(0, np.float32))] * 2

    return graph.branch(question.asked, both, neither, [_FLOAT, _FLOAT])


def _answer(
    graph: Graph, layout: Layout, scored: str, unscored: list[str], mean: str, reach: str
) -> tuple[str, str]:
    """Exact scores of the contenders among the expected ones, and whether no other can win.

    Args:
        graph: Receives the nodes.
        layout: The packed masks.
        scored: ``float32 (tasks,)``, what is scored of every task.
        unscored: What is not, a vector for each of `Layout.parts`.
        mean: What that adds to a task's score: a scalar.
        reach: How much more it can add, by chance: a scalar.
    """
    expected = graph.op("Add", scored, mean)
    count = graph.constant(np.array([CONTENDERS + 1], np.int64))
    names = [graph.fresh("best"), graph.fresh("contenders")]
    graph.ops("TopK", [expected, count], names)
    bounds = [graph.constant(np.array([v], np.int64)) for v in (0, CONTENDERS, CONTENDERS + 1)]
    contenders = graph.op("Slice", names[1], bounds[0], bounds[1])
    next_best = graph.op("Slice", names[0], bounds[1], bounds[2])
    exact = graph.op("Gather", scored, contenders, axis=0)
    for part, vector in enumerate(unscored):
        rows = graph.op("Gather", packed_part(graph, layout, part), contenders, axis=0)
        # a matrix of one column: with a 1-D operand ONNX Runtime's MatMul takes ten times as long
        product = graph.op("MatMul", unpack(graph, rows), graph.reshape(vector, [-1, 1]))
        exact = graph.op("Sub", exact, graph.reshape(product, [-1]))
    best = graph.op("ReduceMax", exact, keepdims=1)
    certain = graph.op("Greater", best, graph.op("Add", next_best, reach))
    answer = graph.op("ScatterElements", expected, contenders, exact, axis=0)
    return answer, graph.op("Squeeze", certain)


def _share(graph: Graph, layout: Layout, part: int) -> str:
    """The share of tasks that have each weight of one of `Layout.parts`, flat; folded at load."""
    padding = graph.constant(np.zeros(8 * layout.signs.size - layout.counts.size, np.float32))
    share = graph.op("Concat", uniform_mask(graph, layout), padding, axis=0)
    return part_vector(graph, layout, part, share)


def _ratio_of_spreads(graph: Graph, scores: str, vector: str, share: str) -> str:
    """How much wider the scores of a vector spread than random masks' would."""
    away = graph.op("Sub", scores, graph.op("ReduceMean", scores, keepdims=1))
    square = graph.op("ReduceMean", graph.op("Mul", away, away), keepdims=0)
    return graph.op("Sqrt", graph.op("Div", square, _variance(graph, vector, share)))


def _moments(graph: Graph, vectors: list[str], shares: list[str]) -> tuple[str, str]:
    """Mean and standard deviation of what vectors add to a random mask's score: scalars."""
    means, variances = [], []
    for vector, share in zip(vectors, shares, strict=True):
        # products of two vectors: MatMul takes five times as long for them
        means.append(graph.op("ReduceSum", graph.op("Mul", share, vector), keepdims=0))
        variances.append(_variance(graph, vector, share))
    mean = graph.op("Neg", graph.op("Sum", *means))
    return mean, graph.op("Sqrt", graph.op("Sum", *variances))


def _variance(graph: Graph, vector: str, share: str) -> str:
    """Variance of what a vector adds to a random mask's score: a scalar."""
    outer = graph.outermost  # so that ONNX Runtime folds what depends on the counts alone
    one = outer.constant(np.float32(1))
    deviation = outer.op("Sqrt", outer.op("Mul", share, outer.op("Sub", one, share)))
    return graph.op("ReduceSumSquare", graph.op("Mul", deviation, vector), keepdims=0)
