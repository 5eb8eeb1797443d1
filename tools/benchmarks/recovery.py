"""One step of Hopfield recovery, compared with the parts that every step needs.

The parts are one forward and backward pass of the network and one matrix-vector product per layer
of masked units.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
from tools.benchmarks.banks import cached_bank
from tools.benchmarks.timing import Candidate, Result, Row, Setup, measure
from torch.nn import Module

from supsup_export.exporter import export_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.file import encode_into, has_store, read_store
from supsup_runtime.model.session import Session, open_session
from supsup_runtime.recovery.descent import Descent, Recovery
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield
from supsup_train.networks.models import make_model

INPUTS, WIDTH, OUTPUTS = 784, 2048, 10
TASKS, BATCH = 5, 64
STRENGTHS = (0.5, 0.5 * 1.5e-3)
AGREES = 1e-3
"""Largest difference of the graph, relative to the largest gradient."""

Floats = npt.NDArray[np.float32]


def recovery(setup: Setup) -> Result:
    """Time a step of BNNet 784-2048-2048-10 on a batch of 64, as in the paper."""
    bank = cached_bank(setup.cache / "recovery", _module(), _tasks)
    if not has_store(bank):
        encode_into(bank, bank.task_names)
    path = setup.cache / "recovery.onnx"
    export_recovery(bank, path, check=False, force=True)
    model = load_hopfield(path, threads=setup.threads)
    program = open_session(bank.gradient or b"", place="gradient", threads=setup.threads)
    x = np.random.default_rng(BATCH).standard_normal((BATCH, INPUTS)).astype(np.float32)
    rows = _rows(setup, bank, model, program, x)
    settings = {"width": WIDTH, "tasks": TASKS, "batch": BATCH}
    return Result(rows=rows, ratio="to the parts in ONNX Runtime and numpy", settings=settings)


def _module() -> Module:
    return make_model(f"bnnet-{WIDTH}-{WIDTH}", input_shape=(INPUTS,), outputs=OUTPUTS)


def _tasks(bank: MaskBank) -> Iterator[TaskMasks]:
    """Yield random masks, and state that normalises nothing."""
    for index in range(TASKS):
        rng = np.random.default_rng(index)
        state = {
            s.name: np.full(s.shape, 0 if s.name.endswith("blend") else 1, np.float32)
            for s in bank.network.state
        }
        masks = {p.name: rng.random(p.shape) < 0.5 for p in bank.network.parameters}
        yield make_task(f"task-{index}", masks, state=state)


def _rows(
    setup: Setup, bank: MaskBank, model: HopfieldModel, program: Session, x: Floats
) -> list[Row]:
    parts = _Parts(bank, program)
    mask = (model.store.mean >= 0).astype(np.float32)
    want, got = parts(x, mask), model.step(x, mask, *STRENGTHS).gradient
    error = np.abs(got - want).max() / np.abs(want).max()
    if not error <= AGREES:
        raise InputError(f"the graph differs from the parts by {error:.1e}; not timed")
    return measure(
        [
            Candidate(
                name="parts",
                call=partial(parts, x, mask),
                note="the bank's gradient program, matrix-vector products in numpy",
            ),
            Candidate(name="the graph", call=partial(model.step, x, mask, *STRENGTHS)),
            Candidate(
                name="a step on the scores",
                call=partial(_step, model, x),
                note="the graph and the descent, from the mean",
            ),
            Candidate(
                name="the same with a look",
                call=partial(_step_and_look, model, x),
                note="and settling of the mask; the mean is far from every mask",
            ),
        ],
        setup,
    )


def _step(model: HopfieldModel, x: Floats) -> Descent:
    descent = Descent(model.store.mean, Recovery())
    descent.step(model.step(x, descent.mask, *STRENGTHS).gradient)
    return descent


def _step_and_look(model: HopfieldModel, x: Floats) -> object:
    return model.settle(_step(model, x).mask > 0)


class _Parts:
    """The parts of a step; they share only the bank with the graph."""

    def __init__(self, bank: MaskBank, program: Session) -> None:
        store = read_store(bank)
        self._program = program
        self._parameters = bank.network.parameters
        self._psi = [store.matrices[p.name].psi() for p in self._parameters]
        self._state = {
            name: np.ones_like(value) if name.endswith("blend") else value
            for name, value in store.mean_state().items()
        }

    def __call__(self, x: Floats, mask: Floats) -> Floats:
        """Return the gradient by the bank's program and products in numpy."""
        parts = np.split(mask, [self._parameters[0].size])
        names = [p.name for p in self._parameters]
        feeds = {"x": x, **dict(zip(names, parts, strict=True)), **self._state}
        slopes = self._program.run([f"entropy.{name}" for name in names], feeds)
        fields = [psi @ (2 * part - 1) for psi, part in zip(self._psi, parts, strict=True)]
        of_entropy, of_energy = (np.float32(s) for s in STRENGTHS)
        found = of_entropy * np.concatenate(slopes) - 2 * of_energy * np.concatenate(fields)
        return np.asarray(found, np.float32)
