from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import random_task, small_network
from supsup_runtime import files as files_module
from supsup_runtime.bank import bank as bank_module
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.index import BankIndex, read_index, write_index
from supsup_runtime.bank.network import MaskedParameter
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import BankError, OutputExistsError


def names_on_disk(bank: MaskBank) -> list[str]:
    return sorted(path.name for path in (bank.path / "tasks").iterdir())


def test_open_gives_what_was_added(bank: MaskBank) -> None:
    opened = MaskBank.open(bank.path)
    assert opened.network == bank.network
    assert opened.task_names == ("task-0", "task-1", "task-2")
    assert (opened.forward, opened.gradient) == (b"forward", b"gradient")
    assert opened.objectives == ("entropy", "superfluous")
    for index, task in enumerate(opened):
        want = random_task(bank.network, f"task-{index}", seed=index)
        for key, mask in want.masks.items():
            np.testing.assert_array_equal(task.masks[key], mask)
    assert "task-1" in opened
    assert opened.index("task-1") == 1


def test_equal_content_is_equal_bytes(tmp_path: Path, bank: MaskBank) -> None:
    other = MaskBank.create(tmp_path / "o", bank.network, forward=b"forward", gradient=b"gradient")
    other.extend(bank)
    assert (other.path / "bank.json").read_bytes() == (bank.path / "bank.json").read_bytes()


def test_the_index_is_json_with_an_indent_of_one(bank: MaskBank) -> None:
    index = read_index(bank.path)
    odd = dataclasses.replace(bank.entries[1], file='é"\\\n\ud800')
    for some in ((), (bank.entries[0], odd)):
        write_index(bank.path, dataclasses.replace(index, entries=some))
        text = (bank.path / "bank.json").read_text()
        assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"
        assert json.loads(text)["tasks"] == [dataclasses.asdict(entry) for entry in some]


def test_an_empty_bank_opens(tmp_path: Path) -> None:
    MaskBank.create(tmp_path / "b", small_network(), forward=b"f")
    opened = MaskBank.open(tmp_path / "b")
    assert (len(opened), opened.objectives, opened.gradient) == (0, (), None)


def test_remove_rename_replace(bank: MaskBank) -> None:
    bank.remove("task-0")
    assert bank.task_names == ("task-1", "task-2")
    bank.rename("task-2", "last")
    assert MaskBank.open(bank.path).task("last").name == "last"
    new = random_task(bank.network, "task-1", seed=99)
    for _ in range(3):  # back and forth between two file names
        bank.replace(new)
    assert MaskBank.open(bank.path).task_names == ("task-1", "last")
    np.testing.assert_array_equal(bank.task(0).masks["first"], new.masks["first"])
    assert len(names_on_disk(bank)) == 2


def test_the_revision_is_of_network_names_and_files_in_order(bank: MaskBank) -> None:
    tasks = [
        [name, hashlib.sha256((bank.path / f"tasks/{name}.safetensors").read_bytes()).hexdigest()]
        for name in bank.task_names
    ]
    text = json.dumps({"digest": bank.digest, "tasks": tasks}, separators=(",", ":"))
    assert bank.revision == hashlib.sha256(text.encode()).hexdigest()
    seen = {bank.revision}
    assert MaskBank.open(bank.path).revision in seen
    bank.upgrade()
    assert bank.revision in seen
    changes: list[Callable[[], object]] = [
        lambda: bank.rename("task-0", "first"),
        lambda: bank.replace(random_task(bank.network, "task-1", seed=9)),
        lambda: bank.remove("first"),
        lambda: bank.add(random_task(bank.network, "first")),
    ]
    for number, change in enumerate(changes):
        change()
        seen.add(bank.revision)
        assert len(seen) == number + 2


def test_a_failing_stream_keeps_what_came_before(bank: MaskBank) -> None:
    def tasks() -> Iterator[TaskMasks]:
        yield random_task(bank.network, "one")
        yield random_task(bank.network, "two")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bank.extend(tasks())
    assert MaskBank.open(bank.path).task_names[3:] == ("one", "two")


def test_a_replacement_that_fails_leaves_the_old_task(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bank_module, "write_index", fail)
        with pytest.raises(OSError, match="No space left"):
            bank.replace(random_task(bank.network, "task-1", seed=99))
    opened = MaskBank.open(bank.path)
    want = random_task(bank.network, "task-1", seed=1)
    np.testing.assert_array_equal(opened.task(1).masks["first"], want.masks["first"])


