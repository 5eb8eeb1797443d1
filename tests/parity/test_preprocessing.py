"""Pictures become the same inputs by hand, at run time, and in the graph; so do the logits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import supsup_runtime as supsup
from banks import picture_bank
from conftest import network_of
from supsup_export import Request, export, export_task
from supsup_export.checking import LOGITS_TOLERANCE
from supsup_export.graph import FLOAT, Graph, Value
from supsup_export.preparing import input_of, inputs
from supsup_runtime.bank.network import MaskedParameter
from supsup_runtime.model.session import Session, open_session
from supsup_runtime.preprocessing import EPSILON, GRAY, Preprocessing

Array = npt.NDArray[Any]
OWN = Preprocessing(mode="rgb", size=(6, 9))
CHANNELS = Preprocessing(
    mode="rgb", size=(6, 9), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
FIXED = Preprocessing(mode="gray", size=(8, 5), mean=0.4, std=0.25)
SIZES = [(1, 1), (7, 9), (33, 20), (6, 9), (3, 2), (40, 5), (5, 40), (480, 640)]
TOLERANCE = 1e-6
"""Of the largest value of a picture over `scale`; see `differs`."""


def by_hand(picture: Array, steps: Preprocessing) -> tuple[Array, float]:
    """Prepare a picture pixel by pixel; return it, and what it was divided by.

    Positions are float32, as docs/DATA.md has them; all else is float64.
    """
    height, width, channels = picture.shape
    colours = np.empty((height, width, 3))
    for channel in range(3):
        colours[:, :, channel] = picture[:, :, min(channel, channels - 1)]
    if steps.mode == "gray":
        colours = (colours[:, :, 0] * GRAY[0] + colours[:, :, 1] * GRAY[1])[:, :, None] + (
            colours[:, :, 2:] * GRAY[2]
        )
    x = np.empty((colours.shape[2], *steps.size))
    ratios = [
        np.float32(w) / np.float32(h) for h, w in zip((height, width), steps.size, strict=True)
    ]
    scale = max(ratios)
    rows = [shares(i, steps.size[0], height, scale) for i in range(steps.size[0])]
    columns = [shares(j, steps.size[1], width, scale) for j in range(steps.size[1])]
    for i, (top, down) in enumerate(rows):
        for j, (left, across) in enumerate(columns):
            part = colours[top : top + len(down), left : left + len(across)]
            x[:, i, j] = np.tensordot(np.outer(down, across), part, 2)
    x = x / steps.scale
    if steps.mean is not None and steps.std is not None:
        mean, std = (np.reshape(value, (-1, 1, 1)) for value in (steps.mean, steps.std))
        return (x - mean) / std, float(np.max(std))
    spread = float(np.sqrt(((x - x.mean()) ** 2).mean())) + EPSILON
    return (x - x.mean()) / spread, spread


def shares(i: int, want: int, have: int, scale: np.float32) -> tuple[int, list[float]]:
    """Return the first input pixel that counts, and the weights from there."""
    half = np.float32(0.5)
    center = (np.float32(i) + half - half * np.float32(want)) / scale + half * np.float32(have)
    reach = max(1.0, 1 / float(scale))
    near = {j: 1 - abs(j + 0.5 - float(center)) / reach for j in range(have)}
    found = {j: weight for j, weight in near.items() if weight > 0}
    total = sum(found.values())
    return min(found), [weight / total for weight in found.values()]


def differs(got: Array, picture: Array, steps: Preprocessing) -> float:
    """Return the largest difference from `by_hand`, before the division by a deviation.

    It is relative to the largest value or mean: a picture of one shade has only rounding.
    """
    want, spread = by_hand(picture.astype(np.float64), steps)
    largest = max(float(np.abs(picture).max()) / steps.scale, float(np.max(steps.mean or 0)))
    return float(np.abs(got - want).max()) * spread / (largest or 1)


@cache
def baked(steps: Preprocessing) -> Session:
    """The graph's preprocessing alone."""
    network = replace(
        network_of(MaskedParameter.signed_kaiming("w", (3, 3))),
        input_shape=steps.output_shape,
        preprocessing=steps,
    )
    graph = Graph()
    graph.op("Identity", inputs(graph, network), name="ready")
    output: Value = ("ready", FLOAT, ["batch", *network.input_shape])
    model = graph.model("preparing", [input_of(network, baked=True)], [output], {})
    return open_session(model.SerializeToString(), place="the graph")


def in_graph(pictures: Array, steps: Preprocessing) -> Array:
    return baked(steps).run(["ready"], {"x": pictures})[0]


