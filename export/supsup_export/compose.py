"""The whole graph of contract 1: select or superpose masks, infer the task, run the network.

docs/CONTRACT.md describes the result; each part is built in its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from supsup_export.graph import Graph, parse, prune, tensor_info
from supsup_export.layout import Layout
from supsup_export.masks import Weights, fixed_weights, state_of, superposed_mask, uniform_mask
from supsup_export.scores import Target, mask_scores, state_scores
from supsup_runtime.bank import MaskBank
from supsup_runtime.contract import Mode, ModelInfo, TaskInfo
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.network import Network

__all__ = ["OUTPUTS", "Request", "compose"]

OUTPUTS = ("logits", "task", "task_scores", "parameters", "state")
_INT64, _FLOAT, _BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export.

    Attributes:
        target: Operators to use.
        objective: ``entropy`` or ``superfluous``; None takes superfluous where the network has
            superfluous outputs, entropy elsewhere.
        outputs: Outputs to keep; None keeps all. Without `task` and `task_scores` the model only
            runs known tasks; with one of them, but not all of `logits`, `task`, `task_scores` and
            `parameters`, it always infers, and has no input but `x`.
    """

    target: Target = "cpu"
    objective: str | None = None
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.outputs or ()) - set(OUTPUTS))
        if unknown or self.outputs == ():
            raise InputError(
                f"outputs: must be some of {list(OUTPUTS)}, got {unknown[0] if unknown else 'none'}"
            )

    @property
    def mode(self) -> Mode:
        """What the graph can do, from its outputs."""
        if self.outputs is None or set(self.outputs) >= set(OUTPUTS) - {"state"}:
            return "full"
        return "infer" if {"task", "task_scores"} & set(self.outputs) else "known"


def compose(bank: MaskBank, layout: Layout, request: Request) -> ModelProto:
    """Make the model of a bank.

    Args:
        bank: Open and not empty.
        layout: The bank's arrays, from `lay_out`.
        request: Target, objective and outputs.

    Returns:
        An ONNX model, opset 18, IR 8, without local functions and external data. Equal banks and
        requests give equal bytes.

    Raises:
        BankError: If the bank's gradient program is missing or lacks the objective, and the
            request needs it.
        InputError: If an output is asked for that the network does not have.
    """
    objective = "" if request.mode == "known" else choose_objective(bank, request.objective)
    composer = _Composer(bank, layout, request, objective)
    info = ModelInfo(
        network=bank.network,
        digest=bank.digest,
        tasks=tuple(
            TaskInfo(index=index, name=name, labels=labels)
            for index, (name, labels) in enumerate(zip(bank.task_names, layout.labels, strict=True))
        ),
        objective=objective,
        mode=request.mode,
        target=request.target,
        forward=bank.forward,
    )
    return composer.model(info)


def choose_objective(bank: MaskBank, wanted: str | None) -> str:
    """The objective to score with.

    Raises:
        BankError: If the bank cannot differentiate it.
    """
    if bank.gradient is None:
        raise BankError(
            f"{bank.path}: no gradient program, so the task cannot be inferred by gradient; "
            "export with --outputs logits (the runtime then tries every mask)"
        )
    if wanted is None:
        return bank.objectives[-1]  # superfluous where there is one
    if wanted not in bank.objectives:
        raise BankError(
            f"{bank.path}: objective must be one of {list(bank.objectives)} for this network "
            f"({bank.network.superfluous_outputs} superfluous outputs), got {wanted!r}"
        )
    return wanted


