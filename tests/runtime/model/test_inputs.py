"""What a model is given: ready arrays, or pictures if it has preprocessing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import supsup_runtime as supsup
from banks import make_bank, picture_bank
from stores import store_bank
from supsup_export import Request, export, export_recovery
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.metadata import PREFIX, ModelInfo
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.preprocessing import Preprocessing

STEPS = Preprocessing(mode="rgb", size=(6, 9))
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 7, 11, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    bank = picture_bank(folder / "masks", "mlp-7-9", STEPS, tasks=3)
    export(bank, folder / "runtime.onnx")
    export(bank, folder / "baked.onnx", request=Request(preprocess="baked"))
    other = make_bank(folder / "other", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    export(other, folder / "none.onnx")
    return folder


NEEDS_UINT8 = (
    "{m}: its preprocessing is baked in, so x must be uint8 pictures, got {got}; export with "
    "--preprocess runtime to give ready arrays"
)
NO_STEPS = (
    "{m}: the model has no preprocessing for pictures; prepare them as in training and give "
    "float32 (batch, 5)"
)
ONE_SIZE = (
    "picture 1: preprocessing is baked into the model, so all of a call must have the shape of the "
    "first, (7, 11, 3), got (5, 11, 3); call it for each size, or export with --preprocess runtime"
)
SHAPE = (
    "pictures must be (height, width), (height, width, channels) or (batch, height, width, "
    "channels) with 1 or 3 channels and sides of at most 32768, got "
)


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("none", PICTURES, NO_STEPS),
        ("none", [PICTURES[0]], NO_STEPS),
        ("none", [], "x must be a float32 array, got list; use x.astype(numpy.float32)"),
        ("runtime", [], "x must be a float32 array, got list; use x.astype(numpy.float32)"),
        ("runtime", PICTURES / 255, "x must be a float32 array, got float64; use x.astype("),
        ("runtime", PICTURES.astype("f4"), "x must have shape (batch, 162) with batch >= 1, got "),
        ("runtime", PICTURES[:0], SHAPE + "(0, 7, 11, 3)"),
        ("runtime", PICTURES[0, 0, 0], SHAPE + "(3,)"),
        ("runtime", PICTURES[..., :2], SHAPE + "(2, 7, 11, 2)"),
        ("runtime", [PICTURES[0], PICTURES[0] / 255], "x must be a float32 array, got list"),
        ("runtime", [[1, 2]], "x must be a float32 array, got list"),
        ("baked", np.zeros((1, 162), np.float32), NEEDS_UINT8.replace("{got}", "float32")),
        ("baked", PICTURES.astype("i8"), NEEDS_UINT8.replace("{got}", "int64")),
        ("baked", [PICTURES[0] / 255], NEEDS_UINT8.replace("{got}", "list")),
        ("baked", None, NEEDS_UINT8.replace("{got}", "NoneType")),
        ("baked", PICTURES[..., :2], SHAPE + "(2, 7, 11, 2)"),
        (
            "baked",
            [PICTURES[0], PICTURES[1, :5]],
            ONE_SIZE,
        ),
    ],
)
def test_other_inputs_are_refused(folder: Path, name: str, x: Any, message: str) -> None:  # noqa: ANN401 - anything
    model = supsup.load(folder / f"{name}.onnx")
    calls: tuple[Callable[[], object], ...] = (
        lambda: model.predict(x),
        lambda: model.predict(x, 0),
        lambda: model.logits(x, 0),
        lambda: model.infer_task(x),
        lambda: model.infer_tasks(x),
        lambda: model.superpose(x, [0], [1.0]),
    )
    expected = re.escape(message.replace("{m}", str(folder / f"{name}.onnx")))
    for call in calls:
        with pytest.raises(InputError, match=f"^{expected}"):
            call()


def test_float_pictures_are_prepared_first(folder: Path) -> None:
    model = supsup.load(folder / "runtime.onnx")
    ready = model.prepare(PICTURES.astype(np.float32))
    assert ready.shape == (2, 162)
    assert ready.dtype == np.float32
    np.testing.assert_array_equal(ready, STEPS.apply(PICTURES).reshape(2, 162))
    np.testing.assert_array_equal(model.predict(ready).logits, model.predict(PICTURES).logits)
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"^x must be finite, got NaN or infinity in row 0$"):
            model.prepare(np.full((4, 4), bad))
    with pytest.raises(
        InputError, match=r"none\.onnx: the model has no preprocessing for pictures"
    ):
        supsup.load(folder / "none.onnx").prepare(PICTURES)


@pytest.mark.parametrize(
    "steps", [replace(STEPS, mean=1e30, std=1e-30), replace(STEPS, mean=-1e30, std=1e-9)]
)
def test_steps_that_overflow_are_refused_in_one_line(
    folder: Path, tmp_path: Path, steps: Preprocessing
) -> None:
    """As a stranger's file may have them: numbers that each are allowed, but not together."""
    model = onnx.load(folder / "runtime.onnx")
    info = ModelInfo.from_metadata(read_metadata(folder / "runtime.onnx"), place="m")
    network = replace(info.network, preprocessing=steps)
    changed = replace(info, network=network, digest=network.digest(info.forward))
    helper.set_model_props(model, changed.to_metadata())
    onnx.save(model, tmp_path / "lie.onnx")
    with pytest.raises(InputError, match=r"^x must be finite, got NaN or infinity in row 0$"):
        supsup.load(tmp_path / "lie.onnx").predict(PICTURES)


