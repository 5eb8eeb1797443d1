"""Screened scoring never chooses another task than exact scores do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from banks import make_bank
from parity.plain import numpy_scores
from supsup_export import screening
from supsup_export.compose import Request
from supsup_export.exporter import export
from supsup_export.graph import Graph
from supsup_export.screening import MIN_TASKS
from supsup_runtime.bank import MaskBank
from supsup_runtime.bits import unpack_mask
from supsup_runtime.errors import InputError, ParityError
from supsup_runtime.session import Session, open_session
from supsup_runtime.taskfile import make_task

Images = npt.NDArray[np.float32]
NUM_TASKS, NUM_RANDOM, NUM_PLANTED = 130, 2000, 24


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    """Random masks, and masks planted for one image each, which win by far."""
    path = tmp_path_factory.mktemp("screen") / "masks"
    bank = make_bank(path, "mlp-64-48", outputs=20, real_outputs=6, tasks=NUM_TASKS - NUM_PLANTED)
    for i, x in enumerate(planted()):
        bank.add(make_task(f"planted-{i}", masks_for(bank, x[None])))
    return bank


@pytest.fixture(scope="module")
def sessions(bank: MaskBank, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Session]:
    folder = tmp_path_factory.mktemp("models")
    export(bank, folder / "exact.onnx")
    export(bank, folder / "screened.onnx", request=Request(screen=True), sample=planted())
    exact, screened = (open_session(folder / f"{n}.onnx", place=n) for n in ("exact", "screened"))
    return exact, screened


def planted() -> Images:
    return np.random.default_rng(7).standard_normal((NUM_PLANTED, 30)).astype(np.float32)


def masks_for(bank: MaskBank, x: Images) -> dict[str, npt.NDArray[np.bool_]]:
    """The masks that score highest for an image: ones where -W * dO/dW is positive."""
    session = open_session(bank.gradient or b"", place="gradient")
    network = bank.network
    halved = {p.name: w / 2 for p, w in zip(network.parameters, network.weights(), strict=True)}
    names = [f"superfluous.{name}" for name in halved]
    gradients = session.run(names, {"x": x, **halved})
    return {
        name: -(weight * gradient) > 0
        for (name, weight), gradient in zip(halved.items(), gradients, strict=True)
    }


def answer(session: Session, x: Images) -> tuple[int, npt.NDArray[Any]]:
    feeds: dict[str, npt.NDArray[Any]] = {
        "x": x,
        "tasks": np.zeros(0, np.int64),
        "alphas": np.zeros(0, np.float32),
        "infer": np.array(True),
    }
    task, scores = session.run(["task", "task_scores"], feeds)
    return int(task[0]), scores


def test_random_images_and_images_with_a_task(
    bank: MaskBank, sessions: tuple[Session, Session]
) -> None:
    """Both ways are taken: all scored, and given up after the first pass."""
    exact, screened = sessions
    rng = np.random.default_rng(0)
    random = rng.standard_normal((NUM_RANDOM, 30)).astype(np.float32)
    full = np.full(NUM_TASKS, 1 / NUM_TASKS)
    given_up = compared = 0
    for i, x in enumerate([*random, *planted()]):
        task, want = answer(exact, x[None])
        chosen, scores = answer(screened, x[None])
        assert chosen == task
        scale = np.abs(want).max()
        assert scores[task] == scores.max()
        assert abs(scores[task] - want[task]) <= 3e-5 * scale
        given_up += bool((np.abs(scores - want) > 1e-3 * scale).any())
        if i % 20 == 0 or i >= NUM_RANDOM:  # float64 takes its time
            reference = numpy_scores(bank, x[None], full, "superfluous")
            top = np.sort(reference)[-2:]
            if top[1] - top[0] > 1e-4 * np.ptp(reference):
                compared += 1
                assert task == reference.argmax()
    assert given_up >= NUM_PLANTED // 2
    assert given_up < NUM_RANDOM // 2
    assert compared >= 100


def test_the_exact_scores_choose_what_float64_does(
    bank: MaskBank, sessions: tuple[Session, Session]
) -> None:
    rng = np.random.default_rng(1)
    session = open_session(bank.gradient or b"", place="gradient")
    network = bank.network
    masks = np.stack(
        [
            np.concatenate([unpack_mask(task.masks[p.name], (p.size,)) for p in network.parameters])
            for task in bank
        ]
    ).astype(np.float64)
    mean = np.split(masks.mean(axis=0), np.cumsum([p.size for p in network.parameters])[:-1])
    weights = network.weights()
    feeds = {
        p.name: (w * m.reshape(p.shape)).astype(np.float32)
        for p, w, m in zip(network.parameters, weights, mean, strict=True)
    }
    checked = 0
    for x in rng.standard_normal((NUM_RANDOM, 1, 30)).astype(np.float32):
        gradients = session.run([f"superfluous.{name}" for name in feeds], {"x": x, **feeds})
        terms = [
            (g.astype(np.float64) * w).reshape(-1) for g, w in zip(gradients, weights, strict=True)
        ]
        want = -masks @ np.concatenate(terms)
        first, second = np.sort(want)[[-1, -2]]
        if first - second > 1e-4 * np.ptp(want):
            checked += 1
            assert answer(sessions[0], x)[0] == want.argmax()
    assert checked >= 0.95 * NUM_RANDOM


def test_what_screening_cannot_do_is_refused(bank: MaskBank, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    few = make_bank(tmp_path / "few", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    with pytest.raises(
        InputError, match=rf"screen: needs at least {MIN_TASKS} tasks.*has 3; leave"
    ):
        export(few, path, request=Request(screen=True))
    tiny = make_bank(tmp_path / "tiny", "mlp-7-9", outputs=6, real_outputs=4, tasks=MIN_TASKS)
    with pytest.raises(InputError, match="needs a network of more than 256 masked weights"):
        export(tiny, path, request=Request(screen=True))
    with pytest.raises(InputError, match=r"screen: needs a model that infers.*target portable"):
        Request(screen=True, target="portable")
    with pytest.raises(InputError, match=r"screen: needs a model that infers.*known tasks only"):
        Request(screen=True, outputs=("logits",))
    with pytest.raises(InputError, match="sample: is for screening"):
        export(bank, path, sample=planted())
    cases: tuple[tuple[Any, str], ...] = (
        (planted().astype(np.float64), r"must be float32 \(images, 30\).*got float64 \(24, 30\)"),
        (planted()[:, :7], r"got float32 \(24, 7\)"),
        (planted()[:0], r"at least one image, got float32 \(0, 30\)"),
        (planted() * np.float32(np.nan), "sample: must be finite"),
    )
    for sample, message in cases:
        with pytest.raises(InputError, match=message):
            export(bank, path, request=Request(screen=True), sample=sample)
    assert not path.exists()


def test_the_check_sees_wrong_scores_of_contenders(
    bank: MaskBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real inputs, which have a task; random ones are scored in full."""

    def halved(graph: Graph, *arguments: Any) -> str:
        return graph.op("Mul", right(graph, *arguments), graph.constant(np.float32(0.9)))

    right = screening._exact
    monkeypatch.setattr(screening, "_exact", halved)
    with pytest.raises(ParityError, match="task_scores at all differs by"):
        export(bank, tmp_path / "out.onnx", request=Request(screen=True), sample=planted())


def test_equal_samples_give_equal_bytes(bank: MaskBank, tmp_path: Path) -> None:
    request = Request(screen=True)
    one = export(bank, tmp_path / "one.onnx", request=request, sample=planted(), check=False)
    two = export(bank, tmp_path / "two.onnx", request=request, sample=planted(), check=False)
    assert one.path.read_bytes() == two.path.read_bytes()
    none = export(bank, tmp_path / "none.onnx", request=request)  # random images, and checked
    assert none.info.screened
