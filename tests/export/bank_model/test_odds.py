"""The output `log_odds`, in every mode and for every target."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from conftest import random_task
from supsup_export import Request, export
from supsup_export.bank_model import parity
from supsup_export.checking import LOGITS_TOLERANCE, odds_tolerance
from supsup_runtime.arrays import Array
from supsup_runtime.errors import InputError, ParityError
from supsup_runtime.model.metadata import Target
from supsup_runtime.model.session import Session, open_session
from supsup_runtime.objectives import log_odds

X = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
FULL = ("logits", "task", "task_scores", "parameters", "log_odds")
OWN = {"same": [2, 2, 2], "different": [3, 1, 4]}


@pytest.fixture(params=OWN)
def bank(tmp_path: Path, request: pytest.FixtureRequest) -> supsup.MaskBank:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=0)
    for index, own in enumerate(OWN[request.param]):
        task = random_task(bank.network, f"task-{index}", seed=index)
        labels = tuple("abcd"[:own])
        bank.add(supsup.TaskMasks(name=task.name, masks=task.masks, state={}, labels=labels))
    return bank


def exported(bank: supsup.MaskBank, outputs: tuple[str, ...], target: Target = "cpu") -> Session:
    request = Request(outputs=outputs, target=target)
    path = export(bank, bank.path.parent / "out.onnx", request=request, force=True).path
    return open_session(path, place="out.onnx")


def asked(tasks: list[int], *, infer: bool = False, x: Array = X) -> dict[str, Array]:
    alphas = np.linspace(0.4, 1, len(tasks), dtype=np.float32)
    return {"x": x, "tasks": np.array(tasks, np.int64), "alphas": alphas, "infer": np.array(infer)}


def close(got: Array, logits: Array, own: int) -> None:
    want = log_odds(logits.astype(np.float64), own)
    allowed = 8 * 2.0**-24 * (np.abs(logits).max() + 6)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=allowed)


@pytest.mark.parametrize("target", ["cpu", "cuda", "portable"])
def test_full_models(bank: supsup.MaskBank, target: Target) -> None:
    session = exported(bank, FULL, target)
    own = [len(task.labels) for task in bank]
    wanted = ["logits", "log_odds", "task"]
    for tasks in ([0], [1], [2], [1, 0], [0, 1, 2], [1, 1]):
        for scale in (1, 1e4):
            logits, odds, _ = session.run(wanted, asked(tasks, x=X * np.float32(scale)))
            close(odds, logits, max(own[task] for task in tasks))
    logits, odds, task = session.run(wanted, asked([], infer=True))
    close(odds, logits, own[int(task[0])])
    fewest = min(own)
    _, odds, _ = session.run(wanted, asked([]))
    np.testing.assert_allclose(odds, math.log(fewest / (6 - fewest)), rtol=1e-6)
    assert session.run(["log_odds"], asked([1], x=X[:0]))[0].shape == (0,)
    rows = asked([], infer=True) | {"per_image": np.array(True)}
    assert session.run(["log_odds"], rows)[0].shape == (4,)


def test_the_runtimes_own_log_odds_are_equal(bank: supsup.MaskBank) -> None:
    session = exported(bank, FULL)
    model = supsup.load(bank.path.parent / "out.onnx")
    scores = np.stack([each.scores for each in model.infer_tasks(X, method="exhaustive")])
    for index in range(3):
        (odds,) = session.run(["log_odds"], asked([index]) | {"alphas": np.ones(1, np.float32)})
        np.testing.assert_allclose(odds, scores[:, index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", [("log_odds",), ("logits", "parameters", "log_odds")])
def test_known_models(bank: supsup.MaskBank, outputs: tuple[str, ...]) -> None:
    session, full = exported(bank, outputs), exported(bank, FULL)
    feeds = asked([2])
    (want,) = full.run(["log_odds"], feeds)
    del feeds["infer"]
    np.testing.assert_array_equal(session.run(["log_odds"], feeds)[0], want)


def test_models_that_always_infer(bank: supsup.MaskBank) -> None:
    session = exported(bank, ("task", "logits", "log_odds"))
    task, logits, odds = session.run(["task", "logits", "log_odds"], {"x": X})
    close(odds, logits, len(list(bank)[int(task[0])].labels))
    model = supsup.load(bank.path.parent / "out.onnx")
    assert model.predict(X).task.index == task[0]


def test_only_on_request_and_with_superfluous_outputs(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "with", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    plain = export(bank, tmp_path / "plain.onnx").path
    assert b"log_odds" not in plain.read_bytes()
    bank = make_bank(tmp_path / "none", "mlp-7-9", outputs=4, real_outputs=4, tasks=2)
    with pytest.raises(InputError, match=r"^outputs: this network has no 'log_odds'"):
        export(bank, tmp_path / "none.onnx", request=Request(outputs=("logits", "log_odds")))


def test_an_export_with_wrong_log_odds_is_refused(
    bank: supsup.MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "log_odds", lambda logits, own: log_odds(logits, own % 4 + 1))
    for outputs in (FULL, ("log_odds",), ("task", "log_odds")):
        with pytest.raises(ParityError, match=r"log_odds .* differs by"):
            exported(bank, outputs)


def test_the_tolerance_holds_for_float32_and_moved_logits() -> None:
    rng = np.random.default_rng(0)
    for outputs in (2, 7, 1000):
        for size in (1e-3, 1.0, 1e3):
            logits = (size * rng.standard_normal((200, outputs))).astype(np.float32)
            peak = float(np.abs(logits).max())
            own = int(rng.integers(1, outputs))
            moved = logits.astype(np.float64)
            moved += LOGITS_TOLERANCE * peak * rng.choice([-1, 1], logits.shape)
            want = log_odds(logits.astype(np.float64), own)
            allowed = odds_tolerance(peak, outputs)
            assert np.abs(log_odds(moved, own) - want).max() <= allowed
            alone = np.abs(log_odds(logits, own) - want).max()
            assert alone <= allowed - 2 * LOGITS_TOLERANCE * peak
