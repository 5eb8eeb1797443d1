"""Split tasks of pictures, from training to a model that takes pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar import cifar10
from commands import run
from supsup_runtime import MaskBank, load
from supsup_runtime.data import load_dataset, make_stream
from supsup_runtime.data.own import read_classes

LEARN = "--model conv-4 --steps 2 --tasks 2 --classes-per-task 3 --class-seed 1 --quiet"


def pictures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abcdefg":
        for place in ("train/{}/0.png", "train/{}/1.png", "test/{}/0.png"):
            path = folder / place.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("kind", ["cifar", "folder"])
def test_from_pictures_to_pictures(tmp_path: Path, kind: str) -> None:
    data = pictures(tmp_path / "d") if kind == "folder" else cifar10(tmp_path / "d")
    size = ["--size", 8] if kind == "folder" else []
    bank, out, baked = (tmp_path / name for name in ("bank", "out.onnx", "baked.onnx"))
    words = ["split", "--data", data, "--bank", bank, *LEARN.split(), "--outputs", 5]
    run("supsup-train", *words, *size)
    run("supsup-export", "--bank", bank, out)
    run("supsup-export", "--bank", bank, baked, "--preprocess", "baked")
    steps = MaskBank.open(bank).network.preprocessing
    assert steps is not None
    assert isinstance(steps.mean, tuple)
    given = ["--data", data, "--classes-per-task", 3, "--class-seed", 1, "--json"]
    told = json.loads(run("supsup-eval", out, "split", *given).stdout)
    assert len(told["tasks"]) == 2
    assert "learned" not in str(told["warnings"])
    if kind == "folder":
        dealt = read_classes(data, num_tasks=2, classes_per_task=3, class_seed=1, size=8)
        stored = [picture for _, picture in dealt.pictures(1)]
        x = dealt.task(1).test_x
    else:
        cifar = load_dataset(data)
        how = {"num_tasks": 2, "classes_per_task": 3, "class_seed": 1}
        stream = make_stream("split", cifar, layout="image", **how)  # type: ignore[arg-type]
        x = stream.task(1).test_x
        order = np.random.RandomState(1).permutation(10)[3:6]
        stored = [*cifar.test_x[np.isin(cifar.test_y, order)]]
    model = load(out)
    ready = model.predict(x, 1).logits
    np.testing.assert_array_equal(model.predict(stored, 1).logits, ready)
    np.testing.assert_allclose(load(baked).predict(stored, 1).logits, ready, rtol=0, atol=1e-5)


def test_labels_of_folders_are_their_own(tmp_path: Path) -> None:
    data = pictures(tmp_path / "d")
    words = ["split", "--data", data, "--bank", tmp_path / "b", "--labels", "shared"]
    said = run("supsup-train", *words, status=1).stderr
    assert "--labels: goes with arrays, got a folder of pictures; leave it out" in said
