"""What is said of models that this processor is slow with."""

from __future__ import annotations

import json
import logging
import platform
import sys
from pathlib import Path

import pytest

from banks import make_bank
from commands import run
from supsup_export import Request, export, export_task
from supsup_runtime import load
from supsup_runtime.errors import ModelError
from supsup_runtime.model import host, loading

SLOW = "--target cpu is slow on this processor, which lacks dotprod; --target portable is faster"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host")
    bank = make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    export(bank, folder / "cpu.onnx")
    export(bank, folder / "infer.onnx", request=Request(outputs=("task", "logits")))
    export(bank, folder / "portable.onnx", request=Request(target="portable"))
    export(bank, folder / "known.onnx", request=Request(outputs=("logits",)))
    export_task(bank, "task-0", folder / "two-bits.onnx", bits=2)
    export_task(bank, "task-0", folder / "floats.onnx")
    return folder


def pretend(
    patch: pytest.MonkeyPatch, machine: str, system: str = "linux", **features: bool
) -> None:
    """Be a processor with these features, where nothing was said yet."""
    patch.setattr(platform, "machine", lambda: machine)
    patch.setattr(sys, "platform", system)
    patch.setattr(host, "_features", lambda: features)
    loading._warn_once.cache_clear()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "aarch64", ASIMD=True, ASIMDDP=False)


@pytest.mark.parametrize(
    ("machine", "system", "features", "lacks"),
    [
        ("x86_64", "linux", {"AVX2": True}, ""),
        ("x86_64", "linux", {"AVX2": False}, "AVX2"),
        ("AMD64", "win32", {"AVX2": False}, "AVX2"),
        ("aarch64", "linux", {"ASIMDDP": True, "AVX2": False}, ""),
        ("aarch64", "linux", {"ASIMDDP": False, "AVX2": False}, "dotprod"),
        ("arm64", "darwin", {"ASIMDDP": False}, ""),
        ("ARM64", "win32", {"ASIMDDP": False}, ""),
        ("aarch64", "linux", {}, ""),
        ("riscv64", "linux", {"AVX2": False, "ASIMDDP": False}, ""),
    ],
)
def test_what_a_processor_lacks(
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    system: str,
    features: dict[str, bool],
    lacks: str,
) -> None:
    pretend(monkeypatch, machine, system, **features)
    assert host.lacking() == lacks


def test_numpy_knows_this_processor() -> None:
    features = host._features()
    assert {"AVX2", "ASIMDDP"} <= set(features)


def test_an_unknown_processor_gets_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy._core._multiarray_umath", None)
    assert host._features() == {}
    assert host.lacking() == ""


@pytest.mark.usefixtures("slow")
def test_load_says_once_what_is_faster_here(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="supsup")
    for name in ("portable", "known"):
        load(folder / f"{name}.onnx")
    assert caplog.messages == []
    for name in ("cpu", "infer", "cpu"):
        load(folder / f"{name}.onnx")
    assert caplog.messages == [SLOW]


@pytest.mark.usefixtures("slow")
def test_inspect_says_it_of_each_model(folder: Path) -> None:
    said = {}
    for name in ("cpu", "infer", "portable", "known"):
        shown = json.loads(run("supsup-inspect", folder / f"{name}.onnx", "--json").stdout)
        said[name] = shown["advice"]
    assert said == {"cpu": SLOW, "infer": SLOW, "portable": None, "known": None}
    assert f"  advice: {SLOW}\n" in run("supsup-inspect", folder / "cpu.onnx").stdout


def test_nothing_is_said_on_a_fast_processor(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, "x86_64", AVX2=True)
    load(folder / "cpu.onnx")
    assert caplog.messages == []
    assert "  advice: none\n" in run("supsup-inspect", folder / "cpu.onnx").stdout


@pytest.mark.usefixtures("slow")
def test_models_of_one_task_with_two_bits_get_the_same_advice(folder: Path) -> None:
    advice = "; --bits 2 is slow on this processor, which lacks dotprod; --bits 32 is faster"
    for name, end in (("two-bits", advice), ("floats", "")):
        with pytest.raises(ModelError) as caught:
            load(folder / f"{name}.onnx")
        assert str(caught.value).endswith(f"the runtime loads models of whole banks{end}")
