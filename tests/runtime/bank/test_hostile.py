"""Banks of strangers, and folders in which another user can write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import run
from conftest import random_task, small_network
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.task import encode_task
from supsup_runtime.errors import BankError, FileError, OutputExistsError


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / "bank.json").read_text())
    change(value)
    (folder / "bank.json").write_text(json.dumps(value))


def format_1(path: Path, tasks: int = 0) -> MaskBank:
    """A bank as 0.1 wrote it."""
    MaskBank.create(path, small_network(), forward=b"forward", gradient=b"gradient")
    edit(path, lambda value: value.update(format=1))
    bank = MaskBank.open(path)
    bank.extend(random_task(bank.network, f"task-{i}", seed=i) for i in range(tasks))
    return bank


Network = dict[str, Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.update(input_shape=[10**4000]), "input_shape must be positive, with 0 to 32"),
        (lambda n: n.update(input_shape=[2] * 33), "input_shape must be positive, with 0 to 32"),
        (lambda n: n.update(input_shape=[2**33, 2]), "at most 8589934592 elements"),
        (lambda n: n.update(outputs=10**4000), r"outputs must be an integer in \[1, 2147"),
        (lambda n: n.update(real_outputs=10**4000), "real_outputs must be an integer in"),
        (lambda n: n.update(weight_seed=10**4000), "weight_seed must be an integer in"),
        (lambda n: n["parameters"][0].update(shape=[10**4298] * 240), "shape of 'first' must be"),
        (lambda n: n["parameters"][0].update(shape=[1] * 33), "with 1 to 32 sizes"),
        (lambda n: n["parameters"][0].update(constant=1e39), "finite and positive in float32"),
        (lambda n: n["parameters"][0].update(constant=1e-46), "finite and positive in float32"),
        (lambda n: n["parameters"][0].update(name="x" * 10**5), "digest must be"),
    ],
)
def test_numbers_of_an_index_are_bounded_before_they_are_multiplied(
    bank: MaskBank, change: Callable[[Network], object], message: str
) -> None:
    edit(bank.path, lambda value: change(value["network"]))
    with pytest.raises(BankError, match=message) as caught:
        MaskBank.open(bank.path)
    assert len(str(caught.value)) < 500


def test_no_name_makes_a_message_of_its_own_length(bank: MaskBank) -> None:
    edit(bank.path, lambda value: value["network"].update({"x" * 10**6: 1}))
    with pytest.raises(BankError, match="fields must be") as caught:
        MaskBank.open(bank.path)
    assert len(str(caught.value)) < 500


def test_what_is_no_regular_file_is_refused_at_once(bank: MaskBank) -> None:
    """A reader of a pipe would wait for ever."""
    for name in ("bank.json", bank.entries[1].file, "programs/forward.onnx", ".lock"):
        path = bank.path / name
        kept = path.read_bytes()
        for make in (os.mkfifo, os.mkdir):
            path.unlink()
            make(path)
            with pytest.raises(BankError, match=f"{path}: must be a regular file, is a folder, p"):
                MaskBank.open(bank.path).remove("task-0")
            (os.rmdir if make is os.mkdir else os.unlink)(path)
            path.write_bytes(kept)
    MaskBank.open(bank.path)


def test_a_lock_that_is_a_link_creates_nothing(bank: MaskBank, tmp_path: Path) -> None:
    (bank.path / ".lock").unlink()
    (bank.path / ".lock").symlink_to(tmp_path / "outside")
    with pytest.raises(BankError, match="lock: symbolic links are refused in a bank"):
        bank.remove("task-0")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("name", ["tasks", "programs"])
def test_a_creation_writes_nothing_through_links(tmp_path: Path, name: str) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".mine.part").write_bytes(b"of another")
    (tmp_path / "bank" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BankError, match=f"{name}: symbolic links are refused"):
        MaskBank.create(tmp_path / "bank", small_network(), forward=b"f")
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == [".mine.part"]


def test_links_that_appear_while_writing_lose_nothing(bank: MaskBank, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".mine.part").write_bytes(b"of another")
    for name in ("tasks", "programs"):
        (bank.path / name).rename(tmp_path / "kept")
        with contextlib.suppress(BankError), bank.changing():
            (bank.path / name).symlink_to(elsewhere)
        (bank.path / name).unlink()
        (tmp_path / "kept").rename(bank.path / name)
    assert [p.name for p in elsewhere.iterdir()] == [".mine.part"]


def test_parts_that_are_folders_or_links_are_left_and_block_nothing(
    bank: MaskBank, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    left = []
    for name in ("", "tasks", "programs"):
        (bank.path / name / ".bank.json.x.part").mkdir()
        (bank.path / name / ".bank.json.y.part").symlink_to(target)
        os.mkfifo(bank.path / name / ".bank.json.z.part")
        (bank.path / name / ".bank.json.killed.part").write_bytes(b"half")
        left += [bank.path / name / f".bank.json.{c}.part" for c in "xyz"]
    bank.add(random_task(bank.network, "new"))
    assert sorted(bank.path.rglob("*.part")) == sorted(left)
    assert target.read_bytes() == b"kept"


def test_a_large_foreign_folder_is_refused_without_a_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    monkeypatch.setattr(Path, "rglob", lambda *_: pytest.fail("walked the tree"))
    with pytest.raises(OutputExistsError, match="is not an empty folder"):
        MaskBank.create(tmp_path / "usr", small_network(), forward=b"f")


def test_what_the_system_refuses_is_one_line(tmp_path: Path, bank: MaskBank) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "bank", Path("/proc/nowhere/bank")):
        with pytest.raises((FileError, OutputExistsError), match=f"^{path}: .*; ") as caught:
            MaskBank.create(path, bank.network, forward=b"f")
        assert "\n" not in str(caught.value)


def test_a_bank_of_format_1_stays_one(tmp_path: Path) -> None:
    bank = format_1(tmp_path / "old", tasks=2)
    bank.rename("task-0", "renamed")
    opened = MaskBank.open(bank.path)
    assert (opened.format, opened.task_names) == (1, ("renamed", "task-1"))
    for entry, task in zip(opened.entries, opened, strict=True):
        data = (bank.path / entry.file).read_bytes()
        assert data == encode_task(task, bank.network, bank.digest, version=1)


def test_an_upgrade_changes_the_index_alone(tmp_path: Path) -> None:
    bank = format_1(tmp_path / "old", tasks=2)
    numbers = {"threshold": 1.0, "coverage": 1.0, "images": 10, "auroc": None, "accepted": None}
    bank.set_calibration(Calibration.from_dict({"score": "entropy", **numbers}))
    kept = {p: p.read_bytes() for p in bank.path.rglob("*") if p.is_file()}
    digest = bank.digest
    bank.upgrade()
    now = {p: p.read_bytes() for p in bank.path.rglob("*") if p.is_file()}
    assert [p.name for p in kept if kept[p] != now[p]] == ["bank.json"]
    index = bank.path / "bank.json"
    assert now[index] == kept[index].replace(b'"format": 1', b'"format": 2')
    bank.upgrade()  # again: nothing to do
    assert index.read_bytes() == now[index]
    bank.add(random_task(bank.network, "new"))
    opened = MaskBank.open(bank.path)
    assert (opened.format, opened.digest, len(opened)) == (2, digest, 3)
    stored = opened.calibration()
    assert stored is not None
    assert stored.stale == "task 'new' was added or renamed since"


def test_a_task_of_format_2_waits_for_the_upgrade(tmp_path: Path) -> None:
    bank = format_1(tmp_path / "old")
    file = tmp_path / "new.safetensors"
    file.write_bytes(encode_task(random_task(bank.network, "new"), bank.network, bank.digest))
    refused = run("supsup-bank", "add", bank.path, file, status=3).stderr
    assert refused == (
        f"supsup-bank: {file}: a task of format 2 needs a bank of that format, got a bank of "
        "format 1; run supsup-bank upgrade on the bank first\n"
    )
    done = run("supsup-bank", "upgrade", bank.path)
    assert done.stdout == f"{bank.path}: format 1 is now format 2; 0 tasks\n"
    run("supsup-bank", "add", bank.path, file)
    assert MaskBank.open(bank.path).task_names == ("new",)
    old = encode_task(random_task(bank.network, "old"), bank.network, bank.digest, version=1)
    file.write_bytes(old)
    run("supsup-bank", "add", bank.path, file)  # an old task goes into a new bank


def test_flipped_bytes_of_a_task_are_refused_by_add(bank: MaskBank, tmp_path: Path) -> None:
    data = bytearray(encode_task(random_task(bank.network, "new"), bank.network, bank.digest))
    data[-1] ^= 1
    (tmp_path / "new").write_bytes(data)
    said = run("supsup-bank", "add", bank.path, tmp_path / "new", status=3).stderr
    assert f"{tmp_path / 'new'}: the task is damaged or was changed: its own SHA-256" in said
    assert len(MaskBank.open(bank.path)) == 3


def test_equal_tasks_are_told(bank: MaskBank) -> None:
    bank.add(random_task(bank.network, "again", seed=1))
    warning = (
        "supsup-bank: warning: tasks 'task-1' and 'again' have equal masks and state: inference "
        "cannot tell them apart; remove one\n"
    )
    assert run("supsup-bank", "verify", bank.path).stderr == warning
    other = bank.path / bank.entries[0].file
    assert "'other'" in run("supsup-bank", "add", bank.path, other, "--name", "other").stderr
    bank.remove("again", "other")
    assert run("supsup-bank", "verify", bank.path).stderr == ""


@pytest.mark.parametrize("accuracy", ["high", {"a": 1}, True, None])
def test_an_accuracy_that_is_no_number_is_not_listed(bank: MaskBank, accuracy: object) -> None:
    task = random_task(bank.network, "new")
    bank.add(dataclasses.replace(task, training={"accuracy": accuracy}))
    assert run("supsup-bank", "list", bank.path).stdout.splitlines()[-1].split()[-1] == "-"


def test_a_reader_meets_a_bank_that_was_upgraded_since(tmp_path: Path) -> None:
    bank = format_1(tmp_path / "old", tasks=1)
    reader = MaskBank.open(bank.path)
    bank.upgrade()
    bank.replace(random_task(bank.network, "task-0", seed=9))
    assert reader.format == 1
    assert reader.task("task-0").masks["first"].tolist() == bank.task(0).masks["first"].tolist()
