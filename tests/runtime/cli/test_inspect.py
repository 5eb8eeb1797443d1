"""What supsup-inspect says that a model needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from banks import make_bank
from commands import run
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.evaluation import needs
from supsup_runtime.hopfield.file import encode_into


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    bank = make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    export(bank, folder / "full.onnx")
    export(bank, folder / "infer.onnx", request=Request(outputs=("task", "logits")))
    encode_into(bank, bank.task_names)
    export_recovery(bank, folder / "recover.onnx")
    export_recovery(bank, folder / "stream.onnx", stream=True)
    return folder


def inspect(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("supsup-inspect", *arguments, "--json").stdout)
    return found


def test_needs_are_estimated_unless_measured(folder: Path) -> None:
    estimated = inspect(folder / "full.onnx")
    assert estimated["memory"] == "estimated"
    assert estimated["task_cache_bytes"] == 4 * (estimated["masked_weights"])
    assert estimated["opsets"] == {"ai.onnx": 18, "com.microsoft": 1}
    assert {"Gemm", "If", "com.microsoft.MatMulNBits"} <= set(estimated["operators"])
    assert "known_ms" not in estimated
    measured = inspect(folder / "full.onnx", "--measure")
    assert measured["memory"] == "measured"
    for key in ("load_peak_bytes", "resident_bytes"):
        assert 0.5 * estimated[key] < measured[key] < 1.5 * estimated[key]
    assert measured["resident_bytes"] <= measured["load_peak_bytes"]
    text = run("supsup-inspect", folder / "full.onnx").stdout
    assert "  memory: estimated\n" in text
    assert "  opsets: ai.onnx 18, com.microsoft 1\n" in text


def test_calls_are_timed_where_the_model_can(folder: Path) -> None:
    full = inspect(folder / "full.onnx", "--time", "--threads", 2)
    assert full["known_ms"] > 0
    assert full["inferred_ms"] > 0
    assert full["threads"] == 2
    infer = inspect(folder / "infer.onnx", "--time")
    assert infer["known_ms"] is None
    assert infer["inferred_ms"] > 0
    assert infer["task_cache_bytes"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["masks", "--time"], "--time needs a model, got a folder"),
        (["masks", "--measure"], "--measure needs a model, got a folder"),
        (["full.onnx", "--storage"], "--storage needs a bank, got a file"),
        (["stream.onnx", "--time"], "--time does not apply to a model of mode recover-stream"),
        (
            ["stream.onnx", "--measure"],
            "--measure does not apply to a model of mode recov",
        ),
        (["recover.onnx", "--time"], "--time does not apply to a model of mode recover"),
    ],
)
def test_what_does_not_apply_is_refused(folder: Path, options: list[str], message: str) -> None:
    done = run("supsup-inspect", folder / options[0], *options[1:], status=1)
    assert f"supsup-inspect: {folder / options[0]}: {message}" in done.stderr


def test_a_model_that_recovers_is_measured(folder: Path) -> None:
    assert inspect(folder / "recover.onnx", "--measure")["resident_bytes"] > 0


def test_threads_without_a_measurement_are_refused(folder: Path) -> None:
    done = run("supsup-inspect", folder / "full.onnx", "--threads", 2, status=1)
    assert "--threads applies to --measure and --time" in done.stderr


def test_errors_of_the_process_are_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^threads must be an integer in \[1, 1024\], got 5000$"):
        needs.measure_memory(folder / "full.onnx", threads=5000)
    (folder / "garbage.onnx").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"garbage.onnx: not an ONNX model"):
        needs.measure_memory(folder / "garbage.onnx")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match=r"full.onnx: loading it was killed \(status 1\)"):
        needs.measure_memory(folder / "full.onnx")


def test_nothing_in_the_working_folder_is_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import sys\nsys.exit('run')\n")
    monkeypatch.chdir(tmp_path)
    assert needs.measure_memory(folder / "full.onnx")["resident_bytes"] > 0


def test_memory_is_measured_on_linux_alone() -> None:
    assert needs.process_bytes("VmRSS") > 0
    with pytest.raises(InputError, match="must have VmNone, got none; it needs Linux"):
        needs.process_bytes("VmNone")
