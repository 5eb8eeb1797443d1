"""Images of tasks beside a bank: whole files, of its own tasks, forgotten when asked."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import commands
from conftest import random_task, small_network
from supsup_runtime.bank import stored_images as module
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.stored_images import (
    forget_images,
    image_bytes,
    rename_task,
    store_images,
    stored_images,
)
from supsup_runtime.bank.task import encode_task
from supsup_runtime.errors import BankError, FileError
from supsup_runtime.files import exclusive

IMAGES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def kept(bank: MaskBank) -> MaskBank:
    """A bank with images of two of its tasks."""
    for name in ("task-0", "task-1"):
        store_images(bank, bank.task(name), IMAGES + int(name[-1]))
    return bank


def run(*arguments: object, status: int = 0) -> commands.Done:
    return commands.run("supsup-bank", *arguments, status=status)


def test_they_come_back(kept: MaskBank) -> None:
    for index in range(2):
        np.testing.assert_array_equal(stored_images(kept, f"task-{index}"), IMAGES + index)
    assert stored_images(kept, "task-2") is None
    assert image_bytes(kept).keys() == {"task-0", "task-1"}
    before = (kept.path / "memory" / "task-0.safetensors").read_bytes()
    store_images(kept, kept.task("task-0"), IMAGES)
    assert (kept.path / "memory" / "task-0.safetensors").read_bytes() == before
    assert len(MaskBank.open(kept.path)) == 3


def test_commands_show_them_and_forget_them(kept: MaskBank, tmp_path: Path) -> None:
    size = image_bytes(kept)["task-0"]
    assert [row["image_bytes"] for row in json.loads(run("list", kept.path, "--json").stdout)] == [
        *(size, size, 0)
    ]
    listed = run("list", kept.path).stdout
    assert listed.endswith(f"\nstored images: {2 * size:,} bytes, of 2 tasks\n")
    run("rename", kept.path, "task-1", "new")
    np.testing.assert_array_equal(stored_images(MaskBank.open(kept.path), "new"), IMAGES + 1)
    assert image_bytes(kept).keys() == {"task-0", "new"}
    done = run("forget", kept.path, "task-0", "--json")
    assert json.loads(done.stdout) == {"bytes": size, "tasks": ["task-0"]}
    done = run("forget", kept.path, "new", "task-0", status=1)
    assert done.stderr == (f"supsup-bank: {kept.path}: has no images of task 'task-0'\n")
    assert image_bytes(kept).keys() == {"new"}
    file, task = tmp_path / "new.safetensors", random_task(kept.network, "new", seed=7)
    file.write_bytes(encode_task(task, kept.network, kept.digest))
    run("add", kept.path, file, "--replace")  # with other pictures
    assert not image_bytes(kept)
    opened = MaskBank.open(kept.path)
    for name in ("new", "task-0", "task-2"):
        store_images(opened, opened.task(name), IMAGES)
    run("remove", kept.path, "new")
    assert image_bytes(kept).keys() == {"task-0", "task-2"}
    opened.remove("task-0")  # in Python its images stay, until they are to be forgotten
    (kept.path / "memory" / ".task-0.safetensors.0.part").touch()
    done = run("forget", kept.path)
    assert done.stdout == f"{kept.path}: forgot the images of 2 tasks, {2 * size:,} bytes\n"
    assert not list((kept.path / "memory").iterdir())
    assert run("forget", kept.path).stdout.endswith("forgot the images of 0 tasks, 0 bytes\n")
    assert "stored images" not in run("list", kept.path).stdout


def test_a_task_renamed_to_its_own_name_keeps_them(kept: MaskBank) -> None:
    run("rename", kept.path, "task-1", "task-1")
    np.testing.assert_array_equal(stored_images(MaskBank.open(kept.path), "task-1"), IMAGES + 1)


@pytest.mark.parametrize("new", ["Task-0", "../x"])
def test_a_refused_rename_changes_none(kept: MaskBank, new: str) -> None:
    before = image_bytes(kept)
    run("rename", kept.path, "task-1", new, status=3)
    with exclusive(kept.path):
        run("rename", kept.path, "task-1", "free", status=1)
    assert image_bytes(kept) == before
    np.testing.assert_array_equal(stored_images(kept, "task-0"), IMAGES)


def test_damaged_ones_are_found(kept: MaskBank) -> None:
    run("verify", kept.path)
    path = kept.path / "memory" / "task-1.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    done = run("verify", kept.path, status=3)
    assert f"{path}: not a whole safetensors file" in done.stderr


@pytest.mark.parametrize("call", ["rename", "store_images", "forget_images"])
def test_a_stopped_rename_loses_none(
    kept: MaskBank, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MaskBank if call == "rename" else module, call, stop)
    with pytest.raises(KeyboardInterrupt):
        rename_task(kept, "task-1", "new")
    bank = MaskBank.open(kept.path)
    name = "new" if "new" in bank else "task-1"
    np.testing.assert_array_equal(stored_images(bank, name), IMAGES + 1)


def test_more_than_the_limit_are_not_stored(
    kept: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = image_bytes(kept)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(BankError, match=r"task-2.safetensors: must have at most 100 bytes, got"):
        store_images(kept, kept.task("task-2"), IMAGES)
    assert image_bytes(kept) == before


def test_those_of_other_tasks_and_banks_are_refused(kept: MaskBank, tmp_path: Path) -> None:
    path = kept.path / "memory" / "task-0.safetensors"
    data, remedy = path.read_bytes(), "; or let supsup-bank forget the images of 'task-0'$"
    another = MaskBank.create(tmp_path / "another", small_network(state=True), forward=kept.forward)
    another.add(random_task(another.network, "task-0"))
    store_images(another, another.task("task-0"), IMAGES)
    for new, message in (
        ((another.path / "memory" / path.name).read_bytes(), "another network"),
        ((path.parent / "task-1.safetensors").read_bytes(), "must be of the bank's task, is of an"),
        (data[:-1], "not a whole safetensors file"),
        (b"", "not a whole safetensors file"),
        (data[:-4] + b"\xff\xff\xff\x7f", "must be finite, got NaN or infinity"),
        (data.replace(b'"shape":[2,3]', b'"shape":[6,1]'), r"must be float32 \(6, 3\), got"),
        (data.replace(b'"shape":[2,3]', b'"shape":[  6]'), r"must be float32 \(6, 3\), got"),
    ):
        path.write_bytes(new)
        with pytest.raises(BankError, match=f"^{path}: .*{message}.*{remedy}"):
            stored_images(kept, "task-0")
    path.unlink()
    path.symlink_to(another.path / "memory" / path.name)
    with pytest.raises(BankError, match="symbolic link"):
        stored_images(kept, "task-0")
    path.unlink()
    path.mkdir()
    with pytest.raises(BankError, match="must be a regular file"):
        stored_images(kept, "task-0")
    with pytest.raises(FileError, match=f"^{path}: cannot be removed: "):
        forget_images(kept, "task-0")
    path.rmdir()
    with pytest.raises(BankError, match="must lie inside the bank"):
        forget_images(kept, "../tasks/task-0")


def test_a_full_disk_leaves_what_was(kept: MaskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        text = "cannot be written: No space left on device; free space on the disk$"
        for name in ("task-0", "task-2"):
            with pytest.raises(FileError, match=f"memory/{name}.safetensors: {text}"):
                store_images(kept, kept.task(name), 9 * IMAGES)
    np.testing.assert_array_equal(stored_images(kept, "task-0"), IMAGES)
    assert sorted(path.name for path in (kept.path / "memory").iterdir()) == [
        *("task-0.safetensors", "task-1.safetensors")
    ]
    for path in (kept.path / "memory").iterdir():
        path.unlink()
    (kept.path / "memory").rmdir()
    (kept.path / "memory").touch()
    with pytest.raises(FileError, match="memory: cannot be created"):
        store_images(kept, kept.task("task-0"), IMAGES)
