"""Proof that a recovery model computes what its bank and store say, before it is put in place.

The reference is numpy over the store's matrices, and the bank's programs run by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from supsup_export.recovery_model.parts import OBJECTIVE
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.layout import cut
from supsup_runtime.errors import ParityError
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import PREFIX
from supsup_runtime.model.session import Session, open_session
from supsup_runtime.objectives import entropy

__all__ = [
    "RECOVERY_TOLERANCE",
    "Programs",
    "RecoveryReport",
    "check_recovery",
    "compare",
    "energy_terms",
    "open_checked",
    "open_programs",
    "reference",
]

RECOVERY_TOLERANCE = 1e-5
"""Of the largest value of an output, and of the energy of its terms ``|z_i (Psi z)_i| / 2``, which
may cancel. Both sides compute in float32; what differs is the order of sums, of some thousand terms
with a rounding of 6e-8 each, most of which cancel."""
_ROWS = (0, 1, 5)

Array = npt.NDArray[Any]
Programs = dict[str, Session]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """Largest differences found, by output, relative to its largest value."""

    worst: dict[str, float]


def check_recovery(
    path: Path, bank: MaskBank, store: HopfieldStore, *, place: str
) -> RecoveryReport:
    """Run a recovery model against its bank and store, at random masks between 0 and 1.

    Raises:
        ParityError: If the model is not valid ONNX, or a value is out of tolerance.
    """
    session = open_checked(path, store, place=place)
    programs = open_programs(bank, place=place)
    worst: dict[str, float] = {}
    rng = np.random.default_rng(0)
    for rows in _ROWS:
        feeds = _random_feeds(bank, store, rows, rng)
        given = {name: value for name, value in feeds.items() if name != "state" or rows != 1}
        got = session.run(session.output_names, given)  # with one row, the state that is its own
        want = reference(bank, store, programs, feeds)
        terms = energy_terms(feeds["mask"], want["energy_gradient"])
        scales = {"energy": terms, "loss": max(terms, abs(float(want["loss"])))}
        for name, value in zip(session.output_names, got, strict=True):
            largest = float(np.abs(want[name]).max(initial=0))
            compare(place, name, value, want[name], scales.get(name, largest), worst)
    return RecoveryReport(worst=worst)


def open_checked(path: Path, store: HopfieldStore, *, place: str) -> Session:
    """Open a model that the ONNX checker passes, and that says of a store what it should.

    Raises:
        ParityError: If it does not.
    """
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        line = " ".join(str(error).split())
        raise ParityError(f"{place}: not a valid ONNX model: {line}") from error
    session = open_session(path, place=place)
    if session.metadata[f"{PREFIX}hopfield"] != HopfieldInfo.of(store).to_json():
        raise ParityError(f"{place}: metadata hopfield differ from the store; report it")
    return session


def open_programs(bank: MaskBank, *, place: str) -> Programs:
    """A bank's programs, by name."""
    return {
        name: open_session(program, place=f"{place}: the bank's {name} program")
        for name, program in (("forward", bank.forward), ("gradient", bank.gradient or b""))
    }


def _random_feeds(
    bank: MaskBank, store: HopfieldStore, rows: int, rng: np.random.Generator
) -> dict[str, Array]:
    network = bank.network
    feeds: dict[str, Array] = {
        "x": rng.standard_normal((rows, *network.input_shape)).astype(np.float32),
        "mask": rng.random(network.num_masked, np.float32),
        "entropy_strength": np.array(0.75, np.float32),
        "energy_strength": np.array(0.0015, np.float32),
    }
    if network.state:
        feeds["state"] = HopfieldInfo.of(store).state
    return feeds


def reference(
    bank: MaskBank, store: HopfieldStore, programs: Programs, feeds: dict[str, Array]
) -> dict[str, Array]:
    """What a model that recovers step by step must give for its inputs, by output."""
    network, mask = bank.network, feeds["mask"]
    energy, slopes = 0.0, []
    for name, part in cut(network.parameters, mask).items():
        pattern = 2 * part.reshape(-1) - 1
        energy += store.matrices[name].energy(pattern)
        slopes.append(-2 * store.matrices[name].field(pattern))
    found: dict[str, Array] = {
        "energy": np.asarray(energy),
        "energy_gradient": np.concatenate(slopes),
    }
    found |= _network_reference(bank, programs, feeds)
    strengths = float(feeds["entropy_strength"]), float(feeds["energy_strength"])
    for name, kind in (("loss", ""), ("gradient", "_gradient")):
        parts = [found[f"{term}{kind}"].astype(np.float64) for term in ("entropy", "energy")]
        found[name] = strengths[0] * parts[0] + strengths[1] * parts[1]
    return found


def _network_reference(
    bank: MaskBank, programs: Programs, feeds: dict[str, Array]
) -> dict[str, Array]:
    network = bank.network
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
    logits = programs["forward"].run(["logits"], inputs)[0]
    slopes = programs["gradient"].run(names, inputs)
    flat = [(s * w).reshape(-1) for s, w in zip(slopes, weights, strict=True)]
    return {
        "logits": logits,
        "entropy": np.asarray(entropy(logits.astype(np.float64)).mean()),
        "entropy_gradient": np.concatenate(flat),
    }


def energy_terms(mask: Array, gradient: Array) -> float:
    """``sum |z_i (Psi z)_i| / 2``, by a mask and the energy's gradient there."""
    return float(np.abs((2 * mask - 1) * gradient).sum()) / 4


def compare(
    place: str, name: str, got: Array, want: Array, scale: float, worst: dict[str, float]
) -> None:
    """Refuse an output that is out of tolerance; `worst` keeps the largest difference by name.

    Raises:
        ParityError: If it is.
    """
    if got.shape != want.shape:
        raise ParityError(f"{place}: {name} must have shape {want.shape}, got {got.shape}")
    error = float(np.abs(got.astype(np.float64) - want).max(initial=0)) / (scale or 1.0)
    worst[name] = max(worst.get(name, 0.0), error)
    if not error <= RECOVERY_TOLERANCE:  # nor NaN
        raise ParityError(
            f"{place}: {name} differs from the bank by {error:.1e} of its largest value, allowed "
            f"{RECOVERY_TOLERANCE:.0e}; report it, or export with --no-check"
        )
