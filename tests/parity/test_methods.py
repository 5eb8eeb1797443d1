"""The methods binary and gradient equal float64 numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import supsup_runtime as supsup
from banks import make_bank
from parity.plain import numpy_logits, numpy_scores, superposed
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime import Inference
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import METHODS, Method

Floats = npt.NDArray[np.float64]
NUM_TASKS = (1, 2, 3, 7, 8, 9)


def loaded(
    folder: Path, num_tasks: int, *, outputs: int = 12, request: Request | None = None
) -> tuple[MaskBank, supsup.Model]:
    bank = make_bank(
        folder / "masks", "mlp-64-48", outputs=outputs, real_outputs=6, tasks=num_tasks
    )
    export(bank, folder / "out.onnx", request=request)
    return bank, supsup.load(folder / "out.onnx")


def images(rows: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(rows).standard_normal((rows, 30)).astype(np.float32)


def binary_by_hand(bank: MaskBank, x: npt.NDArray[np.float32]) -> tuple[list[int], int]:
    """Return the tasks of the last round, best first, and the number of rounds."""
    left, rounds = list(range(len(bank))), 0
    while True:
        alphas = np.zeros(len(bank))
        alphas[left] = 1 / len(left)
        scores = numpy_scores(bank, x, alphas, "superfluous")
        rounds += 1
        ranked = sorted(left, key=lambda task: -scores[task])
        if len(left) <= 2:
            return ranked, rounds
        left = sorted(ranked[: (len(left) + 1) // 2])


def gradient_by_hand(
    bank: MaskBank, x: npt.NDArray[np.float32], steps: int, step_size: float
) -> Floats:
    alphas = np.full(len(bank), 1 / len(bank))
    for _ in range(steps):
        scores = numpy_scores(bank, x, alphas, "superfluous")
        away = scores - scores.mean()
        if not away.any() or alphas.max() == 1:
            break
        alphas = np.maximum(alphas + step_size * away / np.abs(away).max(), 0)
        alphas /= alphas.sum()
    return alphas


@pytest.mark.parametrize("num_tasks", NUM_TASKS[1:])
def test_binary_is_numpys(tmp_path: Path, num_tasks: int) -> None:
    bank, model = loaded(tmp_path, num_tasks)
    for x in images(6)[:, None]:
        ranked, rounds = binary_by_hand(bank, x)
        found = model.infer_task(x, method="binary")
        assert found.task.index == ranked[0]
        assert np.flatnonzero(np.isfinite(found.scores)).tolist() == sorted(ranked)
        assert found.passes == rounds
    batch = model.infer_task(images(5), method="binary")
    assert batch.task.index == binary_by_hand(bank, images(5))[0][0]


@pytest.mark.parametrize("num_tasks", NUM_TASKS)
def test_gradient_is_numpys(tmp_path: Path, num_tasks: int) -> None:
    bank, model = loaded(tmp_path, num_tasks)
    for x in images(4)[:, None]:
        want = gradient_by_hand(bank, x, 3, 0.4)
        how = Inference(method="gradient", steps=3, step_size=0.4)
        # scores are off by at most 3e-5 of the largest in each of three steps
        np.testing.assert_allclose(model.infer_task(x, method=how).scores, want, rtol=0, atol=1e-3)


def test_exhaustive_by_each_score_is_numpys(tmp_path: Path) -> None:
    bank, model = loaded(tmp_path, 7)
    x = images(3)
    logits = [numpy_logits(x, superposed(bank, np.eye(7)[i])) for i in range(7)]
    p = [np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in logits]
    want = {
        "log-odds": [
            np.log(q[:, :2].sum(1) / q[:, 2:].sum(1)).mean() for q in p
        ],  # of 6 real outputs, 2 are its own
        "entropy": [(q * np.log(q)).sum(1).mean() for q in p],
        "max-probability": [q.max(axis=1).mean() for q in p],
    }
    for score, values in want.items():
        how = Inference(method="exhaustive", score=score)  # type: ignore[arg-type]  # a literal
        found = model.infer_task(x, method=how)
        np.testing.assert_allclose(found.scores, values, rtol=1e-4, atol=1e-4)  # float32 logits
        tried = Inference(method="verified", score=score, candidates=7)  # type: ignore[arg-type]  # as above
        np.testing.assert_array_equal(model.infer_task(x, method=tried).scores, found.scores)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_that_say_little_are_inferred_all_the_same(tmp_path: Path, method: Method) -> None:
    """Constant images, images without any signal, a batch of one image many times."""
    _, model = loaded(tmp_path, 5)
    cases = [np.zeros((1, 30), np.float32), np.ones((3, 30), np.float32)]
    for x in [*cases, np.repeat(images(1), 4, axis=0)]:
        found = model.infer_task(x, method=method)
        assert 0 <= found.task.index < 5
        assert found.margin >= 0
        assert not np.isnan(found.scores).any()
        one = model.predict(x, method=method)
        assert one.task == found.task
    dead = model.infer_task(np.zeros((1, 30), np.float32), method=method)
    assert (dead.task.index, dead.margin) == (0, 0.0)


def test_a_batch_is_one_task_and_rows_have_their_own(tmp_path: Path) -> None:
    """A batch of mixed tasks gets the one that fits its mean; `per_image` tells them apart."""
    bank, model = loaded(tmp_path, 9)
    x = images(40)
    for method in METHODS:
        rows = model.predict(x, per_image=True, method=method)
        alone = [model.infer_task(row[None], method=method).task.index for row in x]
        assert [task.index for task in rows.tasks] == alone
    mean = numpy_scores(bank, x, np.full(9, 1 / 9), "superfluous")
    assert model.infer_task(x, method="one-shot").task.index == mean.argmax()
    assert len(set(alone)) > 1


def test_what_a_model_cannot_do_is_refused(tmp_path: Path) -> None:
    _, known = loaded(tmp_path / "known", 3, request=Request(outputs=("logits",)))
    _, infer = loaded(tmp_path / "infer", 3, request=Request(outputs=("task_scores",)))
    for method in ("binary", "gradient"):
        with pytest.raises(InputError, match="exported without task_scores"):
            known.infer_task(images(1), method=method)
        with pytest.raises(InputError, match=r"cannot score at a superposition.*export with all"):
            infer.infer_task(images(1), method=method)
    _, plain = loaded(tmp_path / "plain", 3, outputs=6)
    how = Inference(method="exhaustive", score="log-odds")
    with pytest.raises(InputError, match=r"score log-odds needs superfluous outputs.*use entropy"):
        plain.infer_task(images(1), method=how)
    assert plain.infer_task(images(1), method="exhaustive").passes == 3
