"""Check that the model of a whole bank computes what its bank specifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from supsup_export.bank_model.layout import ROW_BITS
from supsup_export.bank_model.reference import Reference
from supsup_export.bank_model.scores import num_rows, rounding_factor
from supsup_export.bank_model.shortlist import CONTENDERS
from supsup_export.checking import (
    LOGITS_TOLERANCE,
    ROUNDED_TOLERANCE,
    Batch,
    Findings,
    check_onnx,
    nudged,
    open_program,
    random_batches,
    score_tolerance,
)
from supsup_runtime.arrays import Array, Images, Scores
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.layout import join
from supsup_runtime.model.metadata import ModelInfo, Target
from supsup_runtime.model.session import Session, open_session

MAX_CHECKED_TASKS = 50
"""Tasks whose logits are compared; scores are compared for all."""
_BATCH = 3

Tensors = dict[str, Array]
Superposition: TypeAlias = tuple[list[int], list[float]]
"""Tasks and alphas; empty for all equally."""


class _Wanted(NamedTuple):
    """Scores ``float64 (tasks,)``, spread, how far rounding moves them, and their gradient."""

    scores: Scores
    spread: float
    moved: float
    gradient: Tensors

    @property
    def scale(self) -> float:
        return max(float(np.abs(self.scores).max()), self.spread)


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
        for (x, place), want in zip(asked, wanted, strict=False):
            self._inference_at(x, place, want)
        if full:
            self._rows(wanted[len(asked) :])

    def _inference_at(self, x: Batch, place: Superposition, want: _Wanted) -> None:
        indices, alphas = place
        got = self._run(x, indices, alphas, infer=True)
        allowed, scale = self._allowed(want, int8=True), want.scale
        if "task_scores" in got:
            scores = got["task_scores"]
            if self._info.scoring != "exact" and not indices:
                rounded = ROUNDED_TOLERANCE * scale if self._info.scoring == "rounded" else np.inf
                scores = _contending(scores, want.scores, allowed, rounded)
            where = f"task_scores at {indices or 'all'}"
            self.findings.compare(where, scores, want.scores, allowed / (scale or 1.0), scale)
        if "task" in got:
            best = int(got["task"][0])
            short = np.array([want.scores.max() - want.scores[best]]) / (scale or 1.0)
            self.findings.compare("task inferred", short, np.zeros(1), allowed / (scale or 1.0))
            self._compare(got, x, ([best], [1.0]), "inferred", 0.0)

    def _rows(self, wanted: Sequence[_Wanted]) -> None:
        got = self._run(self._batches[0], [], [], infer=True, per_image=np.array(True))
        found = got["task_scores"].reshape(_BATCH, len(self._bank))
        for i, (row, want) in enumerate(zip(found, wanted, strict=True)):
            tolerance = self._allowed(want, int8=False) / (want.scale or 1.0)
            self.findings.compare(
                f"task_scores of row {i}", row, want.scores, tolerance, want.scale
            )
        self.findings.compare("task of each row", got["task"], found.argmax(axis=1), 0.0)

    def _allowed(self, want: _Wanted, *, int8: bool) -> float:
        """Return how far scores may differ; rows are scored in float32 for every target."""
        target, network = cast(Target, self._info.target), self._bank.network
        peaks, factor = None, 1
        if int8 and target != "portable" and network.parameters:
            packed_bytes = len(self._bank) * ROW_BITS // 8 * -(-network.num_masked // ROW_BITS)
            rest = 254 ** (num_rows(target, packed_bytes) - 1)
            peaks, factor = self._reference.peaks(want.gradient) / rest, rounding_factor(target)
        return score_tolerance(
            want.scale,
            num_terms=network.num_masked + sum(s.size for s in network.state),
            moved=want.moved,
            peaks=peaks,
            factor=factor,
        )

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
        if "logits" in got:
            logits = self._forward.run(["logits"], {"x": x.ready, **tensors})[0]
            self.findings.compare(f"logits {what}", got["logits"], logits, LOGITS_TOLERANCE)

    def _wanted(self, asked: Sequence[tuple[Batch, Superposition]]) -> list[_Wanted]:
        program, gradients, changes = open_program(self._bank, "gradient"), [], []
        for x, place in asked:
            tensors = self._reference.superposed(*place)
            names = [f"{self._info.objective}.{name}" for name in tensors]
            feeds = {"x": x.ready, **tensors}
            found, other = (program.run(names, each) for each in (feeds, nudged(feeds)))
            gradients.append(dict(zip(tensors, found, strict=True)))
            pairs = zip(tensors, found, other, strict=True)
            changes.append({name: b.astype(np.float64) - a for name, a, b in pairs})
        scores, spreads = self._reference.scores([*gradients, *changes])
        moved = np.abs(scores).max(axis=1) + spreads
        return [
            _Wanted(scores[i], float(spreads[i]), float(moved[len(asked) + i]), gradient)
            for i, gradient in enumerate(gradients)
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
