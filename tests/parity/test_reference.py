"""The reference of an export's check equals task by task sums in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from banks import make_bank
from supsup_export.bank_model.reference import Reference
from supsup_runtime.bank.bits import unpack_mask


@pytest.mark.parametrize("chunk", [1, 300, 1 << 19])
@pytest.mark.parametrize(("model", "tasks"), [("mlp-7-9", 1), ("mlp-7-9", 9), ("cnn", 3)])
def test_superpositions_and_scores_are_numpys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, tasks: int, chunk: int
) -> None:
    monkeypatch.setattr("supsup_export.bank_model.reference._CHUNK_WEIGHTS", chunk)
    bank = make_bank(tmp_path / "masks", model, outputs=6, real_outputs=4, tasks=tasks)
    network, reference = bank.network, Reference(bank)
    weights = dict(zip([p.name for p in network.parameters], network.weights(), strict=True))
    each = []
    for task in bank:
        masks = {p.name: unpack_mask(task.masks[p.name], p.shape) for p in network.parameters}
        each.append({name: weights[name] * bits for name, bits in masks.items()} | dict(task.state))
    for given, alphas in (([], [1 / tasks] * tasks), ([tasks - 1, 0], [0.3, 0.7])):
        got = reference.superposed(given, alphas if given else [])
        assert got.keys() == each[0].keys()
        for name, value in got.items():
            pairs = zip(given or range(tasks), alphas, strict=True)
            want = sum(alpha * each[i][name].astype(np.float64) for i, alpha in pairs)
            np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-7)  # rounded to float32
    alone = reference.superposed([0], [1.0])
    for name, value in each[0].items():
        np.testing.assert_array_equal(alone[name], value)
    rng = np.random.default_rng(0)
    gradients = [
        {n: rng.standard_normal(v.shape).astype("f4") for n, v in alone.items()} for _ in range(2)
    ]
    scores, spread = reference.scores(gradients)
    for gradient, row, width in zip(gradients, scores, spread, strict=True):
        whole = {name: value.astype(np.float64) for name, value in gradient.items()}
        scored = [-sum((whole[n] * values[n]).sum() for n in whole) for values in each]
        np.testing.assert_allclose(row, scored, rtol=0, atol=1e-12 * np.abs(scored).max())
        square = sum(np.square(whole[n] * w).sum() for n, w in weights.items())
        assert width == pytest.approx(0.5 * np.sqrt(square))
