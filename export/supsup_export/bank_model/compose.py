"""Compose the graph of contract 2 (docs/CONTRACT.md) from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from onnx import ModelProto

from supsup_export.bank_model.inference import Inferring
from supsup_export.bank_model.layout import Layout
from supsup_export.bank_model.odds import log_odds
from supsup_export.bank_model.shortlist import CONTENDERS, choose_scoring
from supsup_export.bank_model.weights import (
    fixed_weights,
    never_empty,
    state_of,
    superposed_weights,
)
from supsup_export.graph import BOOL, FLOAT, INT64, Graph, Value
from supsup_export.preparing import bakes, input_of, inputs
from supsup_export.programs import program_of
from supsup_runtime.arrays import check_choice, check_kind, check_sequence, shown
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.model.metadata import Mode, ModelInfo, Preprocess, Scoring, Target, described

OUTPUTS = ("logits", "task", "task_scores", "parameters", "state", "log_odds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to export.

    Attributes:
        target: Operators: ``cpu``, ``cuda`` or ``portable``.
        objective: ``entropy`` or ``superfluous``; None takes superfluous if the network has
            superfluous outputs, else entropy.
        outputs: Outputs to keep; None keeps all but `log_odds`, which needs superfluous outputs.
            Without `task` and `task_scores` the model only runs known tasks; with one of them, but
            not all of `logits`, `task`, `task_scores` and `parameters`, it always infers, and its
            only input is `x`.
        scoring: ``exact`` scores all tasks exactly; ``rounded`` all in int8, then exactly those
            that can still win; ``screened`` likewise, over part of the weights first. None takes
            rounded for large banks on the CPU, else exact.
        preprocess: ``runtime``: the graph takes ready inputs; ``baked``: it has the bank's
            preprocessing and takes ``uint8`` pictures.

    Raises:
        InputError: If a value is unknown, or the scoring does not fit target or outputs.
    """

    target: Target = "cpu"
    objective: str | None = None
    outputs: tuple[str, ...] | None = None
    scoring: Scoring | None = None
    preprocess: Preprocess = "runtime"

    def __post_init__(self) -> None:
        check_choice("target:", self.target, get_args(Target))
        check_choice("preprocess:", self.preprocess, get_args(Preprocess))
        if self.outputs is not None:
            check_sequence("outputs:", self.outputs)
            known = [isinstance(name, str) and name in OUTPUTS for name in self.outputs]
            if not known or not all(known):
                got = shown(self.outputs[known.index(False)]) if known else "none"
                raise InputError(f"outputs: must be among {list(OUTPUTS)}, got {got}")
        if self.objective is not None:
            check_kind("objective:", self.objective, str, "text")
        if self.scoring is None:
            return
        check_choice("scoring:", self.scoring, get_args(Scoring))
        if self.mode == "known":
            raise InputError(
                "scoring: needs output task or task_scores, got known tasks only; leave it out"
            )
        if self.scoring != "exact" and self.target == "portable":
            raise InputError(
                f"scoring {self.scoring}: needs target cpu or cuda, got target portable; "
                "leave it out"
            )

    @property
    def mode(self) -> Mode:
        """Mode of the model: ``full``, ``known`` or ``infer``."""
        if self.outputs is None or set(self.outputs) >= set(OUTPUTS) - {"state", "log_odds"}:
            return "full"
        return "infer" if {"task", "task_scores"} & set(self.outputs) else "known"


def compose(
    bank: MaskBank, layout: Layout, request: Request, calibration: Calibration | None
) -> tuple[ModelProto, ModelInfo]:
    """Return the model of a bank, with a calibration if given, and its metadata.

    ONNX opset 18, IR 8, no local functions or external data. Equal banks and requests give equal
    bytes.
    """
    if request.scoring in {"rounded", "screened"} and not bank.network.parameters:
        raise InputError(
            f"scoring {request.scoring}: needs masked weights, {bank.path} has none: its tasks "
            "have only state; leave it out"
        )
    baked = bakes(bank, request.preprocess)
    infers = request.mode != "known"
    objective = choose_objective(bank, request.objective) if infers else ""
    if request.scoring == "rounded" and len(layout.masks) <= CONTENDERS:
        raise InputError(
            f"scoring rounded: needs more than {CONTENDERS} tasks, {bank.path} has "
            f"{len(layout.masks)}; leave it out"
        )
    named = zip(bank.task_names, layout.labels, layout.origins, strict=True)
    info = ModelInfo(
        network=bank.network,
        digest=bank.digest,
        tasks=described(bank.network, named),
        objective=objective,
        mode=request.mode,
        target=request.target,
        scoring=request.scoring or (choose_scoring(layout, request.target) if infers else "exact"),
        forward=bank.forward,
        calibration=calibration,
        baked=baked,
        revision=bank.revision,
    )
    graph, values = _graph(bank, layout, request, info)
    outputs = _outputs(bank.network, request, values)
    x = input_of(bank.network, baked=info.baked)
    return graph.model("supsup", _inputs(x, request.mode), outputs, info.to_metadata()), info


