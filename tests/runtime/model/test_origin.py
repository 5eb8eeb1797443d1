"""Models are pickled and copied by their file."""

from __future__ import annotations

import copy
import pickle
import shutil
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from stores import images, store_bank
from supsup_export import export, export_recovery
from supsup_runtime.errors import InputError, ModelError

X = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    return export(bank, tmp_path / "out.onnx", check=False).path


def test_copies_answer_as_the_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    model = supsup.load(path.name, cache_bytes=1000, threads=2, check_memory=False)
    data = pickle.dumps(model)
    monkeypatch.chdir("/")
    for other in (pickle.loads(data), copy.deepcopy(model), copy.copy(model)):  # noqa: S301 - ours
        assert other is not model
        assert other.info == model.info
        assert other._engine.origin == model._engine.origin
        np.testing.assert_array_equal(other.logits(X, 1), model.logits(X, 1))
    assert len(data) < 1000


def test_a_process_gets_the_model(path: Path) -> None:
    model = supsup.load(path)
    with get_context("spawn").Pool(1) as pool:
        (got,) = pool.starmap(supsup.Model.logits, [(model, X, 1)])
    np.testing.assert_array_equal(got, model.logits(X, 1))


def test_models_of_stores_are_copied_too(tmp_path: Path) -> None:
    bank = store_bank(tmp_path / "masks")
    model = supsup.load_hopfield(export_recovery(bank, tmp_path / "r.onnx", check=False).path)
    other = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes
    mask = np.ones(model.info.network.num_masked, np.bool_)
    np.testing.assert_array_equal(other.logits(images(2), mask), model.logits(images(2), mask))


def test_another_file_is_refused(path: Path, tmp_path: Path) -> None:
    data, kept = pickle.dumps(supsup.load(path)), tmp_path / "kept.onnx"
    shutil.copy(path, kept)
    path.write_bytes(path.read_bytes() + b"\x12\x01a")  # another field
    message = (
        r"out\.onnx: the file is not the one of the pickled model: SHA-256 must be \w{64}, got"
    )
    with pytest.raises(ModelError, match=message):
        pickle.loads(data)  # noqa: S301 - our own bytes
    kept.replace(path)
    assert pickle.loads(data).num_tasks == 2  # noqa: S301 - our own bytes
    path.unlink()
    with pytest.raises(ModelError, match=r"out\.onnx: no such file"):
        pickle.loads(data)  # noqa: S301 - our own bytes


def test_a_model_whose_file_has_changed_is_not_pickled(path: Path) -> None:
    model = supsup.load(path)
    path.write_bytes(path.read_bytes() + b"\x12\x01a")
    with pytest.raises(ModelError, match="the file has changed since the model was loaded"):
        pickle.dumps(model)


def test_a_model_with_options_of_onnx_runtime_is_not_pickled(path: Path) -> None:
    import onnxruntime

    model = supsup.load(path, sess_options=onnxruntime.SessionOptions())
    with pytest.raises(InputError, match="with sess_options cannot be pickled or copied"):
        copy.deepcopy(model)
