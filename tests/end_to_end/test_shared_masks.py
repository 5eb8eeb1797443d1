"""The 250 trained masks through the public API: bank, export, evaluation (a sample of tasks)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
import supsup_train as st
from parity.plain import numpy_scores
from shared_data import shared_data
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.evaluation import evaluate_task

CHECKED = (0, 1, 77, 249)


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> supsup.MaskBank:
    masks = np.load(shared_data("permuted-mnist-lenet-250") / "masks.npz", allow_pickle=False)
    path = tmp_path_factory.mktemp("shared") / "masks"
    lenet = st.make_model("lenet-300-100", input_shape=(784,), outputs=100)
    bank = st.create_bank(path, lenet, input_shape=(784,), real_outputs=10)
    bank.extend(
        supsup.TaskMasks(
            name=f"permuted-{k:04}",
            masks={f"layers.{i}.weight": masks[f"m{i}"][k] for i in range(3)},
            training={"accuracy": float(masks["accuracy"][k])},
        )
        for k in range(250)
    )
    return bank


@pytest.mark.parametrize("objective", ["entropy", "superfluous"])
def test_250_tasks_of_mnist(bank: supsup.MaskBank, tmp_path: Path, objective: str) -> None:
    report = export(bank, tmp_path / "out.onnx", request=Request(objective=objective))
    row_bytes = 34_400  # 275,200 weights are 1075 times 256
    limit = 1.10 * 251 * row_bytes + 2 * 275_200 + (64 << 10)
    assert report.model_bytes <= limit
    model = supsup.load(report.path)
    stream = make_stream("permuted", load_dataset(shared_data("mnist")), num_tasks=250)
    inferred = 0.0
    for index in CHECKED:
        data = stream.task(index, train=False)
        row = evaluate_task(model, data, per_task=25, method="one-shot")
        stored = bank.task(index).training["accuracy"]
        assert abs(row["known"] - stored) * len(data.test_x) <= 5
        inferred += row["inferred"] / len(CHECKED)
        want = numpy_scores(bank, data.test_x[:1], np.full(250, 1 / 250), objective)
        got = model.infer_task(data.test_x[:1], method="one-shot").scores
        assert np.abs(got - want).max() <= 3e-5 * np.abs(want).max()
        assert got.argmax() == want.argmax()
    assert inferred >= 0.99  # 100 images; the whole measurement is in docs/REPRODUCIBILITY.md
