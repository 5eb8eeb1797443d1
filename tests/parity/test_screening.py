"""Scoring in passes never chooses another task than exact scores do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest

from banks import make_bank
from conftest import small_network
from parity.plain import numpy_scores, stacked_masks
from supsup_export.bank_model import weights as masks
from supsup_export.bank_model.compose import Request
from supsup_export.bank_model.layout import ROW_BITS, Layout
from supsup_export.bank_model.screening import MIN_TASKS
from supsup_export.bank_model.shortlist import ROUNDING_SIGMAS, choose_scoring
from supsup_export.exporter import export
from supsup_export.graph import Graph
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.errors import InputError, ParityError
from supsup_runtime.model.metadata import Scoring, Target
from supsup_runtime.model.session import Session, open_session

Images = npt.NDArray[np.float32]
NUM_TASKS, NUM_RANDOM, NUM_PLANTED = 130, 2000, 24


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    """Random masks, and masks that each win clearly for one planted image."""
    path = tmp_path_factory.mktemp("screen") / "masks"
    bank = make_bank(path, "mlp-64-48", outputs=20, real_outputs=6, tasks=NUM_TASKS - NUM_PLANTED)
    for i, x in enumerate(planted()):
        bank.add(make_task(f"planted-{i}", masks_for(bank, x[None])))
    return bank


@pytest.fixture(scope="module")
def sessions(bank: MaskBank, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    folder = tmp_path_factory.mktemp("models")
    opened = {}
    for scoring in get_args(Scoring):
        path = folder / f"{scoring}.onnx"
        sample = planted() if scoring == "screened" else None
        export(bank, path, request=Request(scoring=scoring), sample=sample)
        opened[scoring] = open_session(path, place=scoring)
    return opened


def planted() -> Images:
    return np.random.default_rng(7).standard_normal((NUM_PLANTED, 30)).astype(np.float32)


def masks_for(bank: MaskBank, x: Images) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the masks that score highest for an image: 1 where -W * dO/dW is positive."""
    session = open_session(bank.gradient or b"", place="gradient")
    network = bank.network
    halved = {p.name: w / 2 for p, w in zip(network.parameters, network.weights(), strict=True)}
    names = [f"superfluous.{name}" for name in halved]
    gradients = session.run(names, {"x": x, **halved})
    return {
        name: -(weight * gradient) > 0
        for (name, weight), gradient in zip(halved.items(), gradients, strict=True)
    }


def joined(bank: MaskBank, task: TaskMasks) -> npt.NDArray[np.bool_]:
    """All masks of a task, flat."""
    parameters = bank.network.parameters
    return np.concatenate([unpack_mask(task.masks[p.name], (p.size,)) for p in parameters])


def answer(
    session: Session, x: Images, tasks: Sequence[int] = (), alphas: Sequence[float] = ()
) -> tuple[int, npt.NDArray[Any]]:
    feeds: dict[str, npt.NDArray[Any]] = {
        "x": x,
        "tasks": np.array(tasks, np.int64),
        "alphas": np.array(alphas, np.float32),
        "infer": np.array(True),
    }
    task, scores = session.run(["task", "task_scores"], feeds)
    return int(task[0]), scores


def test_random_images_and_images_with_a_task(bank: MaskBank, sessions: dict[str, Session]) -> None:
    """Screening scores all tasks exactly, or rules tasks out after the first pass; both occur."""
    rng = np.random.default_rng(0)
    random = rng.standard_normal((NUM_RANDOM, 30)).astype(np.float32)
    full, masks = np.full(NUM_TASKS, 1 / NUM_TASKS), stacked_masks(bank)
    given_up = {"rounded": 0, "screened": 0}
    compared = 0
    for i, x in enumerate([*random, *planted()]):
        task, want = answer(sessions["exact"], x[None])
        scale = np.abs(want).max()
        for scoring in given_up:
            chosen, scores = answer(sessions[scoring], x[None])
            assert chosen == task
            assert scores[task] == scores.max()
            assert abs(scores[task] - want[task]) <= 3e-5 * scale
            far = np.abs(scores - want) / scale
            # half a step of int8 per term: see ROUNDED_TOLERANCE
            assert scoring == "screened" or far.max() <= 3e-2
            given_up[scoring] += bool((far > 1e-4).any())
        if i % 20 == 0 or i >= NUM_RANDOM:  # float64 is slow
            reference = numpy_scores(bank, x[None], full, "superfluous", masks=masks)
            top = np.sort(reference)[-2:]
            if top[1] - top[0] > 1e-4 * np.ptp(reference):
                compared += 1
                assert task == reference.argmax()
    assert NUM_PLANTED // 2 <= given_up["screened"] < NUM_RANDOM // 2
    assert given_up["rounded"] >= 0.9 * NUM_RANDOM
    assert compared >= 100


