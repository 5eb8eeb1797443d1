"""A model of one task: its metadata, what is refused, and its command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import commands
import supsup_runtime as supsup
from banks import make_bank
from supsup_export.exporter import export_task
from supsup_export.task_model.parity import NUM_INPUTS
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import (
    BankError,
    InputError,
    ModelError,
    OutputExistsError,
    SupSupError,
)
from supsup_runtime.model.session import open_session


@pytest.fixture
def real_bank(tmp_path: Path) -> MaskBank:
    return make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=5)


def test_metadata_say_what_the_model_is(tmp_path: Path, real_bank: MaskBank) -> None:
    path = export_task(real_bank, "task-3", tmp_path / "one.onnx", bits=2, sidecar=True).path
    metadata = open_session(path, place="one.onnx").metadata
    assert metadata == {
        "org.supsup.bits": "2",
        "org.supsup.digest": real_bank.digest,
        "org.supsup.kind": "task",
        "org.supsup.labels": '["no","yes"]',
        "org.supsup.network": metadata["org.supsup.network"],
        "org.supsup.task": "task-3",
    }
    assert Network.from_dict(json.loads(metadata["org.supsup.network"])) == real_bank.network
    beside = json.loads((tmp_path / "one.onnx.json").read_text())
    assert beside == metadata | {"org.supsup.model_sha256": beside["org.supsup.model_sha256"]}


def test_the_runtime_says_why_it_does_not_load_it(tmp_path: Path, real_bank: MaskBank) -> None:
    path = export_task(real_bank, "task-3", tmp_path / "one.onnx").path
    with pytest.raises(ModelError, match=r"a model of one task \(task-3\): run it with ONNX Runt"):
        supsup.load(path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b, p: export_task(b, "task-0", p, bits=3), InputError, "must be 32 .* got 3"),
        (
            lambda b, p: export_task(b, "q", p),
            InputError,
            r"'q': not among the 5 tasks of .*masks: task-0, task-1, task-2, \.\.\.$",
        ),
        (
            lambda b, _: export_task(b, "task-0", b.path / "x.onnx", force=True),
            OutputExistsError,
            "lies inside the bank",
        ),
        (
            lambda b, p: export_task(b, "task-0", p.parent),
            OutputExistsError,
            "is a folder, expected the path of a file",
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    real_bank: MaskBank,
    call: Callable[[MaskBank, Path], object],
    error: type[SupSupError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        call(real_bank, tmp_path / "one.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["masks"]
    MaskBank.open(real_bank.path)


def test_an_empty_bank_has_no_task(tmp_path: Path, real_bank: MaskBank) -> None:
    bank = MaskBank.create(tmp_path / "b", real_bank.network, forward=real_bank.forward)
    with pytest.raises(InputError, match=r"'a': not among the 0 tasks of .*/b$"):
        export_task(bank, "a", tmp_path / "one.onnx")


def test_a_damaged_task_is_refused(tmp_path: Path, real_bank: MaskBank) -> None:
    file = real_bank.path / real_bank.entries[2].file
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BankError, match="the file is damaged or was changed"):
        export_task(real_bank, "task-2", tmp_path / "one.onnx")
    export_task(real_bank, "task-1", tmp_path / "one.onnx")


@pytest.mark.parametrize(("bits", "remedy"), [(32, "; export with --bits 2"), (2, "")])
def test_a_model_over_2_gb_is_refused(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch, bits: int, remedy: str
) -> None:
    monkeypatch.setattr("supsup_export.graph.MAX_MODEL_BYTES", 30)
    with pytest.raises(BankError, match=rf"at most 30 bytes, this task's .* need \d+{remedy}$"):
        export_task(real_bank, "task-0", tmp_path / "one.onnx", bits=bits)


def test_nothing_is_replaced_without_force(tmp_path: Path, real_bank: MaskBank) -> None:
    path, beside = tmp_path / "one.onnx", tmp_path / "one.onnx.json"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="exists already; pass --force"):
        export_task(real_bank, "task-0", path)
    assert path.read_text() == "precious"
    export_task(real_bank, "task-0", path, force=True, sidecar=True)
    assert beside.exists()
    export_task(real_bank, "task-1", path, force=True)
    assert not beside.exists()


def run(*arguments: object, status: int = 0) -> commands.Done:
    return commands.run("supsup-export", *arguments, status=status)


def test_the_command_makes_a_model_of_one_task(tmp_path: Path, real_bank: MaskBank) -> None:
    out = tmp_path / "one.onnx"
    done = run("--bank", real_bank.path, out, "--task", "task-2", "--bits", "2", "--json")
    report = json.loads(done.stdout)
    logits = report["parity"].pop("logits")
    labels = report["parity"].pop("same_labels")
    assert 0 < logits <= 3e-2
    assert 0 <= labels <= NUM_INPUTS
    assert report == {
        "bits": 2,
        "bytes": out.stat().st_size,
        "parity": {"inputs": NUM_INPUTS},
        "path": str(out),
        "task": "task-2",
    }
    again = run("--bank", real_bank.path, out, "--task", "task-2", status=1)
    assert again.stderr == f"supsup-export: {out}: exists already; pass --force to replace it\n"
    forced = run("--bank", real_bank.path, out, "--task", "task-2", "--force", "--no-check")
    assert forced.stdout == (
        f"{out}: task task-2, 32 bits per weight, {out.stat().st_size:,} bytes, not checked\n"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--bits", "2"], 1, "--bits: requires --task; add it, or leave out --bits"),
        (["--task", "task-0", "--bits", "8"], 2, "argument --bits: invalid choice: "),
        (["--task", "task-0", "--bits", "two"], 2, "argument --bits: invalid int value: 'two'"),
        (["--task", "q"], 1, "'q': not among the 5 tasks of"),
        (
            ["--task", "task-0", "--target", "cpu"],
            1,
            "--target: does not apply to a model of one task; leave out this option or --task",
        ),
        (["--task", "task-0", "--objective", "entropy"], 1, "--objective: does not apply"),
        (["--task", "task-0", "--graph-outputs", "task"], 1, "--graph-outputs: does not apply"),
    ],
)
def test_options_that_do_not_apply(
    tmp_path: Path, real_bank: MaskBank, arguments: list[str], status: int, message: str
) -> None:
    done = run("--bank", real_bank.path, tmp_path / "one.onnx", *arguments, status=status)
    assert done.stdout == ""
    assert message in done.stderr
    if status == 1:
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "one.onnx").exists()
