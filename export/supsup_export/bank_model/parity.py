"""Check that the model of a whole bank computes what its bank specifies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from supsup_export.bank_model.layout import ROW_BITS
from supsup_export.bank_model.reference import Reference
from supsup_export.bank_model.scores import num_rows, rounding_factor
from supsup_export.bank_model.shortlist import CONTENDERS
from supsup_export.checking import (
    LOGITS_TOLERANCE,
    MOVED,
    ROUNDED_TOLERANCE,
    Batch,
    Findings,
    check_onnx,
    nudged,
    odds_tolerance,
    open_program,
    random_batches,
    score_tolerance,
)
from supsup_runtime.arrays import Array, Images, Scores
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.layout import join
from supsup_runtime.model.metadata import ModelInfo, Target
from supsup_runtime.model.session import Session, open_session
from supsup_runtime.objectives import log_odds

MAX_CHECKED_TASKS = 50
"""Tasks whose logits are compared; scores are compared for all."""
_BATCH = 3

Tensors = dict[str, Array]
Superposition: TypeAlias = tuple[list[int], list[float]]
"""Tasks and alphas; empty for all equally."""


class _Wanted(NamedTuple):
    """Scores ``float64 (tasks,)`` at a place, their scale (docs/CONTRACT.md), and the gradient."""

    x: Batch
    place: Superposition
    scores: Scores
    scale: float
    gradient: Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """Largest differences between a model and its bank.

    Attributes:
        tasks_checked: Tasks whose logits and parameters were compared.
        logits: Relative to the largest logit; None without logits.
        scores: Relative to the largest score; None without scores.
    """

    tasks_checked: int
    logits: float | None
    scores: float | None

    def to_text(self) -> str:
        """Return part of a sentence."""
        found = (("logits", self.logits), ("scores", self.scores))
        parts = [f", {name} within {value:.0e}" for name, value in found if value is not None]
        return "checked against the bank" + "".join(parts)

    def to_dict(self) -> dict[str, object]:
        """Return the differences for JSON."""
        return {"logits": self.logits, "scores": self.scores, "tasks": self.tasks_checked}


def check_parity(
    path: Path, bank: MaskBank, info: ModelInfo, *, place: str, sample: Images | None = None
) -> ParityReport:
    """Compare a model with its bank; messages call it `place`.

    Screened models also run three images of `sample`, ``float32 (images, *input_shape)``, one by
    one, unless they take pictures: on random inputs their first pass rarely decides.

    Raises:
        ParityError: If it is not valid ONNX or out of tolerance.
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
        ready = sample is not None and info.scoring == "screened" and not info.baked
        images = sample[:_BATCH] if ready and sample is not None else ()
        check.inference([Batch(image[None], image[None]) for image in images])
    check.findings.refuse(place)
    return ParityReport(
        tasks_checked=len(checked),
        logits=check.findings.worst.get("logits"),
        scores=check.findings.worst.get("task_scores"),
    )


