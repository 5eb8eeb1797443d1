"""The model and its sidecar: put in place whole, together, and over nothing by mistake."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from banks import make_bank
from commands import program, run, run_stopped
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError, OutputExistsError, ParityError
from supsup_runtime.files import whole_file
from supsup_runtime.model.session import open_session


def told(sidecar: Path) -> dict[str, str]:
    values: dict[str, str] = json.loads(sidecar.read_text())
    return values


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def real_bank(tmp_path: Path) -> MaskBank:
    return make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)


def test_nothing_is_replaced_without_force(tmp_path: Path, real_bank: MaskBank) -> None:
    path = tmp_path / "out.onnx"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="exists already; pass --force"):
        export(real_bank, path)
    assert path.read_text() == "precious"
    export(real_bank, path, force=True)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("sidecar", [False, True])
def test_a_sidecar_without_its_model_is_replaced_or_removed(
    tmp_path: Path, real_bank: MaskBank, sidecar: bool
) -> None:
    path, beside = tmp_path / "out.onnx", tmp_path / "out.onnx.json"
    export(real_bank, path, sidecar=True)
    path.unlink()
    beside.write_text(json.dumps({"org.supsup.model_sha256": "of another model"}))
    export(real_bank, path, sidecar=sidecar)
    assert beside.exists() == sidecar
    if sidecar:
        assert told(beside)["org.supsup.model_sha256"] == digest_of(path)


@pytest.mark.parametrize(
    "text", ["{}", "precious", '["org.supsup.model_sha256"]', '{"sha256": 1}', "[" * 10**5]
)
def test_a_file_of_others_in_the_place_of_the_sidecar_stays(
    tmp_path: Path, real_bank: MaskBank, text: str
) -> None:
    path, beside = tmp_path / "out.onnx", tmp_path / "out.onnx.json"
    beside.write_text(text)
    for sidecar in (False, True):
        with pytest.raises(OutputExistsError, match=f"^{beside}: exists already; pass --force"):
            export(real_bank, path, sidecar=sidecar)
    assert (path.exists(), beside.read_text()) == (False, text)


def test_a_sidecar_names_its_model(tmp_path: Path, real_bank: MaskBank) -> None:
    path = export(real_bank, tmp_path / "out.onnx", sidecar=True).path
    beside = told(path.with_name("out.onnx.json"))
    assert beside.pop("org.supsup.model_sha256") == digest_of(path)
    assert beside == open_session(path, place="m").metadata


KINDS: dict[str, tuple[list[str], Callable[[MaskBank, Path], object]]] = {
    "bank": ([], lambda bank, path: export(bank, path, sidecar=True)),
    "task": (
        ["--task", "task-0"],
        lambda bank, path: export_task(bank, "task-0", path, sidecar=True),
    ),
    "recovery": (["--hopfield"], lambda bank, path: export_recovery(bank, path, sidecar=True)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "left"), [("out.onnx.json", set()), ("out.onnx", {"out.onnx.json"})]
)
def test_a_killed_export_of_a_new_model_is_repeated_without_force(
    tmp_path: Path, real_bank: MaskBank, kind: str, name: str, left: set[str]
) -> None:
    if kind == "recovery":
        run("supsup-hopfield", "encode", "--bank", real_bank.path)
    path, beside = tmp_path / "out.onnx", tmp_path / "out.onnx.json"
    words, again = KINDS[kind]
    place = ("--bank", real_bank.path, path, "--sidecar")
    run_stopped(program("supsup-export"), *place, *words, event="os.rename", name=name)
    assert {p.name for p in tmp_path.glob("out*")} == left
    assert list(tmp_path.glob(".*.part"))
    again(MaskBank.open(real_bank.path), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks", "out.onnx", "out.onnx.json"]
    assert told(beside)["org.supsup.model_sha256"] == digest_of(path)


def test_a_refused_export_removes_what_killed_ones_left(
    tmp_path: Path, real_bank: MaskBank
) -> None:
    path = export(real_bank, tmp_path / "out.onnx").path
    (tmp_path / ".out.onnx.json.0123456789abcdef.part").touch()
    with pytest.raises(OutputExistsError, match="exists already"):
        export(real_bank, path, sidecar=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks", "out.onnx"]


def test_parts_go_by_a_link_to_the_folder_and_a_long_name_too(
    tmp_path: Path, real_bank: MaskBank
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    name = "m" * 230 + ".onnx"
    path = tmp_path / "link" / name
    run_stopped(program("supsup-export"), "--bank", real_bank.path, path, name=name)
    assert len(list((tmp_path / "real").iterdir())) == 1
    export(real_bank, path)
    assert [p.name for p in (tmp_path / "real").iterdir()] == [name]


def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path, real_bank: MaskBank) -> None:
    for name, to in (("loop", "loop"), ("gone", tmp_path / "none")):
        path = tmp_path / name
        path.symlink_to(to)
        export(real_bank, path)
        assert path.stat().st_size > 1000
        assert not path.is_symlink()


@pytest.mark.parametrize(
    ("event", "name", "kept"),
    [
        ("os.rename", "out.onnx", {"old", "none"}),  # the sidecar is removed, the model not moved
        ("os.rename", "out.onnx.json", {"new", "none"}),  # the model moved, the sidecar not
    ],
)
def test_a_kill_leaves_no_sidecar_of_another_model(
    tmp_path: Path, real_bank: MaskBank, event: str, name: str, kept: set[str]
) -> None:
    path, beside = tmp_path / "out.onnx", tmp_path / "out.onnx.json"
    old = export(real_bank, path, sidecar=True, request=Request(target="portable")).path
    whole = old.read_bytes()
    arguments = ["--bank", real_bank.path, path, "--force", "--sidecar"]
    run_stopped(program("supsup-export"), *arguments, event=event, name=name, count=1)
    left = {"old" if path.read_bytes() == whole else "new", "none" if not beside.exists() else "a"}
    assert left == kept
    assert list(tmp_path.glob(".*.part"))
    export(real_bank, path, sidecar=True, force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks", "out.onnx", "out.onnx.json"]


def test_what_killed_exports_left_is_removed_and_no_more(
    tmp_path: Path, real_bank: MaskBank
) -> None:
    others = [".other.onnx.0123456789abcdef.part", ".out.onnx.txt", "out.onnx.a.part"]
    left = [".out.onnx.0123456789abcdef.part", ".out.onnx.json.0123456789abcdef.part"]
    for name in (*others, *left):
        (tmp_path / name).touch()
    (tmp_path / ".out.onnx.link.part").symlink_to(tmp_path / others[0])
    os.mkfifo(tmp_path / ".out.onnx.pipe.part")
    with whole_file(tmp_path / "out.onnx") as writing:  # another export, which lives
        export(real_bank, tmp_path / "out.onnx")
        assert writing.exists()
    here = {path.name for path in tmp_path.iterdir()}
    assert here >= set(others)
    assert not here & set(left)


def test_a_missing_folder_is_refused_before_any_work(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in ("lay_out", "compose_task", "read_store"):
        monkeypatch.setattr(f"supsup_export.exporter.{work}", None)
    path = tmp_path / "missing" / "out.onnx"
    message = f"^{path}: the folder {path.parent} does not exist; create it first$"
    with pytest.raises(InputError, match=message):
        export(real_bank, path)
    with pytest.raises(InputError, match=message):
        export_task(real_bank, "task-0", path)
    with pytest.raises(InputError, match=message):
        export_recovery(real_bank, path)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_refused_by_any_name(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "..", "../here", "/"):
        with pytest.raises(OutputExistsError, match=r": is a folder, expected the path of a file$"):
            export(real_bank, name, force=force)


def test_a_bank_is_not_overwritten(real_bank: MaskBank) -> None:
    for name in ("bank.json", "new.onnx", "tasks/task-0.safetensors"):
        with pytest.raises(OutputExistsError, match="lies inside the bank"):
            export(real_bank, real_bank.path / name, force=True)
    MaskBank.open(real_bank.path)


def test_a_wrong_model_is_not_put_in_place(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check compares with the bank, so another seed's signs in the graph must fail it."""
    monkeypatch.setattr(
        "supsup_runtime.bank.network.sign_plane",
        lambda _seed, _index, size: np.zeros(-(-size // 8), np.uint8),
    )
    path = tmp_path / "out.onnx"
    path.write_text("precious")
    with pytest.raises(ParityError, match=r"parameters of tasks \[0\] differs by .* nothing was"):
        export(real_bank, path, force=True)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "name", "count"), [("open", ".part", 2), ("os.rename", "out.onnx", 1)]
)
def test_a_kill_leaves_the_old_model(
    tmp_path: Path, real_bank: MaskBank, event: str, name: str, count: int
) -> None:
    path = tmp_path / "out.onnx"
    whole = export(real_bank, path).path.read_bytes()
    arguments = ["--bank", real_bank.path, path, "--force"]
    run_stopped(program("supsup-export"), *arguments, event=event, name=name, count=count)
    assert path.read_bytes() == whole


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, real_bank: MaskBank) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    command = [program("supsup-export"), "--bank"]
    command += [str(real_bank.path), str(tmp_path / "out.onnx")]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masks"]
