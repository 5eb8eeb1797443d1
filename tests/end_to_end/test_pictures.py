"""supsup-run on pictures from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import supsup_runtime as supsup
from banks import make_bank, picture_bank
from commands import run
from supsup_export import Request, export
from supsup_runtime.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
SHAPES = {"2-tall.png": (9, 4, 3), "10-wide.bmp": (5, 20), "1-gray.png": (6, 6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    bank = picture_bank(
        folder / "masks", "mlp-7-9", Preprocessing(mode="rgb", size=(6, 6)), tasks=3
    )
    export(bank, folder / "out.onnx")
    export(bank, folder / "baked.onnx", request=Request(preprocess="baked"))
    other = make_bank(folder / "other", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    export(other, folder / "none.onnx")
    (folder / "shown").mkdir()
    for name, shape in SHAPES.items():
        picture = RNG.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(picture).save(folder / "shown" / name)
    (folder / "shown" / ".hidden").write_text("")
    return folder


def shown(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "shown" / name))


@pytest.mark.parametrize("options", [[], ["--per-image"], ["--task", "task-1"]], ids=str)
def test_a_folder_or_files_give_a_row_for_each_picture(folder: Path, options: list[str]) -> None:
    order = ["1-gray.png", "2-tall.png", "10-wide.bmp"]
    files = [str(folder / "shown" / name) for name in order]
    model = supsup.load(folder / "out.onnx")
    x = [shown(folder, name) for name in order]
    want = model.predict(
        x, "task-1" if "--task" in options else None, per_image="--task" not in options
    )
    for words in ([folder / "shown"], files):
        found = json.loads(
            run("supsup-run", folder / "out.onnx", *words, *options, "--json").stdout
        )
        assert found["files"] == files
        assert found["labels"] == list(want.labels)
        assert found["tasks"] == [task.name for task in want.tasks]
        np.testing.assert_allclose(found["logits"], want.to_dict()["logits"], atol=1e-5)
    text = run("supsup-run", folder / "out.onnx", folder / "shown", *options).stdout
    assert text.splitlines()[0].split() == ["file", "task", "label", "logit"]
    assert [line.split()[0] for line in text.splitlines()[1:]] == files


@pytest.mark.parametrize("name", ["out", "baked"])
def test_pictures_as_arrays_and_from_a_camera(folder: Path, tmp_path: Path, name: str) -> None:
    model = folder / f"{name}.onnx"
    upright = RNG.integers(0, 256, (8, 12, 3)).astype(np.uint8)
    np.save(tmp_path / "one.npy", upright)
    np.save(tmp_path / "two.npy", np.stack([upright, upright]))
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    want = supsup.load(model).predict(upright).to_dict()["logits"]
    for file, rows in (("one.npy", 1), ("two.npy", 2), ("turned.png", 1)):
        found = json.loads(run("supsup-run", model, tmp_path / file, "--json").stdout)
        assert ("files" in found) == (file == "turned.png")
        np.testing.assert_allclose(found["logits"], want * rows, atol=1e-5)


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    np.save(tmp_path / "x.npy", np.zeros((4, 4), np.uint8))
    good = folder / "shown" / "1-gray.png"
    deep = tmp_path / "deep"
    formats = "BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"
    for name, words, message in (
        (
            "out",
            [good, tmp_path / "text.png"],
            f"{tmp_path}/text.png: must be a picture ({formats}), got another kind of file",
        ),
        (
            "out",
            [tmp_path / "gone.png"],
            f"{tmp_path}/gone.png: must be a picture, got a path that does not exist",
        ),
        ("out", [tmp_path / "empty"], f"{tmp_path}/empty: must hold pictures alone, got none"),
        ("out", [deep], f"{deep}: must hold pictures alone, got the folder 'er'"),
        (
            "out",
            [good, tmp_path / "x.npy"],
            f"{tmp_path}/x.npy: must be the only input, or pictures alone; run it for each",
        ),
        (
            "none",
            [good],
            (
                f"{good}: must be a .npy file, as {folder}/none.onnx has no preprocessing for "
                "pictures; prepare them as in training and save them with numpy.save"
            ),
        ),
        (
            "none",
            [tmp_path / "x.npy"],
            (
                f"{folder}/none.onnx: the model has no preprocessing for pictures; prepare them "
                "as in training and give float32 (batch, 5)"
            ),
        ),
        (
            "baked",
            [folder / "shown"],
            (
                "picture 1: preprocessing is baked into the model, so all of a call must have the "
                "shape of the first, (6, 6, 1), got (9, 4, 3); call it for each size, or export "
                "with --preprocess runtime"
            ),
        ),
    ):
        done = run("supsup-run", folder / f"{name}.onnx", *words, status=1)
        assert done.stderr == f"supsup-run: {message}\n"


def test_only_pictures_need_pillow(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 4), np.uint8))
    code = "import sys; sys.modules['PIL'] = None; sys.argv[0] = 'supsup-run'\n"
    code += "from supsup_commands import main; main()"

    def ran(file: Path) -> tuple[int, str]:
        words = [sys.executable, "-c", code, str(folder / "out.onnx"), str(file)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert ran(tmp_path / "x.npy") == (0, "")
    picture = folder / "shown" / "1-gray.png"
    assert ran(picture) == (
        1,
        (
            f"supsup-run: {picture}: pictures need Pillow, which is not installed; pip install "
            "'supsup[pictures]', or give arrays\n"
        ),
    )