def choose_objective(bank: MaskBank, wanted: str | None) -> str:
    """Return the objective to score with.

    Raises:
        BankError: If the bank cannot differentiate it.
    """
    if bank.gradient is None:
        raise BankError(
            f"{bank.path}: no gradient program, which inferring the task requires; "
            "export with --graph-outputs logits (the runtime then tries every mask)"
        )
    if wanted is None:
        return bank.objectives[-1]  # superfluous if available
    if wanted not in bank.objectives:
        raise BankError(
            f"{bank.path}: objective must be one of {list(bank.objectives)} for this network "
            f"({bank.network.superfluous_outputs} superfluous outputs), got {wanted!r}"
        )
    return wanted


def _graph(
    bank: MaskBank, layout: Layout, request: Request, info: ModelInfo
) -> tuple[Graph, list[str]]:
    graph, network = Graph(), bank.network
    weights = fixed_weights(graph, layout)
    x, scores = inputs(graph, network) if info.baked else "x", None
    if request.mode == "known":
        tasks, alphas, task = "tasks", "alphas", "tasks"
    else:
        names = [p.name for p in network.parameters] + [s.name for s in network.state]
        outputs = [f"{info.objective}.{name}" for name in names]
        inferring = Inferring(
            layout=layout,
            target=request.target,
            scoring=info.scoring,
            weights=weights,
            gradient=program_of(bank, "gradient", outputs),
            objective=info.objective,
            x=x,
        )
        if request.mode == "infer":
            scores = inferring.scores(graph)
            task = tasks = graph.op("ArgMax", scores, axis=0, keepdims=1)
            alphas = graph.constant(np.ones(1, np.float32))
        else:
            scores = inferring.scores_if_asked(graph)
            tasks, alphas, task = inferring.choice(graph, scores)
            graph.default("per_image", False)
    values = ["task", "parameters"]
    parameters = superposed_weights(graph, layout, weights, tasks, alphas)
    graph.op("Identity", task, name="task")
    if scores is not None:
        values.append(graph.op("Identity", scores, name="task_scores"))
    state = ""
    if network.state:
        given = (tasks, alphas) if request.mode == "infer" else never_empty(graph, tasks, alphas)
        state = state_of(graph, layout, *given)
        values.append(graph.op("Identity", state, name="state"))
    forward = program_of(bank, "forward", ["logits"])

    def logits(body: Graph) -> list[str]:
        feeds = body.cut(parameters, network.parameters) | body.cut(state, network.state)
        return [body.inline(forward, {"x": x, **feeds})["logits"]]

    values += graph.if_rows("x", logits, [(0, network.outputs)], ["logits"])
    if network.superfluous_outputs and "log_odds" in (request.outputs or ()):
        values.append(log_odds(graph, "logits", tasks, info))
    return graph, values


def _inputs(x: Value, mode: Mode) -> list[Value]:
    if mode == "infer":
        return [x]
    given: list[Value] = [x, ("tasks", INT64, ["n"]), ("alphas", FLOAT, ["n"])]
    return given if mode == "known" else [*given, ("infer", BOOL, []), ("per_image", BOOL, [])]


def _outputs(network: Network, request: Request, available: list[str]) -> list[Value]:
    values: list[Value] = [
        ("logits", FLOAT, ["batch", network.outputs]),
        ("task", INT64, ["chosen"]),
        ("task_scores", FLOAT, ["scored"]),
        ("parameters", FLOAT, [network.num_masked]),
        ("state", FLOAT, [network.num_state]),
        ("log_odds", FLOAT, ["batch"]),
    ]
    wanted = request.outputs or available
    missing = [name for name in wanted if name not in available]
    if missing:
        raise InputError(f"outputs: this network has no {missing[0]!r}; leave it out")
    return [value for value in values if value[0] in wanted]
