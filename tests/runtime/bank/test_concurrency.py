"""Several processes at one bank: writers that meet, fail or are killed, and readers beside them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import run_stopped
from conftest import random_task, small_network
from supsup_runtime.bank import bank as bank_module
from supsup_runtime.bank import index as index_module
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.index import read_index, write_index
from supsup_runtime.errors import BankError, BankLockedError
from supsup_runtime.files import whole_file

TESTS = str(Path(__file__).parents[2])

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([TESTS, *sys.path])}


def files_of_tasks(bank: MaskBank) -> list[str]:
    return sorted(path.name for path in (bank.path / "tasks").iterdir())


def test_adding_parses_no_index_that_is_known(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_parse_index", lambda *_: pytest.fail("parsed again"))
        bank.add(random_task(bank.network, "one"))
        bank.remove("task-0")
    MaskBank.open(bank.path).add(random_task(bank.network, "another"))
    bank.add(random_task(bank.network, "two"))
    assert MaskBank.open(bank.path).task_names == ("task-1", "task-2", "one", "another", "two")


def test_a_failed_add_leaves_no_file(bank: MaskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files_of_tasks(bank)
    with monkeypatch.context() as patch:
        patch.setattr(bank_module, "write_index", fail)
        with pytest.raises(OSError, match="No space left"):
            bank.add(random_task(bank.network, "new"))
    assert files_of_tasks(bank) == before


def test_an_index_that_was_written_in_spite_of_the_error_keeps_its_files(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        write_index(*given)
        raise OSError(errno.EIO, "the folder was not synced")

    with monkeypatch.context() as patch:
        patch.setattr(bank_module, "write_index", fail)
        with pytest.raises(OSError, match="not synced"):
            bank.add(random_task(bank.network, "new"))
    assert "new" in MaskBank.open(bank.path)


def test_what_a_killed_add_left_is_removed_by_the_next_writer(bank: MaskBank) -> None:
    (bank.path / "tasks" / "orphan.safetensors").write_bytes(b"whole, but in no index")
    (bank.path / "tasks" / "notes.txt").write_text("mine")
    bank.add(random_task(bank.network, "new"))
    assert "orphan.safetensors" not in files_of_tasks(bank)
    assert {"new.safetensors", "notes.txt"} < set(files_of_tasks(bank))


def test_a_part_that_another_writes_without_the_lock_stays(bank: MaskBank) -> None:
    with whole_file(bank.path / "model.onnx") as part:
        part.write_bytes(b"exported")
        bank.add(random_task(bank.network, "new"))
    assert (bank.path / "model.onnx").read_bytes() == b"exported"


def test_a_reader_meets_a_task_that_was_replaced_or_removed(bank: MaskBank) -> None:
    reader = MaskBank.open(bank.path)
    new = random_task(bank.network, "task-1", seed=99)
    bank.replace(new)
    reader.verify()
    np.testing.assert_array_equal(reader.task("task-1").masks["first"], new.masks["first"])
    bank.remove("task-0")
    reader.task(1)  # the index it had when it was opened
    with pytest.raises(BankError, match="'task-0' was removed or renamed since the bank was"):
        reader.task("task-0")


def test_a_bank_that_changes_while_it_is_opened_is_read_again(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_then_lose(*given: Any) -> object:
        index = read_index(*given)
        if len(given) == 1:  # the first look
            bank.remove("task-1")
        return index

    monkeypatch.setattr(bank_module, "read_index", read_then_lose)
    assert MaskBank.open(bank.path).task_names == ("task-0", "task-2")


def test_a_creation_that_was_killed_can_be_repeated(bank: MaskBank) -> None:
    for entry in bank.entries:
        (bank.path / entry.file).unlink()
    (bank.path / "bank.json").unlink()
    (bank.path / ".bank.json.x.part").write_bytes(b"half")
    (bank.path / "programs" / ".forward.onnx.x.part").write_bytes(b"half")
    again = MaskBank.create(bank.path, bank.network, forward=b"forward")
    again.add(random_task(bank.network, "a"))
    assert not list(bank.path.rglob("*.part"))
    MaskBank.open(bank.path)


_CREATE = """
import sys
from pathlib import Path
from conftest import small_network
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import BankLockedError, OutputExistsError
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    try:
        MaskBank.create(Path(sys.argv[1]) / f"{i}", small_network(), forward=sys.argv[2].encode())
    except (BankLockedError, OutputExistsError):
        pass
