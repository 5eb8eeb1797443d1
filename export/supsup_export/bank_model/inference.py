"""Graph parts that infer the task: gradients, scores, and the choice among tasks.

The scores of a batch are made in a branch of the outermost graph: in a branch within a branch ONNX
Runtime 1.32 does not repack the codes of the masks, and is a hundred times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto

from supsup_export.bank_model.layout import Layout
from supsup_export.bank_model.rows import row_vectors
from supsup_export.bank_model.scores import mask_scores, row_scores, state_scores
from supsup_export.bank_model.shortlist import Question, scores_in_passes
from supsup_export.bank_model.weights import Weights, state_of, superposed_mask, uniform_mask
from supsup_export.graph import Graph
from supsup_runtime.bank.network import Network
from supsup_runtime.model.metadata import Scoring, Target

__all__ = ["Inferring", "state_tensors"]

_INT64, _FLOAT = TensorProto.INT64, TensorProto.FLOAT
Given = tuple[str, str]
"""Names of tasks and alphas."""


def state_tensors(graph: Graph, network: Network, flat: str) -> dict[str, str]:
    """Cut a flat state into its tensors by name, each in its shape."""
    parts = graph.split(flat, [s.size for s in network.state])
    return {
        s.name: graph.reshape(part, s.shape) for s, part in zip(network.state, parts, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Inferring:
    """What inference in a graph needs.

    Attributes:
        network: Shapes and order of parameters and state.
        layout: The packed masks, with a screen if scoring is screened.
        target: Operators to use.
        scoring: Of every task, or of those that can still win.
        weights: The fixed weights in the graph.
        gradient: The program that differentiates the objective, and nothing else.
        objective: Its name; outputs of the program are ``objective.name``.
    """

    network: Network
    layout: Layout
    target: Target
    scoring: Scoring
    weights: Weights
    gradient: ModelProto
    objective: str

    def scores(self, graph: Graph) -> str:
        """Scores of `x` as one task at the uniform superposition: ``float32 (tasks,)``."""
        gradients = self._gradients(graph, self._feeds(graph, None), "x")
        if self.scoring == "exact":
            return self._exact_scores(graph, gradients)
        question = Question(
            asked=graph.constant(np.array(True)),
            every=graph.constant(np.array(False)),
            vector=gradients[0],
            added=self._added(graph, gradients),
            otherwise=graph.constant(np.zeros(0, np.float32)),
        )
        return scores_in_passes(graph, self.layout, question, self.target)

    def scores_if_asked(self, graph: Graph) -> str:
        """Scores of `x` as one task, of each of its rows, or none, by `infer` and `per_image`."""
        one = graph.op("And", "infer", graph.op("Not", "per_image"))
        if self.scoring == "exact":
            return graph.branch(
                one,
                lambda body: [self._exact_scores(body, self._at_superposition(body))],
                lambda body: [self._rows_or_none(body)],
                [_FLOAT],
            )[0]

        def vector(body: Graph) -> list[str]:
            gradients = self._at_superposition(body)
            none = body.constant(np.zeros(0, np.float32))
            return [gradients[0], self._added(body, gradients), none]

        def no_vector(body: Graph) -> list[str]:
            none = body.constant(np.zeros(0, np.float32))
            return [none, none, self._rows_or_none(body)]

        found = graph.branch(one, vector, no_vector, [_FLOAT] * 3)
        given = graph.op("Cast", graph.op("Size", "tasks"), to=TensorProto.BOOL)
        question = Question(
            asked=one, every=given, vector=found[0], added=found[1], otherwise=found[2]
        )
        return scores_in_passes(graph, self.layout, question, self.target)

    def choice(self, graph: Graph, scores: str) -> list[str]:
        """``If(infer)``: the best task of the batch, or of each row; else what was given.

        Returns:
            Tasks and alphas to run, which are none with a task a row, and the tasks to report.
        """

        def then_branch(body: Graph) -> list[str]:
            by_row = body.reshape(scores, [-1, len(self.layout.masks)])
            task = body.op("ArgMax", by_row, axis=1, keepdims=0)
            zero, one = (body.constant(np.array([v], np.int64)) for v in (0, 1))
            count = body.op("Where", "per_image", zero, one)
            alphas = body.constant(np.ones(1, np.float32))
            run = [body.op("Slice", value, zero, count) for value in (task, alphas)]
            return [*run, task]

        def else_branch(_: Graph) -> list[str]:
            return ["tasks", "alphas", "tasks"]

        return graph.branch("infer", then_branch, else_branch, [_INT64, _FLOAT, _INT64])

    def _exact_scores(self, graph: Graph, gradients: list[str]) -> str:
        if not self.network.parameters:
            return self._added(graph, gradients)
        scores = mask_scores(graph, self.layout, gradients[0], self.target)
        if not self.network.state:
            return scores
        return graph.op("Add", scores, self._added(graph, gradients))

    def _added(self, graph: Graph, gradients: list[str]) -> str:
        """Scores from the state: ``float32 (tasks,)``, zeros without one."""
        if self.network.state:
            return state_scores(graph, self.layout, gradients[-1])
        return graph.constant(np.zeros(len(self.layout.masks), np.float32))

    def _rows_or_none(self, graph: Graph) -> str:
        none = graph.constant(np.zeros(0, np.float32))
        asked = graph.op("And", "infer", "per_image")
        branches: list[Callable[[Graph], list[str]]] = [
            lambda body: [self._row_scores(body)],
            lambda _: [none],
        ]
        return graph.branch(asked, branches[0], branches[1], [_FLOAT])[0]

    def _row_scores(self, graph: Graph) -> str:
        """Scores of each row of `x` at the uniform superposition, row after row, flat."""
        feeds = self._feeds(graph, None)
        vectors = row_vectors(graph, lambda body, row: self._gradients(body, feeds, row))
        if not self.network.parameters:
            return graph.reshape(self._added(graph, vectors), [-1])
        scores = row_scores(graph, self.layout, vectors[0], self.target)
        if self.network.state:
            scores = graph.op("Add", scores, self._added(graph, vectors))
        return graph.reshape(scores, [-1])

    def _at_superposition(self, graph: Graph) -> list[str]:
        """``If(no tasks given)``: gradients at the uniform superposition, else at the given one."""
        size = graph.op("Size", "tasks")
        empty = graph.op("Equal", size, graph.constant(np.array(0, np.int64)))

        def at(given: Given | None) -> Callable[[Graph], list[str]]:
            return lambda body: self._gradients(body, self._feeds(body, given), "x")

        types = [_FLOAT for own in (self.network.parameters, self.network.state) if own]
        return graph.branch(empty, at(None), at(("tasks", "alphas")), types)

    def _feeds(self, graph: Graph, given: Given | None) -> dict[str, str]:
        """Weights and state by name, at a superposition; None is all tasks with equal alphas."""
        feeds: dict[str, str] = {}
        if self.network.parameters:
            if given is None:
                mask = uniform_mask(graph, self.layout)
            else:
                mask = superposed_mask(graph, self.layout, self.network, *given)
            feeds = self.weights.tensors(graph, self.weights.masked(graph, mask))
        if self.network.state:
            state = state_of(graph, self.layout, *(given or ()))
            feeds |= state_tensors(graph, self.network, state)
        return feeds

    def _gradients(self, graph: Graph, feeds: dict[str, str], x: str) -> list[str]:
        """W * dO/dW, padded to a row, and dO/dstate, flat; each where there is any."""
        gradients = graph.inline(self.gradient, {"x": x, **feeds})

        def flat(names: list[str], *more: str) -> str:
            parts = [graph.reshape(gradients[f"{self.objective}.{name}"], [-1]) for name in names]
            parts += more
            return parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=0)

        state = [flat([s.name for s in self.network.state])] if self.network.state else []
        if not self.network.parameters:
            return state
        padding = np.zeros(8 * self.layout.signs.size - self.network.num_masked, np.float32)
        zeros = [graph.constant(padding)] if padding.size else []
        outer = graph.outermost  # where the padded weights are folded
        weights = self.weights.flat
        if zeros:
            weights = outer.op("Concat", weights, *zeros, axis=0)
        vector = flat([p.name for p in self.network.parameters], *zeros)
        return [graph.op("Mul", vector, weights), *state]
