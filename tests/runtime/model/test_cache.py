"""The weights of recent tasks that a model keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from supsup_export.exporter import export
from supsup_runtime.model.session import BoundProgram

X = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=6)
    return export(bank, tmp_path / "out.onnx").path


def task_bytes(path: Path) -> int:
    network = supsup.load(path).info.network
    return 4 * (network.num_masked + network.num_state)


def test_by_default_a_task_of_any_size_is_cached(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supsup_runtime.model.engine.DEFAULT_CACHE_BYTES", 10)
    assert supsup.load(path)._engine.max_cached == 1


def test_the_cache_keeps_to_its_size(path: Path) -> None:
    one = task_bytes(path)
    model = supsup.load(path, cache_bytes=2 * one + 1)
    first = model.predict(X, 0).logits
    for task in (1, 2, 3, 0):
        model.predict(X, task)
        assert model.cached_bytes <= 2 * one
    np.testing.assert_array_equal(model.predict(X, 0).logits, first)


def test_the_least_recently_used_task_leaves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = supsup.load(path, cache_bytes=2 * task_bytes(path))
    bind, fetched = model._engine._bind, []

    def counted(task_index: int) -> BoundProgram:
        fetched.append(task_index)
        return bind(task_index)

    monkeypatch.setattr(model._engine, "_bind", counted)
    for task in (0, 1, 0, 2, 0, 1):
        model.predict(X, task)
    assert fetched == [0, 1, 2, 1]
