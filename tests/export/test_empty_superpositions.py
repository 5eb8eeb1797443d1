"""A superposition of no tasks reaches no operator that fails on CUDA without values."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from banks import make_bank
from supsup_export import Request, export
from supsup_runtime.arrays import Array
from supsup_runtime.model.metadata import Target

TAKE_NOTHING = {"Concat", "Gather", "Identity", "Reshape", "Shape", "Size"}
"""Operators whose kernels on an H200 took empty values, or that run on the host."""


def ran(path: Path, folder: Path, feeds: dict[str, Array]) -> list[dict[str, Any]]:
    """Return what ONNX Runtime's profile says of each node that ran."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, feeds)
    profile = Path(session.end_profiling())
    del session
    gc.collect()
    events = [event["args"] for event in json.loads(profile.read_text()) if "args" in event]
    return [event for event in events if "input_type_shape" in event]


@pytest.mark.parametrize("model", ["cnn", "mlp-7-9"])
@pytest.mark.parametrize("target", ["cuda", "portable"])
@pytest.mark.parametrize(
    ("infer", "per_image"), [(False, False), (True, False), (True, True)], ids=str
)
def test_no_sum_of_nothing(
    model: str, target: Target, infer: bool, per_image: bool, tmp_path: Path
) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=6, real_outputs=4, tasks=5)
    path = export(bank, tmp_path / "out.onnx", request=Request(target=target), check=False).path
    feeds: dict[str, Array] = {
        "x": np.ones((3, *bank.network.input_shape), np.float32),
        "tasks": np.zeros(0, np.int64),
        "alphas": np.zeros(0, np.float32),
        "infer": np.array(infer),
        "per_image": np.array(per_image),
    }
    events = ran(path, tmp_path, feeds)
    empty = {
        event["op_name"]
        for event in events
        if any(0 in shape for each in event["input_type_shape"] for shape in each.values())
    }
    assert {"MatMul", "Size"} <= {event["op_name"] for event in events}
    assert "Size" in empty
    assert empty <= TAKE_NOTHING