def noise(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("steps", [OWN, FIXED, CHANNELS], ids=["own", "fixed", "channels"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_three_ways_agree(size: tuple[int, int], channels: int, steps: Preprocessing) -> None:
    picture = noise((*size, channels))
    assert differs(steps.apply(picture)[0], picture, steps) <= TOLERANCE
    assert differs(in_graph(picture[None], steps)[0], picture, steps) <= TOLERANCE
    floats = picture.astype(np.float32) - np.float32(0.5)
    assert differs(steps.apply(floats)[0], floats, steps) <= TOLERANCE


@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    channels=st.sampled_from([1, 3]),
    steps=st.sampled_from([OWN, FIXED, CHANNELS]),
    seed=st.integers(0, 99),
)
@example(size=(1, 50), channels=3, steps=OWN, seed=0)
def test_three_ways_agree_at_any_size(
    size: tuple[int, int], channels: int, steps: Preprocessing, seed: int
) -> None:
    pictures = noise((2, *size, channels), seed)
    for ready in (steps.apply(pictures), in_graph(pictures, steps)):
        for got, picture in zip(ready, pictures, strict=True):
            assert differs(got, picture, steps) <= TOLERANCE


@pytest.mark.parametrize("steps", [OWN, FIXED, CHANNELS], ids=["own", "fixed", "channels"])
def test_pictures_of_one_shade_and_pictures_that_no_step_changes(steps: Preprocessing) -> None:
    for shade in (0, 1, 255):
        flat = np.full((1, 20, 31, 3), shade, np.uint8)
        assert differs(in_graph(flat, steps)[0], flat[0], steps) <= TOLERANCE
    exact = noise((3, *steps.size, 3))
    np.testing.assert_allclose(in_graph(exact, steps), steps.apply(exact), atol=2e-6)
    assert in_graph(exact[:0], steps).shape == (0, *steps.output_shape)


@pytest.fixture(scope="module", params=["flat", "image"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank, and its models with preprocessing baked in or not."""
    folder = tmp_path_factory.mktemp("pictures")
    if request.param == "flat":
        bank = picture_bank(folder / "masks", "mlp-7-9", OWN, tasks=5)
    else:
        steps = Preprocessing(mode="gray", size=(8, 8), mean=0.4, std=0.25)
        bank = picture_bank(folder / "masks", "cnn", steps, tasks=5)
    for mode, outputs in (
        ("full", None),
        ("known", ("logits", "parameters", "state")[: 2 + bool(bank.network.state)]),
        ("infer", ("logits", "task")),
    ):
        export(bank, folder / f"{mode}.onnx", request=Request(outputs=outputs))
        request_ = Request(outputs=outputs, preprocess="baked")
        assert export(bank, folder / f"{mode}-baked.onnx", request=request_).parity is not None
    return folder


def close(got: supsup.Prediction, want: supsup.Prediction) -> None:
    largest = np.abs(want.logits).max()
    np.testing.assert_allclose(got.logits, want.logits, rtol=0, atol=LOGITS_TOLERANCE * largest)
    assert got.tasks == want.tasks


@pytest.mark.parametrize("mode", ["full", "known", "infer"])
def test_baked_models_predict_what_others_do(folder: Path, mode: str) -> None:
    plain = supsup.load(folder / f"{mode}.onnx")
    model = supsup.load(folder / f"{mode}-baked.onnx")
    assert (plain.info.baked, model.info.baked) == (False, True)
    batch = noise((4, 33, 20, 3))
    for pictures in (
        batch,
        batch[:, :, :, :1],
        batch[0],
        batch[0, :, :, 0],
        [*batch],
        batch[:, ::2],
    ):
        ready = plain.prepare(pictures)
        for each in (model, plain):
            close(each.predict(pictures), plain.predict(ready))
            close(each.predict(pictures, per_image=True), plain.predict(ready, per_image=True))
            if mode != "infer":  # the first call asks the graph, the second the forward program
                for _ in range(2):
                    close(each.predict(pictures, 3), plain.predict(ready, 3))
    if mode != "infer":
        close(model.predict(batch, [0, 2, 0, 1]), plain.predict(batch, [0, 2, 0, 1]))
    different = [noise((5, 6)), noise((40, 30, 3)), noise((9, 9, 1))]
    ready = np.concatenate([plain.prepare(each) for each in different])
    close(plain.predict(different), plain.predict(ready))


def test_every_method_takes_pictures(folder: Path) -> None:
    plain = supsup.load(folder / "full.onnx")
    model = supsup.load(folder / "full-baked.onnx")
    batch = noise((3, 12, 12, 3))
    ready = plain.prepare(batch)
    for each in (plain, model):
        each.warmup([0, 1], batch_size=2)
        assert each.infer_task(batch).task == plain.infer_task(ready).task
        found = [inference.task for inference in each.infer_tasks(batch)]
        assert found == [inference.task for inference in plain.infer_tasks(ready)]
        for got, want in (
            (each.logits(batch, 2), plain.logits(ready, 2)),
            (each.superpose(batch, [0, 1], [1, 1]), plain.superpose(ready, [0, 1], [1, 1])),
        ):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
        for method in ("one-shot", "binary", "gradient", "exhaustive"):
            close(each.predict(batch, method=method), plain.predict(ready, method=method))


def test_many_rows_are_scored_together(folder: Path) -> None:
    plain = supsup.load(folder / "full.onnx")
    model = supsup.load(folder / "full-baked.onnx")
    batch = noise((30, 10, 11, 3))
    close(model.predict(batch, per_image=True), plain.predict(batch, per_image=True))


@pytest.mark.parametrize("bits", [32, 2])
def test_a_single_task_takes_pictures(folder: Path, tmp_path: Path, bits: int) -> None:
    bank = supsup.MaskBank.open(folder / "masks")
    path = export_task(bank, "task-1", tmp_path / "one.onnx", bits=bits, preprocess="baked").path
    session = open_session(path, place="one")
    assert session.metadata["org.supsup.preprocess"] == "baked"
    assert session.inputs == {
        "x": ("tensor(uint8)", ("batch", "height", "width", "channels")),
    }
    plain = export_task(bank, "task-1", tmp_path / "plain.onnx", bits=bits).path
    pictures = noise((4, 480, 640, 3))
    got = session.run(["logits"], {"x": pictures})[0]
    ready = supsup.load(folder / "full.onnx").prepare(pictures)
    want = open_session(plain, place="plain").run(["logits"], {"x": ready})[0]
    tolerance = LOGITS_TOLERANCE if bits == 32 else 2e-2  # int8 may round to the next step
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())
