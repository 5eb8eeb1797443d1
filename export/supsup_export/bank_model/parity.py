"""Proof that a model computes what its bank says, before it is put in place.

The reference is numpy over the bank's own files and the bank's programs run by themselves: masks
are unpacked and weights regrown here, independently of the graph, and scores are summed in
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from supsup_export.bank_model.shortlist import CONTENDERS
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import ParityError
from supsup_runtime.model.metadata import ModelInfo, Scoring
from supsup_runtime.model.session import Session, open_session

__all__ = ["LOGITS_TOLERANCE", "SCORE_TOLERANCES", "ParityReport", "check_parity"]

LOGITS_TOLERANCE = 1e-4
"""Of the largest logit. Both sides run the same float32 program on weights that agree to one
rounding (6e-8), which sums of some thousand terms and a few layers amplify."""
SCORE_TOLERANCES = {"cpu": 3e-5, "cuda": 3e-5, "portable": 1e-5}
"""Of the largest score, or of the spread of random masks' scores, half the norm of W * dO/dW,
where that is more (few tasks whose scores happen to cancel). Without masks it is half the norm of
a task's terms, state * dO/dstate. `cpu`, and `cuda` where it runs on
the CPU: what two int8 rows leave out is within half a step of the second, 1 / 254 / 254 = 1.6e-5
of a block's peak a term, of either sign. `portable`: float32 sums."""
ROUNDED_TOLERANCE = 3e-2
"""As above, for tasks that a rounded model gives up: half a step of the one int8 row is 1 / 254 of
a block's peak a term, of either sign; several thousandths of the largest score in practice."""
MAX_CHECKED_TASKS = 50
"""Tasks whose logits are compared, spread evenly; scores are compared for all."""
_BATCH = 3

Array = npt.NDArray[Any]
Tensors = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Largest differences found.

    Attributes:
        tasks_checked: Tasks whose logits and parameters were compared.
        num_tasks: Tasks in the model; every task's score is compared.
        logits: Largest difference, relative to the largest logit; None without logits.
        scores: Largest difference, relative to the largest score; None without scores.
    """

    tasks_checked: int
    num_tasks: int
    logits: float | None
    scores: float | None


@dataclass(slots=True)
class _Findings:
    """Differences so far, and what is out of tolerance: all of it is reported together."""

    worst: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def compare(
        self, name: str, got: Array, want: Array, tolerance: float, least_scale: float = 0.0
    ) -> None:
        if got.shape != want.shape:
            self.failures.append(f"{name} has shape {got.shape}, must have {want.shape}")
            return
        scale = max(float(np.abs(want).max(initial=0)), least_scale) or 1.0
        # a NaN on one side alone must not pass as "not greater"
        error = float(np.abs(np.asarray(got, np.float64) - want).max(initial=0)) / scale
        kind = name.partition(" ")[0]
        self.worst[kind] = max(self.worst.get(kind, 0.0), error)
        if not error <= tolerance:
            self.failures.append(f"{name} differs by {error:.1e}, allowed {tolerance:.1e}")


def check_parity(
    path: Path, bank: MaskBank, info: ModelInfo, *, place: str, sample: Array | None = None
) -> ParityReport:
    """Run a model against its bank.

    Args:
        path: The model's file.
        bank: The bank it was made of.
        info: What the model says of itself.
        place: What messages call the model.
        sample: Real inputs, ``float32 (images, *input_shape)``, if there are any. A screened model
            is run on the first three as well, one by one: on random inputs, which are of no task,
            its first pass hardly ever settles the matter.

    Returns:
        The largest differences, all within tolerance.

    Raises:
        ParityError: If the model is not valid ONNX, or a value is out of tolerance.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())
        raise ParityError(f"{place}: not a valid ONNX model: {line}") from error
    reference = _Reference(bank, info.objective)
    session = open_session(path, place=place)
    findings = _Findings()
    checked = _spread(len(bank), MAX_CHECKED_TASKS)
    if info.mode != "infer":
        for index in checked:
            _check_selection(session, reference, findings, [index], np.ones(1, np.float32))
        several = checked[:3]
        alphas = np.linspace(0.2, 0.7, len(several), dtype=np.float32)
        _check_selection(session, reference, findings, several, alphas)
    if info.mode != "known":
        _check_inference(session, reference, findings, info)
    if info.mode == "full":
        _check_rows(session, reference, findings)
    if info.scoring == "screened" and sample is not None:
        for image in sample[:_BATCH]:
            reference.x = image[None]
            _check_inference(session, reference, findings, info)
    if findings.failures:
        shown = "; ".join(findings.failures[:3])
        raise ParityError(
            f"{place}: the model does not compute what the bank says: {shown} "
            f"({len(findings.failures)} failures); nothing was written, please report it"
        )
    return ParityReport(
        tasks_checked=len(checked) if info.mode != "infer" else 0,
        num_tasks=len(bank),
        logits=findings.worst.get("logits"),
        scores=findings.worst.get("task_scores"),
    )


