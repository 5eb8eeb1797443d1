"""Check that a recovery model computes what bank and store specify.

References: numpy, the bank's own programs, `recovery.descent.Descent`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from supsup_export.checking import (
    MOVED,
    RECOVERY_TOLERANCE,
    Findings,
    check_onnx,
    nudged,
    open_program,
    relative_error,
)
from supsup_export.recovery_model.step import OBJECTIVE
from supsup_export.recovery_model.stream import SETTINGS
from supsup_runtime.arrays import Array
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.layout import cut
from supsup_runtime.hopfield.metadata import HopfieldInfo, with_batch_statistics
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import PREFIX
from supsup_runtime.model.session import open_session
from supsup_runtime.objectives import entropy
from supsup_runtime.recovery.descent import Descent, Recovery

_ROWS = (0, 1, 5)
_STREAMS = (
    (5, (3, 2), None),
    (1, (0, 2), Recovery(step_size=7, momentum=0.5, weight_decay=0.01)),
)
"""Rows per batch, steps of each call, settings."""

Feeds = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """Differences between a model, its bank and store.

    Attributes:
        worst: Largest difference by output, relative to its largest value.
    """

    worst: dict[str, float]

    def to_text(self) -> str:
        """Return part of a sentence."""
        worst = max(self.worst.values())
        return f"checked against bank and store, all outputs within {worst:.0e}"

    def to_dict(self) -> dict[str, object]:
        """Return the differences for JSON."""
        return {**self.worst}


def check_recovery(
    path: Path, bank: MaskBank, store: HopfieldStore, *, place: str
) -> RecoveryReport:
    """Compare a model of mode ``recover`` with bank and store.

    Raises:
        ParityError: If it is not valid ONNX or out of tolerance.
    """
    check = RecoveryCheck(path, bank, store, place=place)
    rng = np.random.default_rng(0)
    for rows in _ROWS:
        feeds: Feeds = {
            "x": rng.standard_normal((rows, *bank.network.input_shape)).astype(np.float32),
            "mask": rng.random(bank.network.num_masked, np.float32),
            "entropy_strength": np.array(0.75, np.float32),
            "energy_strength": np.array(0.0015, np.float32),
        }
        if bank.network.state:
            feeds["state"] = HopfieldInfo.of(store).state
        given = {name: value for name, value in feeds.items() if name != "state" or rows != 1}
        got = check.run(given)  # one row tests the default state
        want, moved = check.reference(feeds), partial(check.reference, nudged(feeds))
        for name, value in got.items():
            check.compare(name, value, want, moved)
    return check.report()


def check_stream(path: Path, bank: MaskBank, store: HopfieldStore, *, place: str) -> RecoveryReport:
    """Compare a model of mode ``recover-stream`` with bank and store.

    The reference uses the model's masks, because a score of 0 within rounding may have either sign.

    Raises:
        ParityError: If it is not valid ONNX or out of tolerance, or a mask differs where scores are
            clear of 0.
    """
    check = RecoveryCheck(path, bank, store, place=place)
    running = HopfieldInfo.of(store).state
    batch = with_batch_statistics(bank.network.state, running)
    rng = np.random.default_rng(0)
    for rows, calls, settings in _STREAMS:
        start, onward = HopfieldInfo.of(store).mean, {}
        if settings is not None:
            start = rng.uniform(-1, 1, len(start)).astype(np.float32)
            onward = {name: np.array(getattr(settings, name), np.float32) for name in SETTINGS}
            onward["scores"] = start
        descent = Descent(start, settings or Recovery())
        for steps in calls:
            feeds = {
                "entropy_strengths": rng.uniform(0, 1, steps).astype(np.float32),
                "energy_strengths": rng.uniform(0, 1.5e-3, steps).astype(np.float32),
            }
            shape = (steps, rows, *bank.network.input_shape)
            feeds["batches"] = rng.standard_normal(shape).astype(np.float32)
            got = check.run(feeds | onward)
            _follow(check, descent, feeds, got, state=batch if rows > 1 else running)
            onward |= {"scores": got["next_scores"], "velocity": got["next_velocity"]}
    return check.report()


def _follow(
    check: RecoveryCheck, descent: Descent, feeds: Feeds, got: Feeds, *, state: Array
) -> None:
    masks, expected = got["masks"], (len(feeds["batches"]), check.bank.network.num_masked)
    if masks.shape != expected:
        check.findings.failures.append(f"masks must have shape {expected}, got {masks.shape}")
        return
    steps: list[Feeds] = [
        {
            "x": x,
            "mask": signs.astype(np.float32),
            "entropy_strength": feeds["entropy_strengths"][number],
            "energy_strength": feeds["energy_strengths"][number],
            "state": state,
        }
        for number, (x, signs) in enumerate(zip(feeds["batches"], masks, strict=True))
    ]
    other = copy.deepcopy(descent)
    want = _descended(check, descent, steps)
    moved = cache(lambda: _descended(check, other, [nudged(step) for step in steps]))
    for number, signs in enumerate([*masks, got["mask"] == 1]):
        scores, wrong = want["scores"][number], signs != (want["scores"][number] >= 0)
        error = relative_error(scores * ~wrong, scores)
        if error > RECOVERY_TOLERANCE and error > RECOVERY_TOLERANCE + MOVED * relative_error(
            moved()["scores"][number], scores
        ):
            when = f"of step {number}" if number < len(steps) else "after the last step"
            check.findings.failures.append(f"the mask {when} differs in {int(wrong.sum())} places")
    for name in ("entropy", "energy", "next_scores"):
        check.compare(name, got[name], want, moved)


def _descended(check: RecoveryCheck, descent: Descent, steps: Sequence[Feeds]) -> Feeds:
    """Step along the bank's gradients; return what the model must, and all scores."""
    found, scores = [], [descent.scores]
    for feeds in steps:
        found.append(check.reference(feeds))
        descent.step(found[-1]["gradient"].astype(np.float32))
        scores.append(descent.scores)
    told = {
        name: np.array([float(values[name]) for values in found])
        for name in ("entropy", "energy", "terms")
    }
    return told | {"next_scores": descent.scores, "scores": np.stack(scores)}


