"""Check that a model of a whole bank computes what its bank says.

Masks are unpacked and weights regrown here, independently of the graph, and scores are summed in
float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from supsup_export.bank_model.shortlist import CONTENDERS
from supsup_export.checking import (
    LOGITS_TOLERANCE,
    ROUNDED_TOLERANCE,
    SCORE_TOLERANCES,
    Findings,
    check_onnx,
    open_program,
)
from supsup_runtime.arrays import Array, Images
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.model.metadata import ModelInfo, Scoring
from supsup_runtime.model.session import Session, open_session

MAX_CHECKED_TASKS = 50
"""Tasks whose logits are compared, spread evenly; scores are compared for all."""
_BATCH = 3

Tensors = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Largest differences found.

    Attributes:
        tasks_checked: Tasks whose logits and parameters were compared; scores are for all.
        logits: Largest difference, relative to the largest logit; None without logits.
        scores: Largest difference, relative to the largest score; None without scores.
    """

    tasks_checked: int
    logits: float | None
    scores: float | None

    def to_text(self) -> str:
        """As a part of a sentence."""
        found = (("logits", self.logits), ("scores", self.scores))
        parts = [f", {name} within {value:.0e}" for name, value in found if value is not None]
        return "checked against the bank" + "".join(parts)

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"logits": self.logits, "scores": self.scores, "tasks": self.tasks_checked}


def check_parity(
    path: Path, bank: MaskBank, info: ModelInfo, *, place: str, sample: Images | None = None
) -> ParityReport:
    """Run a model, which messages call `place`, against the bank it was made of.

    A screened model is run on the first three real inputs of `sample`, ``float32 (images,
    *input_shape)``, as well, one by one: on random inputs, which are of no task, its first pass
    hardly ever settles the matter.

    Raises:
        ParityError: If the model is not valid ONNX, or a value is out of tolerance.
    """
    check_onnx(path, place=place)
    check = _Check(open_session(path, place=place), bank, info)
    spread = np.linspace(0, len(bank) - 1, min(len(bank), MAX_CHECKED_TASKS))
    checked = [] if info.mode == "infer" else sorted({int(index) for index in spread})
    for index in checked:
        check.selection([index], [1.0])
    if checked:
        several = checked[:3]
        check.selection(several, np.linspace(0.2, 0.7, len(several), dtype=np.float32).tolist())
    if info.mode != "known":
        check.inference()
    if info.mode == "full":
        check.rows()
    if info.scoring == "screened" and sample is not None:
        for image in sample[:_BATCH]:
            check.x = image[None]
            check.inference()
    check.findings.refuse(place)
    return ParityReport(
        tasks_checked=len(checked),
        logits=check.findings.worst.get("logits"),
        scores=check.findings.worst.get("task_scores"),
    )