def test_removing_several_writes_the_index_once(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(folder: Path, index: BankIndex) -> BankIndex:
        written.append(index)
        return write_index(folder, index)

    monkeypatch.setattr(bank_module, "write_index", write)
    with pytest.raises(BankError, match="no task 'nope'"):
        bank.remove("task-0", "nope")
    bank.remove("task-0", "task-2", "task-0")
    assert MaskBank.open(bank.path).task_names == bank.task_names == ("task-1",)
    assert (len(written), names_on_disk(bank)) == (1, ["task-1.safetensors"])


def test_a_folder_of_tasks_that_is_a_link_is_refused(bank: MaskBank) -> None:
    before = names_on_disk(bank)
    link_folder(bank.path)
    with pytest.raises(BankError, match="symbolic links are refused"):
        bank.remove("task-1")
    assert names_on_disk(bank) == before


def test_names_are_unique_whatever_their_case(bank: MaskBank) -> None:
    for name in ("task-1", "TASK-1"):
        with pytest.raises(BankError, match=f"task '{name}' already exists"):
            bank.add(random_task(bank.network, name))
    with pytest.raises(BankError, match="'task-2' already exists"):
        bank.rename("task-1", "task-2")
    bank.rename("task-1", "Task-1")
    assert bank.task_names[1] == "Task-1"


def test_what_is_not_there_is_refused(bank: MaskBank) -> None:
    for call in (bank.task, bank.remove, lambda name: bank.rename(name, "x")):
        with pytest.raises(BankError, match="no task 'nope' among its 3; list them with supsup-b"):
            call("nope")
    for index in (-1, 3):
        with pytest.raises(BankError, match=rf"task index must be in \[0, 3\), got {index}"):
            bank.task(index)


def test_a_folder_with_other_things_is_refused(tmp_path: Path, bank: MaskBank) -> None:
    with pytest.raises(OutputExistsError, match="not an empty folder"):
        MaskBank.create(bank.path, bank.network, forward=b"f")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not an empty folder"):
        MaskBank.create(tmp_path / "other", bank.network, forward=b"f")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


Damage = Callable[[Path], object]


def edit(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        value = json.loads((folder / "bank.json").read_text())
        change(value)
        (folder / "bank.json").write_text(json.dumps(value))

    return damage


def flip(relative: str) -> Damage:
    def damage(folder: Path) -> None:
        data = bytearray((folder / relative).read_bytes())
        data[-1] ^= 1
        (folder / relative).write_bytes(data)

    return damage


def link(folder: Path) -> None:
    file = folder / "tasks" / "task-1.safetensors"
    file.rename(folder / "elsewhere")
    file.symlink_to(folder / "elsewhere")


def link_folder(folder: Path) -> None:
    (folder / "tasks").rename(folder / "moved")
    (folder / "tasks").symlink_to(folder / "moved")


TASK = "tasks/task-1.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip(TASK), "task-1.safetensors: the file is damaged.*SHA-256 must be"),
        (lambda f: (f / TASK).write_bytes(b"short"), "task-1.safetensors: the file is damaged"),
        (
            lambda f: (f / TASK).write_bytes(bytes(10**7)),
            "must have at most .* bytes, got 10000000",
        ),
        (lambda f: (f / TASK).unlink(), "task-1.safetensors: missing; restore it"),
        (lambda f: (f / "programs/forward.onnx").unlink(), "forward.onnx: missing"),
        (flip("programs/forward.onnx"), "forward.onnx: the file is damaged"),
        (flip("programs/gradient.onnx"), "gradient.onnx: the file is damaged"),
        (link, "symbolic links are refused"),
        (link_folder, "symbolic links are refused"),
        (lambda f: (f / "bank.json").unlink(), "not a mask bank: bank.json is missing"),
        (lambda f: (f / "bank.json").write_text("{"), "bank.json: must be JSON"),
        (lambda f: (f / "bank.json").write_text("[" * 10**5), "bank.json: must be JSON"),
        (lambda f: (f / "bank.json").write_bytes(b"\xff"), "bank.json: must be JSON"),
        (lambda f: (f / "bank.json").write_text("[]"), "bank format must be 1 or 2, got 'list'"),
        (edit(lambda d: d.update(format=3)), "format must be 1 or 2, got 3; a newer supsup"),
        (edit(lambda d: d.update(format=1.0)), "format must be 1 or 2, got 1.0"),
        (edit(lambda d: d.update(format=1)), "a task of format 2 needs a bank of that format"),
        (edit(lambda d: d.update(extra=2)), "fields must be"),
        (edit(lambda d: d.update(digest="0" * 64)), "digest must be .* got 000"),
        (edit(lambda d: d.update(digest=3)), "digest must be a string"),
        (edit(lambda d: d["network"].update(weight_seed=9)), "digest must be"),
        (
            edit(lambda d: d["network"]["parameters"][0].update(shape=[2**62, 9])),
            "shape of 'first'",
        ),
        (edit(lambda d: d.update(objectives=["entropy"])), "objectives must be"),
        (edit(lambda d: d["programs"].pop("forward")), "programs must be forward"),
        (edit(lambda d: d["programs"].update(forward=3)), "an entry must have the strings"),
        (edit(lambda d: d["programs"]["forward"].update(file="../x")), "must be programs/forward"),
        (edit(lambda d: d["tasks"][0].update(file="a" * 300)), "bank.json: .*File name too long"),
        (edit(lambda d: d["network"]["parameters"][0].update(constant=10**400)), "too large to"),
        (lambda f: (f / "bank.json").write_text("1" * 5000), "bank.json: must be JSON: Exceeds"),
        (edit(lambda d: d.update(tasks={})), "tasks must be a list"),
        (edit(lambda d: d["tasks"].append(3)), "an entry must have the strings"),
        (edit(lambda d: d["tasks"][0].update(sha256=3)), "an entry must have the strings"),
        (edit(lambda d: d["tasks"][0].update(name="task-1")), "unique, got 'task-1' twice"),
        (edit(lambda d: d["tasks"][0].update(name="TASK-1")), "unique, got 'task-1' twice"),
        (edit(lambda d: d["tasks"][0].update(name="other")), "name must be 'other', got 'task-0'"),
        (edit(lambda d: d["tasks"][0].update(name="../x")), "task name: must be"),
        (edit(lambda d: d["tasks"][0].update(file="../../secret")), "must lie inside the bank"),
        (edit(lambda d: d["tasks"][0].update(file="/etc/passwd")), "must lie inside the bank"),
        (edit(lambda d: d["tasks"][0].update(file="tasks\\x")), "must lie inside the bank"),
        (edit(lambda d: d["tasks"][0].update(file=TASK)), "a file of its own, got .* twice"),
        (edit(lambda d: d["tasks"][0].update(file="bank.json")), "must be tasks/.*got 'bank.json'"),
        (edit(lambda d: d["programs"]["forward"].update(file=TASK)), "must be programs/forward"),
        (edit(lambda d: d.update(format=True)), "format must be 1 or 2, got True"),
    ],
)
def test_what_breaks_a_rule_is_refused(bank: MaskBank, damage: Damage, message: str) -> None:
    damage(bank.path)
    with pytest.raises(BankError, match=message):
        MaskBank.open(bank.path)