class RecoveryCheck:
    """A recovery model, with its bank and store in numpy; messages call it `place`.

    Attributes:
        findings: Differences so far.

    Raises:
        ParityError: If it is not valid ONNX.
    """

    def __init__(self, path: Path, bank: MaskBank, store: HopfieldStore, *, place: str) -> None:
        check_onnx(path, place=place)
        self.bank = bank
        self.place = place
        self.findings = Findings()
        self._store = store
        self._session = open_session(path, place=place)
        if self._session.metadata[f"{PREFIX}hopfield"] != HopfieldInfo.of(store).to_json():
            self.findings.failures.append("metadata hopfield must match the store")
        self._forward = open_program(bank, "forward")
        self._gradient = open_program(bank, "gradient")

    def run(self, feeds: Feeds) -> Feeds:
        """Return all outputs."""
        names = self._session.output_names
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def reference(self, feeds: Feeds) -> Feeds:
        """Return the expected outputs of a step.

        ``terms`` is ``sum |z_i (Psi z)_i| / 2``, the energy's absolute terms.
        """
        energy, terms, slopes = 0.0, 0.0, []
        for name, part in cut(self.bank.network.parameters, feeds["mask"]).items():
            pattern = 2 * part.reshape(-1) - 1
            matrix = self._store.matrices[name]
            field = matrix.field(pattern)
            energy += matrix.energy(pattern)
            terms += float(np.abs(pattern * field).sum()) / 2
            slopes.append(-2 * field)
        found = {"energy": np.asarray(energy), "energy_gradient": np.concatenate(slopes)}
        found |= {"terms": np.asarray(terms)} | self._network_reference(feeds)
        strengths = float(feeds["entropy_strength"]), float(feeds["energy_strength"])
        for name, kind in (("loss", ""), ("gradient", "_gradient")):
            parts = [found[f"{term}{kind}"].astype(np.float64) for term in ("entropy", "energy")]
            found[name] = strengths[0] * parts[0] + strengths[1] * parts[1]
        return found

    def _network_reference(self, feeds: Feeds) -> Feeds:
        network = self.bank.network
        if not len(feeds["x"]):
            return {
                "logits": np.zeros((0, network.outputs)),
                "entropy": np.zeros(()),
                "entropy_gradient": np.zeros(network.num_masked),
            }
        weights = network.weights()
        inputs = {"x": feeds["x"]}
        masks = cut(network.parameters, feeds["mask"])
        inputs |= {name: w * m for w, (name, m) in zip(weights, masks.items(), strict=True)}
        if network.state:
            inputs |= cut(network.state, feeds["state"])
        names = [f"{OBJECTIVE}.{p.name}" for p in network.parameters]
        logits = self._forward.run(["logits"], inputs)[0]
        slopes = self._gradient.run(names, inputs)
        flat = [(s * w).reshape(-1) for s, w in zip(slopes, weights, strict=True)]
        return {
            "logits": logits,
            "entropy": np.asarray(entropy(logits.astype(np.float64)).mean()),
            "entropy_gradient": np.concatenate(flat),
        }

    def compare(self, name: str, got: Array, want: Feeds, moved: Callable[[], Feeds]) -> None:
        """Record how far an output is off; `moved` returns what is wanted of `nudged` inputs."""
        scale = float(want["terms"].max(initial=0)) if name in {"energy", "loss"} else 0.0

        def slack() -> float:
            return MOVED * relative_error(moved()[name], want[name], scale)

        self.findings.compare(name, got, want[name], RECOVERY_TOLERANCE, scale, slack)

    def report(self) -> RecoveryReport:
        """Return the differences, or raise ParityError if one is out of tolerance."""
        self.findings.refuse(self.place)
        return RecoveryReport(worst=self.findings.worst)