class _Check:
    """A model beside its bank in numpy, and what was found so far."""

    def __init__(self, session: Session, bank: MaskBank, info: ModelInfo) -> None:
        self.findings = Findings()
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((_BATCH, *bank.network.input_shape)).astype(np.float32)
        self._session, self._bank, self._info = session, bank, info
        self._parameters, self._state = bank.network.parameters, bank.network.state
        names = [p.name for p in self._parameters]
        self._weights = dict(zip(names, bank.network.weights(), strict=True))
        self._forward = open_program(bank, "forward")

    @cached_property
    def _gradient(self) -> Session:
        return open_program(self._bank, "gradient")

    def selection(self, indices: list[int], alphas: list[float]) -> None:
        """Compare what a known task, or a superposition of several, gives."""
        got = self._run(indices, alphas, infer=False)
        what = f"of tasks {indices}"
        # one mask of ones and zeros is exact; several are summed in float32
        self._compare(got, self._mixed(indices, alphas), what, 0.0 if len(indices) == 1 else 1e-6)
        if "task" in got:
            self.findings.compare(f"task {what}", got["task"], np.array(indices), 0.0)
        if "task_scores" in got:
            self.findings.compare(f"task_scores {what}", got["task_scores"], np.zeros(0), 0.0)

    def inference(self) -> None:
        """Compare scores at the uniform superposition and at a given one, and what is inferred."""
        self._inference_at([], [])
        if self._info.mode == "full":
            self._inference_at([0, len(self._bank) - 1], [0.3, 0.7])

    def _inference_at(self, indices: list[int], alphas: list[float]) -> None:
        want, spread = self._scores(self._mixed(indices, alphas), self.x)
        got = self._run(indices, alphas, infer=True)
        tolerance = SCORE_TOLERANCES[self._info.target]
        scale = max(float(np.abs(want).max()), spread)
        if "task_scores" in got:
            scores = got["task_scores"]
            if self._info.scoring != "exact" and not indices:
                scores = _contending(scores, want, tolerance * scale, self._info.scoring)
            where = f"task_scores at {indices or 'all'}"
            self.findings.compare(where, scores, want, tolerance, spread)
        if "task" in got:
            best = int(got["task"][0])
            short = np.array([(want.max() - want[best]) / (scale or 1.0)])
            self.findings.compare("task inferred", short, np.zeros(1), tolerance)
            self._compare(got, self._mixed([best], [1.0]), "inferred", 0.0)

    def rows(self) -> None:
        """Compare the scores of every row on its own, at the uniform superposition."""
        tensors = self._mixed([], [])
        got = self._run([], [], infer=True, per_image=np.array(True))
        found = got["task_scores"].reshape(_BATCH, len(self._bank))
        tolerance = SCORE_TOLERANCES["portable"]  # in float32, whatever the target
        for i, row in enumerate(found):
            want, spread = self._scores(tensors, self.x[i : i + 1])
            self.findings.compare(f"task_scores of row {i}", row, want, tolerance, spread)
        self.findings.compare("task of each row", got["task"], found.argmax(axis=1), 0.0)

    def _run(
        self, indices: list[int], alphas: list[float], *, infer: bool, **more: Array
    ) -> Tensors:
        """All outputs of a run, with those of the feeds that the model takes."""
        feeds: Tensors = {
            "x": self.x,
            "tasks": np.array(indices, np.int64),
            "alphas": np.array(alphas, np.float32),
            "infer": np.array(infer),
            **more,
        }
        taken = {name: value for name, value in feeds.items() if name in self._session.input_names}
        found = self._session.run(self._session.output_names, taken)
        return dict(zip(self._session.output_names, found, strict=True))

    def _compare(self, got: Tensors, tensors: Tensors, what: str, tolerance: float) -> None:
        """Compare the effective parameters and state, and the logits through them."""
        for name, parts in (("parameters", self._parameters), ("state", self._state)):
            if name in got:
                flat = [tensors[part.name].reshape(-1) for part in parts]
                want = np.concatenate([np.zeros(0, np.float32), *flat])
                self.findings.compare(f"{name} {what}", got[name], want, tolerance)
        if "logits" in got:
            logits = self._forward.run(["logits"], {"x": self.x, **tensors})[0]
            self.findings.compare(f"logits {what}", got["logits"], logits, LOGITS_TOLERANCE)

    def _mixed(self, indices: list[int], alphas: list[float]) -> Tensors:
        """Weights and state of a superposition, of all tasks equally if none is given.

        By name; mixed in float64, a task at a time.
        """
        bank, totals = self._bank, dict[str, Array]()
        uniform = ((task, 1 / len(bank)) for task in bank)
        given = ((bank.task(i), alpha) for i, alpha in zip(indices, alphas, strict=True))
        for task, alpha in given if indices else uniform:
            masks = {p.name: unpack_mask(task.masks[p.name], p.shape) for p in self._parameters}
            for name, value in {**masks, **task.state}.items():
                added = np.multiply(value, alpha, dtype=np.float64)
                totals[name] = totals.get(name, 0) + added
        for name, weight in self._weights.items():
            totals[name] *= weight
        return {name: total.astype(np.float32) for name, total in totals.items()}

    def _scores(self, tensors: Tensors, x: Array) -> tuple[Array, float]:
        """Scores of all tasks, ``float64 (tasks,)``, and how far such sums of terms spread."""
        names = [f"{self._info.objective}.{name}" for name in tensors]
        found = self._gradient.run(names, {"x": x, **tensors})
        gradients = {n: g.astype(np.float64) for n, g in zip(tensors, found, strict=True)}
        for name, weight in self._weights.items():
            gradients[name] *= weight
        scores = [-sum(t.sum() for t in self._terms(task, gradients)) for task in self._bank]
        square = sum((gradients[name] ** 2).sum() for name in self._weights)
        if not self._weights:
            squares = ([(t**2).sum() for t in self._terms(k, gradients)] for k in self._bank)
            square = max(map(sum, squares))
        return np.array(scores), float(0.5 * np.sqrt(square))

    def _terms(self, task: TaskMasks, gradients: Tensors) -> list[Array]:
        """What a task's masks and state add to minus its score, by tensor."""
        pairs = ((p, unpack_mask(task.masks[p.name], p.shape)) for p in self._parameters)
        masked = [gradients[p.name][mask] for p, mask in pairs]
        return [*masked, *(gradients[s.name] * task.state[s.name] for s in self._state)]


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