class _Reference:
    """The bank in numpy, with its programs in sessions of their own."""

    def __init__(self, bank: MaskBank, objective: str) -> None:
        self.bank = bank
        self.network = bank.network
        self.weights = dict(
            zip([p.name for p in bank.network.parameters], bank.network.weights(), strict=True)
        )
        self.objective = objective
        self.forward = open_session(bank.forward, place=f"{bank.path}/programs/forward.onnx")
        self.gradient: Session | None = None
        if objective and bank.gradient is not None:
            self.gradient = open_session(bank.gradient, place=f"{bank.path}/programs/gradient.onnx")
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((_BATCH, *self.network.input_shape)).astype(np.float32)

    def mixed(self, tasks: Sequence[TaskMasks], alphas: npt.NDArray[np.float64]) -> Tensors:
        """Weights and state of a superposition, by name; mixed in float64."""
        mixed: Tensors = {}
        for p in self.network.parameters:
            masks = (unpack_mask(task.masks[p.name], p.shape) for task in tasks)
            mask = sum(a * m for a, m in zip(alphas, masks, strict=True))
            mixed[p.name] = np.asarray(mask * self.weights[p.name], np.float32)
        for s in self.network.state:
            values = (task.state[s.name] for task in tasks)
            value = sum(a * v.astype(np.float64) for a, v in zip(alphas, values, strict=True))
            mixed[s.name] = np.asarray(value, np.float32)
        return mixed

    def uniform(self) -> Tensors:
        """As `mixed`, over all tasks equally, reading one task at a time."""
        share = 1 / len(self.bank)
        totals: dict[str, Array] = {}
        for task in self.bank:
            for p in self.network.parameters:
                mask = unpack_mask(task.masks[p.name], p.shape)
                totals[p.name] = totals.get(p.name, 0) + mask.astype(np.int32)
            for s in self.network.state:
                totals[s.name] = totals.get(s.name, 0) + task.state[s.name].astype(np.float64)
        mixed = {name: np.asarray(total * share, np.float32) for name, total in totals.items()}
        for name, weight in self.weights.items():
            mixed[name] *= weight
        return mixed

    def logits(self, tensors: Tensors) -> Array:
        return self.forward.run(["logits"], {"x": self.x, **tensors})[0]

    def scores(self, tensors: Tensors, x: Array) -> tuple[Array, float]:
        """Scores of all tasks, ``float64 (tasks,)``, and how far such sums of terms spread."""
        if self.gradient is None:
            raise ParityError(f"{self.bank.path}: no gradient program to compare scores with")
        names = [f"{self.objective}.{name}" for name in tensors]
        found = self.gradient.run(names, {"x": x, **tensors})
        gradients = {n: g.astype(np.float64) for n, g in zip(tensors, found, strict=True)}
        for name, weight in self.weights.items():
            gradients[name] *= weight
        square = sum((gradients[name] ** 2).sum() for name in self.weights)
        if not self.weights:
            square = max(self._square(task, gradients) for task in self.bank)
        spread = 0.5 * np.sqrt(square)
        return np.array([self._score(task, gradients) for task in self.bank]), float(spread)

    def _square(self, task: TaskMasks, gradients: dict[str, Array]) -> float:
        """Sum of the squares of the terms that state adds to a task's score."""
        terms = (gradients[s.name] * task.state[s.name] for s in self.network.state)
        return float(sum((term**2).sum() for term in terms))

    def _score(self, task: TaskMasks, gradients: dict[str, Array]) -> float:
        total = 0.0
        for p in self.network.parameters:
            total += gradients[p.name][unpack_mask(task.masks[p.name], p.shape)].sum()
        for s in self.network.state:
            total += (gradients[s.name] * task.state[s.name]).sum()
        return -total


