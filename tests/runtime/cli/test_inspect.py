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
from supsup_export.exporter import export
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.evaluation import needs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    bank = make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    export(bank, folder / "full.onnx")
    export(bank, folder / "infer.onnx", request=Request(outputs=("task", "logits")))
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
        assert 0 < measured[key] < 3 * estimated[key]
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
    ],
)
def test_what_does_not_apply_is_refused(folder: Path, options: list[str], message: str) -> None:
    done = run("supsup-inspect", folder / options[0], *options[1:], status=1)
    assert done.stderr == f"supsup-inspect: {folder / options[0]}: {message}\n"


def test_a_process_that_fails_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"none.onnx: a process that loads it fails: .*no such"):
        needs.measure_memory(folder / "none.onnx", recovers=False)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match="fails: it was killed"):
        needs.measure_memory(folder / "full.onnx", recovers=False)


def test_memory_is_measured_on_linux_alone() -> None:
    assert needs.process_bytes("VmRSS") > 0
    with pytest.raises(InputError, match="must have VmNone, got none; it needs Linux"):
        needs.process_bytes("VmNone")