def test_pictures_that_do_not_fit_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = supsup.load(folder / "runtime.onnx")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("supsup_runtime.preprocessing.sampling", full)
    with pytest.raises(InputError, match=r"^pictures: they do not fit in memory; take fewer$"):
        model.predict(PICTURES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("baked", None, r"input x must be \('tensor\(float\)', .*, got \('tensor\(uint8\)'"),
        ("runtime", "baked", r"input x must be \('tensor\(uint8\)', .*, got \('tensor\(float\)'"),
        ("runtime", "half", "preprocess must be 'baked', got 'half'"),
        ("none", "baked", "preprocess: baked needs a network with preprocessing and no hopfield"),
    ],
)
def test_metadata_must_fit_the_graph(
    folder: Path, tmp_path: Path, name: str, value: str | None, message: str
) -> None:
    model = onnx.load(folder / f"{name}.onnx")
    props = {each.key: each.value for each in model.metadata_props}
    assert props.pop(PREFIX + "preprocess", "runtime") == (
        "baked" if name == "baked" else "runtime"
    )
    helper.set_model_props(model, props | ({PREFIX + "preprocess": value} if value else {}))
    onnx.save(model, tmp_path / "lie.onnx")
    with pytest.raises(ModelError, match=message):
        supsup.load(tmp_path / "lie.onnx")


def test_a_recovery_takes_pictures(tmp_path: Path) -> None:
    steps = Preprocessing(mode="gray", size=(5, 6))
    bank = store_bank(tmp_path / "pictures", tasks=2, entropy=2.0, preprocessing=steps)
    model = supsup.load_hopfield(export_recovery(bank, tmp_path / "recover.onnx").path)
    batches = np.random.default_rng(0).integers(0, 256, (4, 8, 9, 7)).astype(np.uint8)[..., None]
    ready = [model.prepare(batch) for batch in batches]
    assert ready[0].shape == (8, 30)
    found, wanted = model.recover([*batches]), model.recover(ready)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    predicted = model.predict(batches[0, 0], found)
    assert len(predicted.tasks) == len(predicted.logits) == 1
    np.testing.assert_allclose(
        model.logits([*batches[0]], found.mask), model.logits(ready[0], found.mask), atol=1e-5
    )
    with pytest.raises(InputError, match="batch 1: pictures must be"):
        model.recover([batches[0], batches[1][:0]])


def test_arrays_need_no_pillow(folder: Path) -> None:
    code = """
import sys
sys.modules["PIL"] = None
import numpy as np, supsup_runtime
for path in sys.argv[1:]:
    model = supsup_runtime.load(path)
    model.predict(np.zeros((4, 5), np.uint8))
    model.predict([np.zeros((4, 5, 3), np.uint8)], 0)
    model.prepare(np.zeros((4, 5)))
assert not any(name.startswith("PIL.") for name in sys.modules)
"""
    paths = [str(folder / f"{name}.onnx") for name in ("runtime", "baked")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
