"""Proof that a model recovers a stream as the runtime's descent would, before it is put in place.

The reference is `recovery.descent.Descent`, along gradients that numpy takes from the
store's matrices and the bank's own programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_export.recovery_model.step_parity import (
    RECOVERY_TOLERANCE,
    Programs,
    RecoveryReport,
    compare,
    energy_terms,
    open_checked,
    open_programs,
    reference,
)
from supsup_export.recovery_model.stream import SETTINGS
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import ParityError
from supsup_runtime.hopfield.metadata import HopfieldInfo, with_batch_statistics
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.recovery.descent import Descent, Recovery

__all__ = ["check_stream"]

Array = npt.NDArray[Any]
Feeds = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A stream: rows of a batch, steps of each call that goes on with it, settings not default."""

    rows: int
    calls: tuple[int, ...]
    settings: Recovery | None = None


_CASES = (
    _Case(rows=5, calls=(3, 2)),
    _Case(rows=1, calls=(0, 2), settings=Recovery(step_size=7, momentum=0.5, weight_decay=0.01)),
)


def check_stream(path: Path, bank: MaskBank, store: HopfieldStore, *, place: str) -> RecoveryReport:
    """Run a model of mode ``recover-stream`` against its bank and store, on random batches.

    The reference looks at each batch through the mask that the model says it had. So a score that
    is 0 but for its rounding, and may have either sign, does not lead the two apart.

    Raises:
        ParityError: If the model is not valid ONNX, a value is out of tolerance, or an element of
            a mask differs whose score is clear of 0.
    """
    session = open_checked(path, store, place=place)
    look = _Look(bank, store, place)
    rng = np.random.default_rng(0)
    for case in _CASES:
        start, onward = HopfieldInfo.of(store).mean, {}
        if case.settings is not None:
            start = rng.uniform(-1, 1, len(start)).astype(np.float32)
            onward = {"scores": start, **_fed(case.settings)}
        descent = Descent(start, case.settings or Recovery())
        for steps in case.calls:
            feeds = _stream(bank, steps, case.rows, rng)
            found = session.run(session.output_names, feeds | onward)
            got = dict(zip(session.output_names, found, strict=True))
            look.follow(descent, feeds, got)
            onward |= {"scores": got["next_scores"], "velocity": got["next_velocity"]}
    return RecoveryReport(worst=look.worst)


class _Look:
    """What a bank and its store say of batches and masks, beside what a model said of them."""

    def __init__(self, bank: MaskBank, store: HopfieldStore, place: str) -> None:
        self.worst: dict[str, float] = {}
        self._bank, self._store, self._place = bank, store, place
        self._programs: Programs = open_programs(bank, place=place)
        self._running = HopfieldInfo.of(store).state
        self._batch = with_batch_statistics(bank.network.state, self._running)

    def follow(self, descent: Descent, feeds: Feeds, got: Feeds) -> None:
        """Take the steps of a call, and compare what it gave.

        Raises:
            ParityError: If it differs.
        """
        batches, masks = feeds["batches"], got["masks"]
        expected = (len(batches), self._bank.network.num_masked)
        if masks.shape != expected:
            raise ParityError(
                f"{self._place}: masks must have shape {expected}, got {masks.shape}; report it, "
                "or export with --no-check"
            )
        rows = batches.shape[1]
        entropies, energies, terms = np.zeros((3, len(batches)))
        for number, (x, signs) in enumerate(zip(batches, masks, strict=True)):
            self._refuse_other_mask(descent, signs, f"of step {number}")
            said = {
                "x": x,
                "mask": signs.astype(np.float32),
                "entropy_strength": feeds["entropy_strengths"][number],
                "energy_strength": feeds["energy_strengths"][number],
                "state": self._batch if rows > 1 else self._running,
            }
            values = reference(self._bank, self._store, self._programs, said)
            entropies[number], energies[number] = values["entropy"], values["energy"]
            terms[number] = energy_terms(said["mask"], values["energy_gradient"])
            descent.step(values["gradient"].astype(np.float32))
        self._refuse_other_mask(descent, got["mask"] == 1, "after the last step")
        for name, want, scale in (
            ("entropy", entropies, entropies),
            ("energy", energies, terms),
            ("next_scores", descent.scores, descent.scores),
        ):
            largest = float(np.abs(scale).max(initial=0))
            compare(self._place, name, got[name], want, largest, self.worst)

    def _refuse_other_mask(self, descent: Descent, signs: Array, when: str) -> None:
        scores = np.abs(descent.scores)
        clear = scores > RECOVERY_TOLERANCE * scores.max()
        wrong = int((clear & (signs != (descent.mask == 1))).sum())
        if wrong:
            raise ParityError(
                f"{self._place}: the mask {when} must be that of the bank's descent, got "
                f"{wrong} elements that differ; report it, or export with --no-check"
            )


def _stream(bank: MaskBank, steps: int, rows: int, rng: np.random.Generator) -> Feeds:
    shape = (steps, rows, *bank.network.input_shape)
    of_entropy = rng.uniform(0, 1, steps).astype(np.float32)
    of_energy = rng.uniform(0, 1.5e-3, steps).astype(np.float32)
    return {
        "batches": rng.standard_normal(shape).astype(np.float32),
        "entropy_strengths": of_entropy,
        "energy_strengths": of_energy,
    }


def _fed(how: Recovery) -> Feeds:
    return {name: np.array(getattr(how, name), np.float32) for name in SETTINGS}