def test_rounding_stays_within_its_spread(bank: MaskBank, sessions: dict[str, Session]) -> None:
    """A task is ruled out beyond `ROUNDING_SIGMAS`; 26,000 scores stay within four."""
    session = open_session(bank.gradient or b"", place="gradient")
    network = bank.network
    share = np.mean([joined(bank, task) for task in bank], axis=0)
    weights = np.concatenate([w.reshape(-1) for w in network.weights()])
    bounds = np.cumsum([p.size for p in network.parameters])[:-1]
    feeds = {
        p.name: part.reshape(p.shape).astype(np.float32)
        for p, part in zip(network.parameters, np.split(weights * share, bounds), strict=True)
    }
    worst = 0.0
    for x in np.random.default_rng(5).standard_normal((200, 1, 30)).astype(np.float32):
        gradients = session.run([f"superfluous.{name}" for name in feeds], {"x": x, **feeds})
        vector = np.concatenate([g.reshape(-1) for g in gradients]) * weights
        padded = np.zeros(-(-len(vector) // ROW_BITS) * ROW_BITS)
        padded[: len(vector)] = vector
        blocks = padded.reshape(-1, 2).T.reshape(-1, ROW_BITS // 2)  # even bits, then odd ones
        steps = np.abs(blocks).max(axis=1) / 127
        sigma = np.sqrt((ROW_BITS // 2) * (steps**2).sum() / 12)
        _, exact = answer(sessions["exact"], x)
        _, rounded = answer(sessions["rounded"], x)
        worst = max(worst, np.abs(exact - rounded).max() / sigma)
    assert 1 < worst < 4 < ROUNDING_SIGMAS


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_fewest_tasks_and_state_are_rounded_too(tmp_path: Path, target: Target) -> None:
    """Five tasks, of which four contend; scores of state are added to rough and exact alike."""
    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=5)
    request = Request(scoring="rounded", target=target)
    info = export(bank, tmp_path / "out.onnx", request=request).info  # and checked
    assert info.scoring == "rounded"


@pytest.mark.parametrize("scoring", ["rounded", "screened"])
def test_scores_at_a_superposition_given_are_all_exact(
    bank: MaskBank, sessions: dict[str, Session], scoring: str
) -> None:
    """Algorithms of several steps use more than the best score."""
    for x in planted()[:5, None]:
        for tasks, alphas in (([0, 129], [0.5, 0.5]), ([7], [1.0])):
            full = np.zeros(NUM_TASKS)
            full[tasks] = alphas
            want = numpy_scores(bank, x, full, "superfluous")
            task, got = answer(sessions[scoring], x, tasks, alphas)
            np.testing.assert_allclose(got, want, rtol=0, atol=3e-5 * np.abs(want).max())
            assert task == got.argmax()


def test_large_banks_are_rounded_on_the_cpu_alone() -> None:
    def layout(num_tasks: int, row_bytes: int) -> Layout:
        masks = np.broadcast_to(np.uint8(0), (num_tasks, row_bytes))  # takes no memory
        signs, state = np.zeros(row_bytes, np.uint8), np.zeros((num_tasks, 0), np.float32)
        return Layout(
            network=small_network(),
            masks=masks,
            signs=signs,
            counts=np.zeros(8 * row_bytes, np.uint16),
            state=state,
            labels=(),
            origins=(),
        )

    assert choose_scoring(layout(2500, 39424), "cpu") == "rounded"
    assert choose_scoring(layout(512, 1 << 15), "cpu") == "rounded"
    assert choose_scoring(layout(511, 1 << 20), "cpu") == "exact"  # contenders would cost more
    assert choose_scoring(layout(512, (1 << 15) - 32), "cpu") == "exact"  # little to save
    assert choose_scoring(layout(2500, 39424), "cuda") == "exact"
    assert choose_scoring(layout(2500, 39424), "portable") == "exact"


def test_images_of_no_gradient_are_scored_alike(sessions: dict[str, Session]) -> None:
    """Dead units: all scores are zero, and the lowest index wins."""
    for scoring, session in sessions.items():
        task, scores = answer(session, np.zeros((1, 30), np.float32))
        assert task == 0, scoring
        np.testing.assert_array_equal(scores, 0)


def test_the_exact_scores_choose_what_float64_does(
    bank: MaskBank, sessions: dict[str, Session]
) -> None:
    rng = np.random.default_rng(1)
    session = open_session(bank.gradient or b"", place="gradient")
    network = bank.network
    masks = np.stack([joined(bank, task) for task in bank]).astype(np.float64)
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
            assert answer(sessions["exact"], x)[0] == want.argmax()
    assert checked >= 0.95 * NUM_RANDOM


def test_what_screening_cannot_do_is_refused(bank: MaskBank, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    few = make_bank(tmp_path / "few", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    with pytest.raises(
        InputError, match=rf"scoring screened: needs at least {MIN_TASKS} tasks.*has 3; leave"
    ):
        export(few, path, request=Request(scoring="screened"))
    with pytest.raises(InputError, match=r"scoring: must be one of.*got 'best'"):
        Request(scoring="best")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match=r"scoring rounded: needs more than 4 tasks.*has 3; leave"):
        export(few, path, request=Request(scoring="rounded"))
    tiny = make_bank(tmp_path / "tiny", "mlp-7-9", outputs=6, real_outputs=4, tasks=MIN_TASKS)
    with pytest.raises(InputError, match="needs a network of more than 256 masked weights"):
        export(tiny, path, request=Request(scoring="screened"))
    with pytest.raises(
        InputError, match=r"scoring screened: needs target cpu or cuda, got target portable"
    ):
        Request(scoring="screened", target="portable")
    with pytest.raises(
        InputError, match=r"scoring: needs output task or task_scores.*known tasks only"
    ):
        Request(scoring="screened", outputs=("logits",))
    with pytest.raises(InputError, match="sample: requires scoring screened"):
        export(bank, path, sample=planted())
    cases: tuple[tuple[Any, str], ...] = (
        (planted().astype(np.float64), r"must be float32 \(images, 30\).*got float64 \(24, 30\)"),
        (planted()[:, :7], r"got float32 \(24, 7\)"),
        (planted()[:0], r"at least one image, got float32 \(0, 30\)"),
        (planted() * np.float32(np.nan), "sample: must be finite"),
    )
    for sample, message in cases:
        with pytest.raises(InputError, match=message):
            export(bank, path, request=Request(scoring="screened"), sample=sample)
    assert not path.exists()


def test_the_check_sees_wrong_scores_of_contenders(
    bank: MaskBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real inputs, which have a task; random ones are scored in full."""

    def halved(graph: Graph, packed: str) -> str:
        return graph.op("Mul", right(graph, packed), graph.constant(np.float32(0.9)))

    right = masks.unpack
    monkeypatch.setattr("supsup_export.bank_model.shortlist.unpack", halved)
    with pytest.raises(ParityError, match="task_scores at all differs by"):
        export(bank, tmp_path / "out.onnx", request=Request(scoring="screened"), sample=planted())


def test_equal_samples_give_equal_bytes(bank: MaskBank, tmp_path: Path) -> None:
    request = Request(scoring="screened")
    one = export(bank, tmp_path / "one.onnx", request=request, sample=planted(), check=False)
    two = export(bank, tmp_path / "two.onnx", request=request, sample=planted(), check=False)
    assert one.path.read_bytes() == two.path.read_bytes()
    none = export(bank, tmp_path / "none.onnx", request=request)  # random images, and checked
    assert none.info.scoring == "screened"