class _Check:
    def __init__(self, session: Session, bank: MaskBank, info: ModelInfo) -> None:
        self.findings = Findings()
        self._batches = random_batches(bank.network, _BATCH, baked=info.baked)
        self._session, self._bank, self._info = session, bank, info
        self._reference = Reference(bank)
        self._forward = open_program(bank, "forward")
        if info.mode != "known":
            self._slopes = open_program(bank, "gradient")

    def selection(self, indices: list[int], alphas: list[float]) -> None:
        """Compare a known task, or a superposition of several."""
        what = f"of tasks {indices}"
        # one mask is exact; several are summed in float32
        tolerance = 0.0 if len(indices) == 1 else 1e-6
        for x in self._batches:
            got = self._run(x, indices, alphas, infer=False)
            self._compare(got, x, (indices, alphas), what, tolerance)
            if "task" in got:
                self.findings.compare(f"task {what}", got["task"], np.array(indices), 0.0)
            if "task_scores" in got:
                self.findings.compare(f"task_scores {what}", got["task_scores"], np.zeros(0), 0.0)

    def inference(self, images: Sequence[Batch]) -> None:
        """Compare scores and inferred tasks, of a batch, its rows and `images`."""
        full = self._info.mode == "full"
        places: list[Superposition] = [([], [])]
        if full:
            places.append(([0, len(self._bank) - 1], [0.3, 0.7]))
        asked = [(x, place) for x in (*self._batches, *images) for place in places]
        given, ready = self._batches[0]
        singles = [Batch(given[i : i + 1], ready[i : i + 1]) for i in range(_BATCH * full)]
        rows = [(single, places[0]) for single in singles]
        wanted = self._wanted([*asked, *rows])
        for want in wanted[: len(asked)]:
            self._inference_at(want)
        if full:
            self._rows(wanted[len(asked) :])

    def _inference_at(self, want: _Wanted) -> None:
        x, place = want.x, want.place
        got = self._run(x, *place, infer=True)
        allowed, slack = self._allowed(want, coded=True), cache(lambda: self._moved(want))
        if "task_scores" in got:
            scores = got["task_scores"]
            if self._info.scoring != "exact" and not place[0]:
                rounded = ROUNDED_TOLERANCE if self._info.scoring == "rounded" else np.inf
                allowed += slack()
                scores = _contending(
                    scores, want.scores, allowed * want.scale, rounded * want.scale
                )
            where = f"task_scores at {place[0] or 'all'}"
            self.findings.compare(where, scores, want.scores, allowed, want.scale, slack)
        if "task" in got:
            best = int(got["task"][0])
            short = np.array([want.scores.max() - want.scores[best]]) / want.scale
            self.findings.compare("task inferred", short, np.zeros(1), allowed, slack=slack)
            self._compare(got, x, ([best], [1.0]), "inferred", 0.0)

    def _rows(self, wanted: Sequence[_Wanted]) -> None:
        got = self._run(self._batches[0], [], [], infer=True, per_image=np.array(True))
        found = got["task_scores"].reshape(_BATCH, len(self._bank))
        for i, (row, want) in enumerate(zip(found, wanted, strict=True)):
            tolerance, slack = self._allowed(want, coded=False), partial(self._moved, want)
            name = f"task_scores of row {i}"
            self.findings.compare(name, row, want.scores, tolerance, want.scale, slack)
        self.findings.compare("task of each row", got["task"], found.argmax(axis=1), 0.0)

    def _allowed(self, want: _Wanted, *, coded: bool) -> float:
        """Return how far scores may differ, in `scale`; rows are scored without codes."""
        target, network = cast(Target, self._info.target), self._bank.network
        peaks, factor = None, 1
        if coded and target != "portable" and network.parameters:
            factor = rounding_factor(target)
            if target == "cpu":
                packed_bytes = len(self._bank) * ROW_BITS // 8 * -(-network.num_masked // ROW_BITS)
                rest = 254 ** (num_rows(target, packed_bytes) - 1)
                peaks = self._reference.peaks(want.gradient) / rest
        num_terms = network.num_masked + network.num_state
        allowed = score_tolerance(want.scale, num_terms=num_terms, peaks=peaks, factor=factor)
        return allowed / want.scale

    def _moved(self, want: _Wanted) -> float:
        """Return how much more they may differ as the network's own rounding moves them."""
        other = self._gradient(want.x, want.place, nudged)
        changes = {key: other[key].astype(np.float64) - g for key, g in want.gradient.items()}
        (scores,), (spread,) = self._reference.scores([changes])
        return MOVED * float(np.abs(scores).max() + spread) / want.scale

    def _run(
        self, x: Batch, indices: list[int], alphas: list[float], *, infer: bool, **more: Array
    ) -> Tensors:
        feeds: Tensors = {
            "x": x.given,
            "tasks": np.array(indices, np.int64),
            "alphas": np.array(alphas, np.float32),
            "infer": np.array(infer),
            **more,
        }
        taken = {name: value for name, value in feeds.items() if name in self._session.input_names}
        found = self._session.run(self._session.output_names, taken)
        return dict(zip(self._session.output_names, found, strict=True))

    def _compare(
        self, got: Tensors, x: Batch, place: Superposition, what: str, tolerance: float
    ) -> None:
        tensors, network = self._reference.superposed(*place), self._bank.network
        for name, parts in (("parameters", network.parameters), ("state", network.state)):
            if name in got:
                want = join(tensors[part.name] for part in parts)
                self.findings.compare(f"{name} {what}", got[name], want, tolerance)
        logits = self._forward.run(["logits"], {"x": x.ready, **tensors})[0]
        if "logits" in got:
            self.findings.compare(f"logits {what}", got["logits"], logits, LOGITS_TOLERANCE)
        if "log_odds" in got:
            own = max(self._info.tasks[index].real_outputs for index in place[0])
            want = log_odds(logits.astype(np.float64), own)
            peak = float(np.abs(logits).max())
            scale = max(peak, float(np.abs(want).max()))
            allowed = odds_tolerance(peak, network.outputs) / (scale or 1.0)
            self.findings.compare(f"log_odds {what}", got["log_odds"], want, allowed, scale)

    def _gradient(
        self, x: Batch, place: Superposition, changed: Callable[[Tensors], Tensors] = dict
    ) -> Tensors:
        tensors = self._reference.superposed(*place)
        names = [f"{self._info.objective}.{name}" for name in tensors]
        found = self._slopes.run(names, changed({"x": x.ready, **tensors}))
        return dict(zip(tensors, found, strict=True))

    def _wanted(self, asked: Sequence[tuple[Batch, Superposition]]) -> list[_Wanted]:
        gradients = [self._gradient(*each) for each in asked]
        scores, spreads = self._reference.scores(gradients)
        scales = np.maximum(np.abs(scores).max(axis=1), spreads)
        return [
            _Wanted(x, place, scores[i], float(scales[i]) or 1.0, gradients[i])
            for i, (x, place) in enumerate(asked)
        ]


def _contending(got: Array, want: Array, allowed: float, rounded: float) -> Array:
    """Replace scores that may be inexact by the wanted ones.

    At least `CONTENDERS` must be exact, the best among them. Others may be off by `rounded` if they
    are below the best on both sides.
    """
    if got.shape != want.shape:
        return got
    error = np.abs(got - want)
    close = error <= allowed
    if close.sum() < CONTENDERS or not close[got.argmax()]:
        return got
    given_up = ~close & (got < got.max()) & (want < want.max()) & (error <= rounded)
    return np.where(given_up, want, got.astype(np.float64))
