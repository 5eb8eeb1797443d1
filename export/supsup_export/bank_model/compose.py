"""The whole graph of contract 1: select or superpose masks, infer the task, run the network.

docs/CONTRACT.md describes the result; each part is built in its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from supsup_export.bank_model.inference import Inferring, state_tensors
from supsup_export.bank_model.layout import Layout
from supsup_export.bank_model.shortlist import CONTENDERS, choose_scoring
from supsup_export.bank_model.weights import Weights, fixed_weights, state_of, superposed_weights
from supsup_export.graph import Graph, parse, prune, tensor_info
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.model.metadata import Mode, ModelInfo, Scoring, Target, TaskInfo

__all__ = ["OUTPUTS", "Request", "choose_objective", "compose"]

OUTPUTS = ("logits", "task", "task_scores", "parameters", "state")
_INT64, _FLOAT, _BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export.

    Attributes:
        target: Operators to use.
        objective: ``entropy`` or ``superfluous``; None takes superfluous where the network has
            superfluous outputs, entropy elsewhere.
        scoring: ``exact``: of every task. ``rounded``: of every task by rounded weights, exactly
            of those that can still win. ``screened``: likewise, over a part of the weights first.
            None takes rounded for large banks on the CPU, exact elsewhere (`choose_scoring`).
        outputs: Outputs to keep; None keeps all. Without `task` and `task_scores` the model only
            runs known tasks; with one of them, but not all of `logits`, `task`, `task_scores` and
            `parameters`, it always infers, and has no input but `x`.
    """

    target: Target = "cpu"
    objective: str | None = None
    outputs: tuple[str, ...] | None = None
    scoring: Scoring | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.outputs or ()) - set(OUTPUTS))
        if unknown or self.outputs == ():
            raise InputError(
                f"outputs: must be some of {list(OUTPUTS)}, got {unknown[0] if unknown else 'none'}"
            )
        if self.scoring not in {None, *get_args(Scoring)}:
            raise InputError(
                f"scoring: must be one of {list(get_args(Scoring))}, got {self.scoring!r}"
            )
        if self.scoring is not None and self.mode == "known":
            raise InputError(
                "scoring: needs a model that infers, got known tasks only; leave it out"
            )
        if self.scoring in {"rounded", "screened"} and self.target == "portable":
            raise InputError(
                f"scoring {self.scoring}: needs target cpu or cuda, got target portable; "
                "leave it out"
            )

    @property
    def mode(self) -> Mode:
        """What the graph can do, from its outputs."""
        if self.outputs is None or set(self.outputs) >= set(OUTPUTS) - {"state"}:
            return "full"
        return "infer" if {"task", "task_scores"} & set(self.outputs) else "known"


def compose(
    bank: MaskBank,
    layout: Layout,
    request: Request,
    *,
    calibration: Calibration | None = None,
) -> ModelProto:
    """Make the model of a bank.

    Args:
        bank: Open and not empty.
        layout: The bank's arrays, from `lay_out`.
        request: Target, objective and outputs.
        calibration: What the model says tells known tasks from unknown.

    Returns:
        An ONNX model, opset 18, IR 8, without local functions and external data. Equal banks and
        requests give equal bytes.

    Raises:
        BankError: If the bank's gradient program is missing or lacks the objective, and the
            request needs it.
        InputError: If an output is asked for that the network does not have, or a scoring that it
            has no masks for.
    """
    if request.scoring in {"rounded", "screened"} and not bank.network.parameters:
        raise InputError(
            f"scoring {request.scoring}: needs masked weights, {bank.path} has none: its tasks "
            "are state alone; leave it out"
        )
    objective = "" if request.mode == "known" else choose_objective(bank, request.objective)
    composer = _Composer(bank, layout, request)
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
        scoring=composer.scoring,
        forward=bank.forward,
        calibration=calibration,
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

    def __init__(self, bank: MaskBank, layout: Layout, request: Request) -> None:
        self.network: Network = bank.network
        self.layout = layout
        self.request = request
        self.graph = Graph()
        self.weights: Weights = fixed_weights(self.graph, layout, bank.network)
        self.forward = parse(bank.forward)
        self.gradient = bank.gradient or b""
        if request.scoring == "rounded" and len(layout.masks) <= CONTENDERS:
            raise InputError(
                f"scoring rounded: needs more than {CONTENDERS} tasks, {bank.path} has "
                f"{len(layout.masks)}; leave it out"
            )
        infers = request.mode != "known"
        self.scoring = request.scoring or (
            choose_scoring(layout, request.target) if infers else "exact"
        )

    def model(self, info: ModelInfo) -> ModelProto:
        graph, mode = self.graph, self.request.mode
        if mode == "known":
            tasks, alphas, task, scores = "tasks", "alphas", "tasks", None
        elif mode == "infer":
            scores = self._inferring(info.objective).scores(graph)
            task = tasks = graph.op("ArgMax", scores, axis=0, keepdims=1)
            alphas = graph.constant(np.ones(1, np.float32))
        else:
            inferring = self._inferring(info.objective)
            scores = inferring.scores_if_asked(graph)
            tasks, alphas, task = inferring.choice(graph, scores)
            graph.default("per_image", np.array(False))
        parameters = superposed_weights(graph, self.layout, self.weights, tasks, alphas)
        values = {"parameters": parameters, "task": graph.op("Identity", task, name="task")}
        if scores is not None:
            values["task_scores"] = graph.op("Identity", scores, name="task_scores")
        state = ""
        if self.network.state:
            state = state_of(graph, self.layout, tasks, alphas)
            values["state"] = graph.op("Identity", state, name="state")
        values["logits"] = self._logits(graph, parameters, state)
        return graph.model(
            "supsup", self._inputs(), self._outputs(list(values)), info.to_metadata()
        )

    def _logits(self, graph: Graph, flat: str, state: str) -> str:
        """The forward program; a batch of no rows, which asks for the weights, does not run it."""

        def forward(body: Graph) -> list[str]:
            feeds = {"x": "x", **self.weights.tensors(body, flat)}
            if self.network.state:
                feeds |= state_tensors(body, self.network, state)
            return [body.inline(self.forward, feeds)["logits"]]

        def none(body: Graph) -> list[str]:
            return [body.constant(np.zeros((0, self.network.outputs), np.float32))]

        rows = graph.op("Shape", "x", start=0, end=1)
        some = graph.op("Cast", graph.reshape(rows, []), to=_BOOL)
        return graph.branch(some, forward, none, [_FLOAT], ["logits"])[0]

    def _inferring(self, objective: str) -> Inferring:
        names = [p.name for p in self.network.parameters] + [s.name for s in self.network.state]
        return Inferring(
            network=self.network,
            layout=self.layout,
            target=self.request.target,
            scoring=self.scoring,
            weights=self.weights,
            gradient=prune(parse(self.gradient), [f"{objective}.{name}" for name in names]),
            objective=objective,
        )

    def _inputs(self) -> list[ValueInfoProto]:
        x = tensor_info("x", _FLOAT, ["batch", *self.network.input_shape])
        tasks = tensor_info("tasks", _INT64, ["n"])
        alphas = tensor_info("alphas", _FLOAT, ["n"])
        infer = tensor_info("infer", _BOOL, [])
        per_image = tensor_info("per_image", _BOOL, [])
        by_mode: dict[Mode, list[ValueInfoProto]] = {
            "full": [x, tasks, alphas, infer, per_image],
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
