"""A trained task as a model of its own: two bits a weight cost no accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import supsup_runtime as supsup
import supsup_train as st
from shared_data import shared_data
from supsup_export.exporter import export_task
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.model.session import open_session

TASK = 77


def test_two_bits_classify_as_float32_does(tmp_path: Path) -> None:
    masks = np.load(shared_data("permuted-mnist-lenet-250") / "masks.npz", allow_pickle=False)
    lenet = st.make_model("lenet-300-100", input_shape=(784,), outputs=100)
    bank = st.create_bank(tmp_path / "masks", lenet, input_shape=(784,), real_outputs=10)
    name = f"permuted-{TASK:04}"
    packed = {f"layers.{i}.weight": masks[f"m{i}"][TASK] for i in range(3)}
    bank.add(supsup.TaskMasks(name=name, masks=packed))
    stream = make_stream("permuted", load_dataset(shared_data("mnist")), num_tasks=TASK + 1)
    data = stream.task(TASK, train=False)
    accuracy, size = {}, {}
    for bits in (32, 2):
        report = export_task(bank, name, tmp_path / f"{bits}.onnx", bits=bits)
        session = open_session(report.path, place=str(report.path))
        logits = session.run(["logits"], {"x": data.test_x})[0]
        accuracy[bits] = float((logits[:, :10].argmax(axis=1) == data.test_y).mean())
        size[bits] = report.model_bytes
    assert len(data.test_x) == 10_000
    assert abs(accuracy[32] - masks["accuracy"][TASK]) <= 5e-4
    assert abs(accuracy[2] - accuracy[32]) <= 1e-3
    assert size[2] <= size[32] / 13  # rows of 784 weights are padded to 896
