"""Graph parts that infer the task: gradients, scores, and the choice.

Batches are scored in a branch of the outermost graph: in nested branches ONNX Runtime 1.32 does not
repack mask codes, and is 100 times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from onnx import GraphProto

from supsup_export.bank_model.layout import Layout
from supsup_export.bank_model.scores import mask_scores, row_scores, state_scores
from supsup_export.bank_model.shortlist import Question, scores_in_passes
from supsup_export.bank_model.weights import state_of, superposed_mask, uniform_mask
from supsup_export.graph import BOOL, FLOAT, INT64, Fill, Graph
from supsup_runtime.model.metadata import Scoring, Target

Scorer: TypeAlias = Callable[[Graph, Layout, str, Target], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferring:
    """Inputs of task inference.

    Attributes:
        layout: Packed masks, with a screen for screened scoring.
        target: Operators to use.
        scoring: Which tasks are scored exactly.
        weights: Fixed weights, ``float32 (num_masked,)``.
        gradient: Program with only the outputs ``objective.name``.
        objective: Name of the objective.
        x: The network's inputs, ``float32 (batch, *input_shape)``.
    """

    layout: Layout
    target: Target
    scoring: Scoring
    weights: str
    gradient: GraphProto
    objective: str
    x: str

    def scores(self, graph: Graph) -> str:
        """Score `x` as one task, uniformly superposed: ``float32 (tasks,)``."""
        gradients = self._gradients(graph, self._feeds(graph), self.x)
        if self.scoring == "exact":
            return self._total(graph, mask_scores, gradients)
        question = Question(
            asked=graph.constant(True),
            every=graph.constant(False),
            vector=gradients[0],
            added=self._added(graph, gradients),
            otherwise=_none(graph),
        )
        return scores_in_passes(graph, self.layout, question, self.target)

    def scores_if_asked(self, graph: Graph) -> str:
        """Score `x` as one task, each row, or nothing, by `infer` and `per_image`."""
        one = graph.op("And", "infer", graph.op("Not", "per_image"))
        if self.scoring == "exact":
            return graph.branch(
                one,
                lambda body: [self._total(body, mask_scores, self._at_superposition(body))],
                lambda body: [self._rows_or_none(body)],
                [FLOAT],
            )[0]

        def vector(body: Graph) -> list[str]:
            gradients = self._at_superposition(body)
            none = _none(body)
            return [gradients[0], self._added(body, gradients), none]

        def no_vector(body: Graph) -> list[str]:
            none = _none(body)
            return [none, none, self._rows_or_none(body)]

        found = graph.branch(one, vector, no_vector, [FLOAT] * 3)
        given = graph.op("Cast", graph.op("Size", "tasks"), to=BOOL)
        question = Question(
            asked=one, every=given, vector=found[0], added=found[1], otherwise=found[2]
        )
        return scores_in_passes(graph, self.layout, question, self.target)

    def choice(self, graph: Graph, scores: str) -> list[str]:
        """Return the best task, of the batch or each row, if `infer`, else the given tasks.

        Returns:
            Tasks and alphas to run, empty for rows, and tasks to report.
        """

        def then_branch(body: Graph) -> list[str]:
            by_row = body.reshape(scores, [-1, len(self.layout.masks)])
            task = body.op("ArgMax", by_row, axis=1, keepdims=0)
            zero, one = (body.ints(v) for v in (0, 1))
            count = body.op("Where", "per_image", zero, one)
            alphas = body.constant(np.ones(1, np.float32))
            run = [body.op("Slice", value, zero, count) for value in (task, alphas)]
            return [*run, task]

        given = ["tasks", "alphas", "tasks"]
        return graph.branch("infer", then_branch, lambda _: given, [INT64, FLOAT, INT64])

    def _total(self, graph: Graph, score: Scorer, gradients: list[str]) -> str:
        if not self.layout.network.parameters:
            return self._added(graph, gradients)
        scores = score(graph, self.layout, gradients[0], self.target)
        if not self.layout.network.state:
            return scores
        return graph.op("Add", scores, self._added(graph, gradients))

    def _added(self, graph: Graph, gradients: list[str]) -> str:
        if self.layout.network.state:
            return state_scores(graph, self.layout, gradients[-1])
        return graph.constant(np.zeros(len(self.layout.masks), np.float32))

    def _rows_or_none(self, graph: Graph) -> str:
        none = _none(graph)
        asked = graph.op("And", "infer", "per_image")
        return graph.branch(
            asked, lambda body: [self._row_scores(body)], lambda _: [none], [FLOAT]
        )[0]

    def _row_scores(self, graph: Graph) -> str:
        vectors = self._row_gradients(graph, self._feeds(graph))
        return graph.reshape(self._total(graph, row_scores, vectors), [-1])

    def _row_gradients(self, graph: Graph, feeds: dict[str, str]) -> list[str]:
        """Return `_gradients` of each row of `x`: ``(rows, n)`` each."""
        body = graph.subgraph("row")
        index, go = body.fresh("index"), body.fresh("go")
        row = body.op("Gather", self.x, body.reshape(index, [1]), axis=0)
        values = self._gradients(body, feeds, row)
        onward = body.op("Identity", go)
        outputs = [body.op("Identity", value) for value in values]
        loop = body.close(
            [(index, INT64, []), (go, BOOL, [])],
            [(onward, BOOL, []), *((output, FLOAT, [None]) for output in outputs)],
        )
        rows, forever = graph.length(self.x), graph.constant(True)
        stacked = [graph.fresh("rows") for _ in values]
        return graph.ops("Loop", [rows, forever], stacked, body=loop)

    def _at_superposition(self, graph: Graph) -> list[str]:
        """Return gradients at the given superposition, or else the uniform one."""
        empty = graph.op("Equal", graph.op("Size", "tasks"), graph.constant(0))

        def at(*given: str) -> Fill:
            return lambda body: self._gradients(body, self._feeds(body, *given), self.x)

        network = self.layout.network
        types = [FLOAT for own in (network.parameters, network.state) if own]
        return graph.branch(empty, at(), at("tasks", "alphas"), types)

    def _feeds(self, graph: Graph, *given: str) -> dict[str, str]:
        """Return weights and state at given tasks and alphas, or of all tasks equally."""
        layout, network = self.layout, self.layout.network
        feeds: dict[str, str] = {}
        if network.parameters:
            mask = superposed_mask(graph, layout, *given) if given else uniform_mask(graph, layout)
            feeds = graph.cut(graph.op("Mul", mask, self.weights), network.parameters)
        if network.state:
            feeds |= graph.cut(state_of(graph, layout, *given), network.state)
        return feeds

    def _gradients(self, graph: Graph, feeds: dict[str, str], x: str) -> list[str]:
        """Return W * dO/dW, padded to a row, and dO/dstate, flat, where they exist."""
        layout, network = self.layout, self.layout.network
        gradients = graph.inline(self.gradient, {"x": x, **feeds})

        def flat(names: list[str], *more: str) -> str:
            parts = [graph.reshape(gradients[f"{self.objective}.{name}"], [-1]) for name in names]
            return graph.join([*parts, *more])

        state = [flat([s.name for s in network.state])] if network.state else []
        if not network.parameters:
            return state
        padding = np.zeros(8 * layout.signs.size - network.num_masked, np.float32)
        zeros = [graph.constant(padding)] if padding.size else []
        weights = graph.outermost.join([self.weights, *zeros])  # folded at load
        vector = flat([p.name for p in network.parameters], *zeros)
        return [graph.op("Mul", vector, weights), *state]


def _none(graph: Graph) -> str:
    return graph.constant(np.zeros(0, np.float32))