"""


def test_of_two_that_create_one_bank_one_is_refused(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", _CREATE, str(tmp_path), forward],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        for forward in ("one", "other")
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write(b"go\n")
        maker.stdin.flush()
    assert [maker.communicate() and maker.returncode for maker in makers] == [0, 0]
    for i in range(60):
        MaskBank.open(tmp_path / f"{i}")


_HOLD = """
import sys
from pathlib import Path
from supsup_runtime.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(bank: MaskBank) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(bank.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BankLockedError, match="another process is writing to this bank"):
            bank.add(random_task(bank.network, "new"))
        holder.send_signal(signal.SIGKILL)
    bank.add(random_task(bank.network, "new"))
    assert len(MaskBank.open(bank.path)) == 4


_ADD = """
import sys
from commands import run_stopped
from conftest import random_task
from supsup_runtime.bank.bank import MaskBank
bank = MaskBank.open(sys.argv[1], verify=False)
for i in range(int(sys.argv[2]), 10**6):
    bank.add(random_task(bank.network, f"new-{i}"))
    bank.replace(random_task(bank.network, "task-0", seed=i))
    print(i, flush=True)
"""


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("os.rename", ".safetensors"),
        ("os.rename", "bank.json"),
        ("open", ".part"),
        ("os.remove", ".safetensors"),
    ],
)
def test_a_killed_writer_leaves_a_whole_bank(
    bank: MaskBank, tmp_path: Path, event: str, name: str
) -> None:
    script = tmp_path / "add.py"
    script.write_text(_ADD)
    for count in (3, 4):  # adding or replacing
        begin = len(MaskBank.open(bank.path))
        done = run_stopped(
            script, bank.path, begin, event=event, name=name, count=count, env=ENVIRONMENT
        )
        opened = MaskBank.open(bank.path)  # verified in full
        for number in done.stdout.split():
            assert f"new-{number}" in opened
    opened.add(random_task(bank.network, "after"))
    assert not list(bank.path.rglob("*.part"))


def test_another_process_changing_the_network_is_noticed(tmp_path: Path, bank: MaskBank) -> None:
    other = MaskBank.create(tmp_path / "o", small_network(state=True), forward=b"forward")
    (bank.path / "bank.json").write_bytes((other.path / "bank.json").read_bytes())
    with pytest.raises(BankError, match="changed since it was opened: digest was"):
        bank.add(random_task(bank.network, "new"))


def test_only_what_a_writer_left_is_removed(bank: MaskBank) -> None:
    tasks = bank.path / "tasks"
    (tasks / "backup of task-0.safetensors").write_bytes(b"of a person")
    (tasks / "folder.safetensors").mkdir()
    (tasks / "link.safetensors").symlink_to(tasks / "task-0.safetensors")
    (tasks / "left+01234567.safetensors").write_bytes(b"of a writer that was killed")
    bank.add(random_task(bank.network, "new"))
    left = {path.name for path in tasks.iterdir()} - {Path(e.file).name for e in bank.entries}
    assert left == {"backup of task-0.safetensors", "folder.safetensors", "link.safetensors"}


def test_a_calibration_is_stale_once_another_process_replaced_a_task(bank: MaskBank) -> None:
    numbers = {"threshold": 1.0, "coverage": 1.0, "images": 10, "auroc": None, "accepted": None}
    bank.set_calibration(Calibration.from_dict({"score": "entropy", **numbers}))
    opened = MaskBank.open(bank.path)
    bank.replace(random_task(bank.network, "task-2", seed=9))
    stored = opened.calibration()
    assert stored is not None
    assert stored.stale == "task 'task-2' was replaced since"