def test_limits(bank: MaskBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supsup_runtime.bank.index.MAX_TASKS", 3)
    with pytest.raises(BankError, match="the bank is full: at most 3 tasks"):
        bank.add(random_task(bank.network, "one-more"))
    monkeypatch.setattr("supsup_runtime.bank.index.MAX_TASKS", 2)
    with pytest.raises(BankError, match="a list of 0 to 2"):
        MaskBank.open(bank.path)


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_leaves_the_bank_as_it_was(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    regular_file = files_module.regular_file

    def fail(*given: Any, **more: Any) -> object:
        if given[1:] in {(), ("ab",)} and isinstance(given[0], Path):
            return regular_file(*given, **more)  # reads, and takes the lock
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (bank.path / "bank.json").read_bytes()
    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(files_module, "regular_file", fail)
        else:
            patch.setattr("os.fsync", fail)
        for change in (bank.add, bank.replace):
            with pytest.raises(OSError, match="No space left"):
                change(random_task(bank.network, "new" if change == bank.add else "task-0", 9))
        with pytest.raises(OSError, match="No space left"):
            bank.remove("task-1")
    assert (bank.path / "bank.json").read_bytes() == before
    assert not list(bank.path.rglob("*.part"))
    assert len(MaskBank.open(bank.path)) == 3


def test_a_task_that_could_not_be_read_again_is_not_written(bank: MaskBank) -> None:
    task = random_task(bank.network, "new")
    for training in ({"log": "x" * 2**20}, {"loss": float("nan")}, {"loss": object()}):
        with pytest.raises(BankError, match=r"'new': (header must have|training must be JSON)"):
            bank.add(dataclasses.replace(task, training=training))
    assert len(MaskBank.open(bank.path)) == 3


def test_parameters_with_long_names_leave_room_for_the_header(tmp_path: Path) -> None:
    parameters = tuple(MaskedParameter.signed_kaiming(f"{i}{'é' * 10**4}", (1, 1)) for i in (1, 2))
    network = dataclasses.replace(small_network(), parameters=parameters)
    MaskBank.create(tmp_path / "b", network, forward=b"f").add(random_task(network, "a"))
    assert len(MaskBank.open(tmp_path / "b")) == 1