def _spread(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, the first and the last among them."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))})


def _check_selection(
    session: Session,
    reference: _Reference,
    findings: _Findings,
    indices: list[int],
    alphas: npt.NDArray[np.float32],
) -> None:
    """Compare what a known task, or a superposition of several, gives."""
    tasks = [reference.bank.task(index) for index in indices]
    tensors = reference.mixed(tasks, alphas.astype(np.float64))
    feeds: dict[str, Array] = {
        "x": reference.x,
        "tasks": np.array(indices, np.int64),
        "alphas": alphas,
        "infer": np.array(False),
    }
    got = _run(session, feeds)
    what = f"of tasks {indices}"
    # one mask of ones and zeros is exact; several are summed in float32
    _check_tensors(reference, findings, got, tensors, what, 0.0 if len(indices) == 1 else 1e-6)
    if "task" in got:
        findings.compare(f"task {what}", got["task"], np.array(indices), 0.0)
    if "task_scores" in got:
        findings.compare(f"task_scores {what}", got["task_scores"], np.zeros(0), 0.0)


def _check_tensors(
    reference: _Reference,
    findings: _Findings,
    got: dict[str, Array],
    tensors: Tensors,
    what: str,
    tolerance: float,
) -> None:
    """Compare the effective parameters and state, and the logits through them."""
    network = reference.network
    for name, parts in (
        ("parameters", [p.name for p in network.parameters]),
        ("state", [s.name for s in network.state]),
    ):
        if name in got:
            flat = [tensors[part].reshape(-1) for part in parts]
            want = np.concatenate([np.zeros(0, np.float32), *flat])
            findings.compare(f"{name} {what}", got[name], want, tolerance)
    if "logits" in got:
        findings.compare(
            f"logits {what}", got["logits"], reference.logits(tensors), LOGITS_TOLERANCE
        )


def _check_inference(
    session: Session, reference: _Reference, findings: _Findings, info: ModelInfo
) -> None:
    """Compare scores at the uniform superposition and at a given one, and what is inferred."""
    tolerance = SCORE_TOLERANCES[info.target]
    cases: list[tuple[list[int], list[float]]] = [([], [])]
    if info.mode == "full":
        cases.append(([0, len(reference.bank) - 1], [0.3, 0.7]))
    for indices, alphas in cases:
        tasks = [reference.bank.task(index) for index in indices]
        tensors = (
            reference.mixed(tasks, np.array(alphas, np.float64)) if indices else reference.uniform()
        )
        want, spread = reference.scores(tensors, reference.x)
        feeds: dict[str, Array] = {
            "x": reference.x,
            "tasks": np.array(indices, np.int64),
            "alphas": np.array(alphas, np.float32),
            "infer": np.array(True),
        }
        got = _run(session, feeds)
        if "task_scores" in got:
            where = f"task_scores at {indices or 'all'}"
            scores = got["task_scores"]
            if info.scoring != "exact" and not indices:
                scale = max(float(np.abs(want).max()), spread)
                scores = _contending(scores, want, tolerance * scale, info.scoring)
            findings.compare(where, scores, want, tolerance, spread)
        if "task" in got:
            best = int(got["task"][0])
            short = (want.max() - want[best]) / (max(np.abs(want).max(), spread) or 1.0)
            findings.compare("task inferred", np.array([short]), np.zeros(1), tolerance)
            chosen = reference.mixed([reference.bank.task(best)], np.ones(1))
            _check_tensors(reference, findings, got, chosen, "inferred", 0.0)


def _contending(got: Array, want: Array, allowed: float, scoring: Scoring) -> Array:
    """What a model that gives tasks up must answer for: the scores that are meant to be exact.

    As many as there are contenders must be, the best among them; any other may be off, as a task
    that was given up, if it is below the best on both sides. Rounded ones may be off by no more
    than the rounding.
    """
    if got.shape != want.shape:
        return got
    close = np.abs(got - want) <= allowed
    if close.sum() < CONTENDERS or not close[got.argmax()]:
        return got
    given_up = ~close & (got < got.max()) & (want < want.max())
    if scoring == "rounded":
        given_up &= np.abs(got - want) <= ROUNDED_TOLERANCE / SCORE_TOLERANCES["cpu"] * allowed
    return np.where(given_up, want, got.astype(np.float64))


def _check_rows(session: Session, reference: _Reference, findings: _Findings) -> None:
    """Compare the scores of every row on its own, at the uniform superposition."""
    tensors = reference.uniform()
    rows = [reference.scores(tensors, reference.x[i : i + 1]) for i in range(_BATCH)]
    want = np.stack([scores for scores, _ in rows])
    feeds: dict[str, Array] = {
        "x": reference.x,
        "tasks": np.zeros(0, np.int64),
        "alphas": np.zeros(0, np.float32),
        "infer": np.array(True),
        "per_image": np.array(True),
    }
    got = _run(session, feeds)
    tolerance = SCORE_TOLERANCES["portable"]  # in float32, whatever the target
    for i, (scores, spread) in enumerate(rows):
        row = got["task_scores"].reshape(want.shape)[i]
        findings.compare(f"task_scores of row {i}", row, scores, tolerance, spread)
    best = got["task_scores"].reshape(want.shape).argmax(axis=1)
    findings.compare("task of each row", got["task"], best, 0.0)


def _run(session: Session, feeds: dict[str, Array]) -> dict[str, Array]:
    """All outputs of a run, with those of the feeds that the model takes."""
    taken = {name: value for name, value in feeds.items() if name in session.input_names}
    return dict(zip(session.output_names, session.run(session.output_names, taken), strict=True))
