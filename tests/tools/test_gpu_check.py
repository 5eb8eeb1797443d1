"""The GPU check, with the CPU in place of the GPU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tools.benchmarks.models import make_models, masks_bank
from tools.benchmarks.questions import difference
from tools.gpu_check import _run, check, placed

from supsup_export.exporter import export
from supsup_runtime.console import run_command
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.model import Model, load
from tools import cuda_kernels, gpu_check

pytestmark = pytest.mark.slow

TARGETS = ("cuda", "portable")
CPUS: dict[str, Any] = {"cpu": {}, "cuda": {"providers": ["CPUExecutionProvider"]}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "models"
    make_models(folder, "cuda", model="mlp-30-20", inputs=64, tasks=(3,))
    return folder


def test_every_model_is_compared_profiled_and_timed(models: Path, tmp_path: Path) -> None:
    (models / "other.onnx").write_bytes(b"of somebody else")
    file = tmp_path / "out.json"
    results = {row["model"]: row for row in check(models, file, budget=99, devices=CPUS)}
    assert json.loads(file.read_text())["models"] == list(results.values())
    assert json.loads(file.read_text())["measured"]
    assert results.pop("other.onnx")["left_out"][0].startswith("ModelError")
    asked = {name: [c["question"] for c in row["checks"]] for name, row in results.items()}
    full = ["known", "one-shot", "rows", "verified"]
    assert asked == {
        **{f"{kind}-{target}.onnx": full for kind in ("cnn", "tasks-3") for target in TARGETS},
        "cnn-infer.onnx": ["one-shot"],
        "cnn-known.onnx": ["known"],
        "cnn-parameters.onnx": ["known"],
        "recover.onnx": ["known", "step", "recovery"],
    }
    for row in results.values():
        assert {(c["ok"], c["difference"]) for c in row["checks"]} == {(True, 0)}
        assert set(row["nodes"]) == set(CPUS)
    nodes = results["tasks-3-cuda.onnx"]["nodes"]["cuda"]
    assert all(name.startswith("CPUExecutionProvider ") for name in nodes)
    assert nodes["CPUExecutionProvider MatMulNBits"] >= 4  # the graph's
    assert "CPUExecutionProvider FusedGemm" in nodes or "CPUExecutionProvider Gemm" in nodes
    times = [row["case"] for row in results["tasks-3-cuda.onnx"]["times"]]
    calls = ("known", "one-shot", "one-shot, bound", "each of 32 images")
    assert times == [f"{call}, {device}" for device in CPUS for call in calls]
    unexpected = results["tasks-3-cuda.onnx"]["unexpected"]
    assert "MatMulNBits" in unexpected.pop("cuda")  # the CPU is no device for it
    assert not unexpected
    assert results["tasks-3-cuda.onnx"]["copied"] == {"cpu": 0, "cuda": 0}
    assert json.loads(file.read_text())["table"] is None


def test_the_largest_copy_is_told() -> None:
    """If it is a bank's, the bank does not stay on the device."""
    node = {"profile": "p", "node": "n", "provider": "CUDAExecutionProvider"}
    events: list[dict[str, Any]] = [
        {**node, "op_name": "MemcpyToHost", "output_size": "8"},
        {**node, "op_name": "MemcpyFromHost", "output_size": "4000"},
        {**node, "op_name": "MatMul", "output_size": "5000"},
        {**node, "op_name": "MatMul", "output_size": "5000"},
    ]
    counts, largest = placed(events)
    assert largest == 4000
    assert counts["CUDAExecutionProvider MatMul"] == 1


def test_a_wheel_that_crashes_when_it_lists_its_kernels_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    wheel = SimpleNamespace(get_available_providers=lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(gpu_check, "import_onnxruntime", lambda: wheel)
    monkeypatch.setattr(cuda_kernels, "__file__", str(program))
    told = "unknown: ONNX Runtime ended with -11 when it listed its kernels"
    assert gpu_check._differing() == [told]
    program.write_text("print('[\"Abs: no float\"]')")
    assert gpu_check._differing() == ["Abs: no float"]


def test_models_that_are_not_for_cuda_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = masks_bank(tmp_path / "bank", "mlp-30-20", tasks=2)
    (tmp_path / "models").mkdir()
    export(bank, tmp_path / "models/cpu.onnx", check=False)

    def refused(file: Path, **where: Any) -> Model:
        if "providers" in where:
            raise ModelError(f"{file}: target must be cuda or portable")
        return load(file, **where)

    monkeypatch.setattr("tools.benchmarks.questions.load", refused)
    (row,) = check(tmp_path / "models", None, budget=99, devices=CPUS)
    assert row["left_out"][0].startswith("ModelError: ")
    assert all(each["ok"] for each in row["checks"])


def test_what_fails_on_the_device_is_a_finding(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command continues, then exits as for any difference."""
    infer_task, calls = Model.infer_task, []

    def failing(self: Model, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the method
        calls.append(args)
        if len(calls) % 2 == 0:
            raise RuntimeError("no kernel")
        return infer_task(self, *args, **kwargs)

    monkeypatch.setattr(Model, "infer_task", failing)
    monkeypatch.setattr(check, "__kwdefaults__", {"devices": CPUS})
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(models)])
    with pytest.raises(SystemExit) as done:
        run_command("gpu_check", _run)
    assert done.value.code == 4
    said = capsys.readouterr()
    assert "RuntimeError: no kernel" in said.out
    assert all(f"{kind}-cuda.onnx" in said.err for kind in ("cnn", "tasks-3"))
    assert "recover" not in said.err


def test_time_that_is_over_leaves_out_the_rest(models: Path) -> None:
    for row in check(models, None, budget=0, devices=CPUS):
        assert row["left_out"] == ["cpu", "cuda"]


def test_without_cuda_nothing_is_measured(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, program = tmp_path / "out.json", tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho A GPU, 1.0, 2 MiB\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "argv", ["gpu_check", str(models), "--json", str(file)])
    with pytest.raises(SystemExit) as done:
        run_command("gpu_check", _run)
    assert done.value.code == 5
    assert "gpu_check: nothing was measured: device 'cuda' needs" in capsys.readouterr().err
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as skipped:
        run_command("gpu_check", _run)
    assert skipped.value.code == 0
    said = "skipped: no GPU; nothing was measured: device 'cuda' needs CUDAExecutionProvider"
    assert capsys.readouterr().out.startswith(said)
    found = json.loads(file.read_text())
    assert (found["gpu"], found["measured"]) == (None, False)
    assert found["reason"].startswith("nothing was measured: device 'cuda' needs")
    with pytest.raises(InputError, match="files, got none; --make"):
        check(tmp_path / "none", None, budget=9)


def test_a_difference_is_relative_and_nan_is_none_that_fits() -> None:
    one = np.array([1.0, -4, -np.inf])
    assert difference(one, np.array([1.0, -3, 7])) == 0.25
    assert np.isnan(difference(one, np.array([np.nan, -4, 0])))
    assert difference(one, np.full(3, -np.inf)) == np.inf
    assert difference(np.array([True, False]), np.array([True, True])) == 0.5
