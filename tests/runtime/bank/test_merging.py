"""Tasks of other banks, added to a bank: all of them or none."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import run, run_stopped
from conftest import random_task, small_network
from supsup_runtime.bank import merging
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError, BankLockedError
from supsup_runtime.files import exclusive

TESTS = str(Path(__file__).parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, *sys.path])}


def shard(path: Path, *names: str, network: Network | None = None) -> MaskBank:
    network = network or small_network()
    made = MaskBank.create(path, network, forward=b"forward", gradient=b"gradient")
    made.extend(random_task(network, name, seed=len(name)) for name in names)
    return made


def make_old(bank: MaskBank) -> MaskBank:
    """The bank in format 1, its tasks as well."""
    tasks, index = list(bank), bank.path / "bank.json"
    bank.remove(*bank.task_names)
    index.write_text(index.read_text().replace('"format": 2', '"format": 1'))
    old = MaskBank.open(bank.path)
    old.extend(tasks)
    return MaskBank.open(bank.path)


def content(bank: MaskBank) -> dict[str, bytes]:
    files = (path for path in bank.path.rglob("*") if path.is_file())
    return {str(path.relative_to(bank.path)): path.read_bytes() for path in files}


def test_merged_is_as_added_one_by_one(bank: MaskBank, tmp_path: Path) -> None:
    one, two = shard(tmp_path / "1", "b", "a"), shard(tmp_path / "2", "c")
    added = shard(tmp_path / "added")
    for each in (bank, one, two):
        added.extend(each)
    bank.merge(one, two)
    assert bank.task_names == ("task-0", "task-1", "task-2", "b", "a", "c")
    assert content(bank) == content(added)
    assert content(MaskBank.open(bank.path)) == content(added)
    bank.merge()
    bank.merge(shard(tmp_path / "3"))
    assert len(bank) == 6


def test_a_file_in_use_stays(bank: MaskBank, tmp_path: Path) -> None:
    index = bank.path / "bank.json"
    index.write_text(index.read_text().replace("tasks/task-2.", "tasks/A."))
    (bank.path / "tasks/task-2.safetensors").rename(bank.path / "tasks/A.safetensors")
    opened = MaskBank.open(bank.path)
    opened.merge(shard(tmp_path / "1", "a"))
    name, sha256 = opened.entries[3].file, opened.entries[3].sha256
    assert name == f"tasks/a+{sha256[:8]}.safetensors"
    assert MaskBank.open(bank.path).task_names[2:] == ("task-2", "a")


def test_few_files_at_once_give_the_same(
    bank: MaskBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "MAX_BYTES", 1)
    bank.merge(shard(tmp_path / "1", "a", "b"))
    assert MaskBank.open(bank.path).task_names[3:] == ("a", "b")


def test_a_task_of_format_1_goes_into_both(bank: MaskBank, tmp_path: Path) -> None:
    old, older = (make_old(shard(tmp_path / name, name)) for name in "ab")
    old.merge(older)
    bank.merge(old)
    assert MaskBank.open(bank.path).task_names[3:] == ("a", "b")
    assert content(bank)["tasks/a.safetensors"] == content(old)["tasks/a.safetensors"]
    assert (old.format, bank.format) == (1, 2)


def test_a_calibration_is_stale_after_a_merge(bank: MaskBank, tmp_path: Path) -> None:
    numbers = {"threshold": 1.0, "coverage": 1.0, "images": 10, "auroc": None, "accepted": None}
    calibration = Calibration.from_dict({"score": "entropy", **numbers})
    other = shard(tmp_path / "1", "a")
    for each in (bank, other):
        each.set_calibration(calibration)
    bank.merge(other)
    stored = bank.calibration()
    assert stored is not None
    assert stored.stale == "task 'a' was added or renamed since"


Make = Callable[[Path], MaskBank]
OTHER = dataclasses.replace(small_network(), weight_seed=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: shard(path, "a", network=OTHER),
            (
                "{other}: the bank belongs to another network: digest must be {digest}, got {got}; "
                "leave it out"
            ),
        ),
        (
            lambda path: shard(path, "b", "TASK-1"),
            (
                "{other}: task 'TASK-1' is in {bank} already (names ignore case); rename one with "
                "supsup-bank rename, or remove it"
            ),
        ),
        (
            lambda path: shard(path, "First"),
            (
                "{other}: task 'First' is in {first} already (names ignore case); rename one with "
                "supsup-bank rename, or remove it"
            ),
        ),
        (
            lambda path: shard(path, *"abcd"),
            "{bank}: a bank has at most 7 tasks, got 8 with those to be merged; merge fewer banks",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    bank: MaskBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make, message: str
) -> None:
    monkeypatch.setattr(merging, "MAX_TASKS", 7)
    monkeypatch.setattr(merging, "copy_tasks", None)
    first, other = shard(tmp_path / "1", "first"), make(tmp_path / "2")
    before = content(bank)
    told = {"bank": bank.path, "first": first.path, "other": other.path, "digest": bank.digest}
    with pytest.raises(BankError, match=f"^{re.escape(message.format(**told, got=other.digest))}$"):
        bank.merge(first, other)
    assert content(bank) == before


def test_a_bank_of_format_1_takes_format_2_after_its_upgrade(tmp_path: Path) -> None:
    old, new = make_old(shard(tmp_path / "old", "a")), shard(tmp_path / "new", "b")
    text = (
        f"{new.path}: a bank of format 2 needs one of that format, got {old.path} of format 1; "
        f"run supsup-bank upgrade {old.path} first"
    )
    with pytest.raises(BankError, match=f"^{re.escape(text)}$"):
        old.merge(new)
    old.upgrade()
    old.merge(new)
    assert MaskBank.open(old.path).task_names == ("a", "b")


def test_a_bank_merges_neither_itself_nor_anything_else(bank: MaskBank) -> None:
    other = shard(bank.path.parent / "1", "a")
    for named, others in ((bank, [bank]), (other, [other, MaskBank.open(other.path)])):
        text = f"^{named.path}: is the bank itself or named twice; leave it out$"
        with pytest.raises(BankError, match=text):
            bank.merge(*others)
    with pytest.raises(BankError, match="bank to merge must be a MaskBank, got 'masks'"):
        bank.merge("masks")  # type: ignore[arg-type]


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def link(file: Path) -> None:
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


def other_seal(file: Path) -> None:
    """A file that its index knows, but whose own SHA-256 is of another."""
    index, data = file.parents[1] / "bank.json", file.read_bytes()
    start = data.index(rb"\"sha256\":\"") + 13
    changed = data[:start] + b"0" * 64 + data[start + 64 :]
    file.write_bytes(changed)
    old, new = (hashlib.sha256(each).hexdigest() for each in (data, changed))
    index.write_text(index.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "b.safetensors: the file is damaged or was changed"),
        (Path.unlink, "b.safetensors: missing; restore it from a copy of the bank"),
        (link, "b.safetensors: symbolic links are refused in a bank"),
        (other_seal, "b.safetensors: the task is damaged or was changed: its own SHA-256 must be"),
    ],
)
def test_one_damaged_file_and_no_task_is_added(
    bank: MaskBank, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    one, other = shard(tmp_path / "1", "x"), shard(tmp_path / "2", "a", "b", "c")
    damage(other.path / "tasks/b.safetensors")
    before = content(bank)
    with pytest.raises(BankError, match=message):
        bank.merge(one, MaskBank.open(other.path, verify=False))
    assert content(bank) == before


def test_a_bank_that_changes_while_it_is_merged_is_named(bank: MaskBank, tmp_path: Path) -> None:
    other = shard(tmp_path / "1", "a", "b")
    MaskBank.open(other.path).remove("b")
    before = content(bank)
    text = f"^{other.path}: the bank changed while it was merged; merge again$"
    with pytest.raises(BankError, match=text):
        bank.merge(other)
    assert content(bank) == before


def test_a_failed_merge_leaves_no_new_bank(tmp_path: Path) -> None:
    other = shard(tmp_path / "1", "a", "b")
    flip(other.path / "tasks/b.safetensors")
    done = run("supsup-bank", "merge", tmp_path / "new", other.path, status=3)
    assert "b.safetensors: the file is damaged or was changed" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_failed_merge_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    other, new = shard(tmp_path / "1", "a", "b"), tmp_path / "new"
    flip(other.path / "tasks/b.safetensors")
    (tmp_path / "empty").mkdir()
    new.symlink_to(tmp_path / "empty")
    run("supsup-bank", "merge", new, other.path, status=3)
    assert not [*new.iterdir()]
    assert new.is_symlink()


def test_a_failed_merge_leaves_what_another_command_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, merge = shard(tmp_path / "1", "a", "b"), MaskBank.merge

    def second(bank: MaskBank, *others: MaskBank) -> None:
        merge(MaskBank.open(bank.path), *others)
        merge(bank, *others)

    monkeypatch.setattr(MaskBank, "merge", second)
    done = run("supsup-bank", "merge", tmp_path / "new", other.path, status=3)
    assert "task 'a' is in" in done.stderr
    assert MaskBank.open(tmp_path / "new").task_names == ("a", "b")


def test_a_full_disk_adds_no_task(
    bank: MaskBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    other, before = shard(tmp_path / "1", "a", "b"), content(bank)
    for what in ("os.fsync", "supsup_runtime.bank.bank.write_index"):
        with monkeypatch.context() as patch:
            patch.setattr(what, fail)
            with pytest.raises(OSError, match="No space left"):
                bank.merge(other)
        assert content(bank) == before


def test_a_bank_that_another_process_changes_is_left(bank: MaskBank, tmp_path: Path) -> None:
    other = shard(tmp_path / "1", "a")
    with exclusive(bank.path), pytest.raises(BankLockedError, match="another process is writing"):
        bank.merge(other)
    with exclusive(other.path):  # a reader takes no lock
        bank.merge(other)
    assert len(bank) == 4


_MERGE = """
import sys
from supsup_runtime.bank.bank import MaskBank
bank, *others = (MaskBank.open(path, verify=False) for path in sys.argv[1:])
bank.merge(*others)
"""


@pytest.mark.parametrize(
    ("event", "name", "counts", "merged"),
    [
        ("open", ".part", (1, 5, 9), False),
        ("os.rename", ".safetensors", (1, 4, 6), False),
        ("os.rename", "bank.json", (1,), False),
        ("os.remove", "orphan.safetensors", (1,), True),
    ],
)
def test_a_killed_merge_leaves_a_whole_bank_and_can_be_repeated(
    bank: MaskBank, tmp_path: Path, event: str, name: str, counts: tuple[int, ...], *, merged: bool
) -> None:
    script = tmp_path / "merge.py"
    script.write_text(_MERGE)
    one, two = shard(tmp_path / "1", *"abc"), shard(tmp_path / "2", *"def")
    for count in counts:
        (bank.path / "tasks" / "orphan.safetensors").write_bytes(b"whole, but in no index")
        paths = (bank.path, one.path, two.path)
        run_stopped(script, *paths, event=event, name=name, count=count, env=ENVIRONMENT)
        opened = MaskBank.open(bank.path)  # verified in full
        assert len(opened) == (9 if merged else 3)
    if not merged:
        opened.merge(one, two)
    opened.add(random_task(bank.network, "after"))
    assert opened.task_names[3:] == (*"abcdef", "after")
    assert not list(bank.path.rglob("*.part"))
    assert len(list((bank.path / "tasks").iterdir())) == 10