class _Composer:
    """The parts of one model, in the order data flows."""

    def __init__(self, bank: MaskBank, layout: Layout, request: Request, objective: str) -> None:
        self.network: Network = bank.network
        self.layout = layout
        self.request = request
        self.graph = Graph()
        self.weights: Weights = fixed_weights(self.graph, layout, bank.network)
        self.forward = parse(bank.forward)
        if objective and bank.gradient is not None:
            names = [p.name for p in self.network.parameters]
            names += [s.name for s in self.network.state]
            self.gradient = prune(parse(bank.gradient), [f"{objective}.{n}" for n in names])
            self.prefix = objective + "."

    def model(self, info: ModelInfo) -> ModelProto:
        graph, mode = self.graph, self.request.mode
        if mode == "known":
            tasks, alphas, scores = "tasks", "alphas", None
        elif mode == "infer":
            task, scores = self._infer(graph, self._gradient_vector(graph, None))
            tasks, alphas = task, graph.constant(np.ones(1, np.float32))
        else:
            tasks, alphas, scores = self._infer_or_not(graph)
        mask = superposed_mask(graph, self.layout, self.network, tasks, alphas)
        parameters = self.weights.masked(graph, mask, name="parameters")
        values = {"parameters": parameters, "task": graph.op("Identity", tasks, name="task")}
        if scores is not None:
            values["task_scores"] = graph.op("Identity", scores, name="task_scores")
        feeds = {"x": "x", **self.weights.tensors(graph, parameters)}
        if self.network.state:
            state = state_of(graph, self.layout, tasks, alphas)
            values["state"] = graph.op("Identity", state, name="state")
            feeds |= self._state_tensors(graph, values["state"])
        logits = graph.inline(self.forward, feeds)["logits"]
        values["logits"] = graph.op("Identity", logits, name="logits")
        return graph.model(
            "supsup", self._inputs(), self._outputs(list(values)), info.to_metadata()
        )

    def _infer_or_not(self, graph: Graph) -> list[str]:
        """``If(infer)``: the best task, alphas of one and all scores; else what was given."""

        def then_branch(body: Graph) -> list[str]:
            task, scores = self._infer(body, self._superposition(body))
            return [task, body.constant(np.ones(1, np.float32)), scores]

        def else_branch(body: Graph) -> list[str]:
            return ["tasks", "alphas", body.constant(np.zeros(0, np.float32))]

        return graph.branch("infer", then_branch, else_branch, [_INT64, _FLOAT, _FLOAT])

    def _superposition(self, graph: Graph) -> list[str]:
        """``If(no tasks given)``: gradients at the uniform superposition, else at the given one."""
        size = graph.op("Size", "tasks")
        empty = graph.op("Equal", size, graph.constant(np.array(0, np.int64)))
        return graph.branch(
            empty,
            lambda body: self._gradient_vector(body, None),
            lambda body: self._gradient_vector(body, ("tasks", "alphas")),
            [_FLOAT, _FLOAT] if self.network.state else [_FLOAT],
        )

    def _gradient_vector(self, graph: Graph, given: tuple[str, str] | None) -> list[str]:
        """W * dO/dW, padded to a row, and dO/dstate where there is state, at a superposition.

        Args:
            graph: Receives the nodes.
            given: Tasks and alphas; None superposes all tasks with equal alphas.
        """
        if given is None:
            mask = uniform_mask(graph, self.layout)
        else:
            mask = superposed_mask(graph, self.layout, self.network, *given)
        superposed = self.weights.masked(graph, mask)
        feeds = {"x": "x", **self.weights.tensors(graph, superposed)}
        if self.network.state:
            state = state_of(graph, self.layout, *(given or ()))
            feeds |= self._state_tensors(graph, state)
        gradients = graph.inline(self.gradient, feeds)
        flat = [
            graph.reshape(gradients[self.prefix + p.name], [-1]) for p in self.network.parameters
        ]
        joined = flat[0] if len(flat) == 1 else graph.op("Concat", *flat, axis=0)
        vector = graph.op("Mul", joined, self.weights.flat)
        padding = 8 * self.layout.signs.size - self.network.num_masked
        if padding:
            zeros = graph.constant(np.zeros(padding, np.float32))
            vector = graph.op("Concat", vector, zeros, axis=0)
        if not self.network.state:
            return [vector]
        states = [graph.reshape(gradients[self.prefix + s.name], [-1]) for s in self.network.state]
        return [vector, states[0] if len(states) == 1 else graph.op("Concat", *states, axis=0)]

    def _infer(self, graph: Graph, gradients: list[str]) -> tuple[str, str]:
        """Scores of all tasks, and the best one: ``int64 (1,)``, ties to the lowest index."""
        scores = mask_scores(graph, self.layout, gradients[0], self.request.target)
        if self.network.state:
            scores = graph.op("Add", scores, state_scores(graph, self.layout, gradients[1]))
        return graph.op("ArgMax", scores, axis=0, keepdims=1), scores

    def _state_tensors(self, graph: Graph, flat: str) -> dict[str, str]:
        state = self.network.state
        parts = graph.split(flat, [s.size for s in state])
        return {s.name: graph.reshape(part, s.shape) for s, part in zip(state, parts, strict=True)}

    def _inputs(self) -> list[ValueInfoProto]:
        x = tensor_info("x", _FLOAT, ["batch", *self.network.input_shape])
        tasks = tensor_info("tasks", _INT64, ["n"])
        alphas = tensor_info("alphas", _FLOAT, ["n"])
        infer = tensor_info("infer", _BOOL, [])
        by_mode: dict[Mode, list[ValueInfoProto]] = {
            "full": [x, tasks, alphas, infer],
            "known": [x, tasks, alphas],
            "infer": [x],
        }
        return by_mode[self.request.mode]

    def _outputs(self, available: Sequence[str]) -> list[ValueInfoProto]:
        shapes: dict[str, tuple[int, list[int | str | None]]] = {
            "logits": (_FLOAT, ["batch", self.network.outputs]),
            "task": (_INT64, ["chosen"]),
            "task_scores": (_FLOAT, ["scored"]),
            "parameters": (_FLOAT, [self.network.num_masked]),
            "state": (_FLOAT, [self.network.num_state]),
        }
        wanted = self.request.outputs or tuple(n for n in OUTPUTS if n in available)
        missing = [name for name in wanted if name not in available]
        if missing:
            raise InputError(f"outputs: this network has no {missing[0]!r}; leave it out")
        return [tensor_info(n, *shapes[n]) for n in OUTPUTS if n in wanted]
