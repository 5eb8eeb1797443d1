from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import commands
from conftest import random_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import encode_task
from supsup_runtime.files import exclusive


def run(*arguments: object, status: int = 0) -> commands.Done:
    return commands.run("supsup-bank", *arguments, status=status)


def test_list_and_verify(bank: MaskBank) -> None:
    rows = json.loads(run("list", bank.path, "--json").stdout)
    assert [row["name"] for row in rows] == ["task-0", "task-1", "task-2"]
    assert rows[0]["accuracy"] == 0.5
    assert run("list", bank.path).stdout.splitlines()[0].split()[0] == "index"
    assert "3 tasks, all files are valid" in run("verify", bank.path).stdout
    assert run("--version").stdout.startswith("supsup-bank ")


def test_a_task_over_the_air(bank: MaskBank, tmp_path: Path) -> None:
    file = tmp_path / "new.safetensors"
    task = random_task(bank.network, "new", seed=7)
    file.write_bytes(encode_task(task, bank.network, bank.digest))
    run("add", bank.path, file)
    assert MaskBank.open(bank.path).task_names[-1] == "new"
    refused = run("add", bank.path, file, status=3)
    assert "already exists" in refused.stderr
    run("add", bank.path, file, "--replace")
    run("add", bank.path, file, "--name", "again")
    run("rename", bank.path, "again", "third")
    run("remove", bank.path, "task-0")
    assert MaskBank.open(bank.path).task_names == ("task-1", "task-2", "new", "third")


def test_refusals_are_one_line_and_change_nothing(bank: MaskBank, tmp_path: Path) -> None:
    before = (bank.path / "bank.json").read_bytes()
    file = tmp_path / "bad.safetensors"
    file.write_bytes(encode_task(random_task(bank.network, "new"), bank.network, "0" * 64))
    for arguments, message in (
        (["add", bank.path, file], "belongs to another network"),
        (["remove", bank.path, "nope"], "no task 'nope'"),
        (["rename", bank.path, "task-0", "../x"], "task name: must be"),
        (["verify", tmp_path / "nowhere"], "not a mask bank"),
    ):
        done = run(*arguments, status=3)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    done = run("add", bank.path, tmp_path / "none", status=1)
    assert done.stderr.startswith(f"supsup-bank: {tmp_path / 'none'}: no such file; give a task")
    assert run("dance", bank.path, status=2).stdout == ""
    assert (bank.path / "bank.json").read_bytes() == before


def test_a_damaged_bank_is_status_3(bank: MaskBank) -> None:
    with (bank.path / "tasks" / "task-1.safetensors").open("ab") as file:
        file.write(b"!")
    for command in ("verify", "list"):
        done = run(command, bank.path, status=3)
        assert done.stdout == ""
        assert "task-1.safetensors: the file is damaged" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_locked_bank_is_status_1(bank: MaskBank) -> None:
    with exclusive(bank.path):
        done = run("remove", bank.path, "task-0", status=1)
    assert "another process is writing" in done.stderr
    assert done.stderr.count("\n") == 1


def test_changes_answer_in_json(bank: MaskBank) -> None:
    said = json.loads(run("remove", bank.path, "task-0", "--json").stdout)
    index = (bank.path / "bank.json").read_bytes()
    assert said == {"num_tasks": 2, "sha256": hashlib.sha256(index).hexdigest()}
    assert json.loads(run("verify", bank.path, "--json").stdout) == {"num_tasks": 2, "ok": True}


def test_an_accuracy_of_zero_is_a_number_and_no_name_is_no_default(
    bank: MaskBank, tmp_path: Path
) -> None:
    file = tmp_path / "new.safetensors"
    task = dataclasses.replace(random_task(bank.network, "new"), training={"accuracy": 0.0})
    file.write_bytes(encode_task(task, bank.network, bank.digest))
    assert "task name: must be" in run("add", bank.path, file, "--name", "", status=3).stderr
    run("add", bank.path, file)
    assert run("list", bank.path).stdout.split()[-1] == "0.0"


def test_merge_adds_the_tasks_of_other_banks(bank: MaskBank, tmp_path: Path) -> None:
    paths = tmp_path / "all", tmp_path / "other"
    other = MaskBank.create(paths[1], bank.network, forward=b"forward", gradient=b"gradient")
    other.extend(random_task(bank.network, name, seed=9) for name in ("a", "b"))
    done = run("merge", *paths, bank.path)
    assert done.stdout == f"{paths[0]}: added 5 tasks of 2 banks; 5 tasks\n"
    assert done.stderr == (
        "supsup-bank: warning: tasks 'a' and 'b' have equal masks and state: inference cannot "
        "tell them apart; remove one\n"
    )
    merged = MaskBank.open(paths[0])
    assert merged.task_names == ("a", "b", "task-0", "task-1", "task-2")
    assert (merged.forward, merged.gradient) == (b"forward", b"gradient")
    said = json.loads(run("merge", bank.path, other.path, "--json").stdout)
    index = (bank.path / "bank.json").read_bytes()
    assert said == {"num_tasks": 5, "sha256": hashlib.sha256(index).hexdigest()}


def test_a_merge_that_is_refused_makes_no_bank(bank: MaskBank, tmp_path: Path) -> None:
    new, nowhere = tmp_path / "new", tmp_path / "nowhere"
    for others, message in (
        ([bank.path, bank.path], f"{bank.path}: is the bank itself or named twice"),
        ([bank.path, nowhere], f"{nowhere}: not a mask bank: bank.json is missing"),
    ):
        done = run("merge", new, *others, status=3)
        assert done.stderr.startswith(f"supsup-bank: {message}")
        assert done.stderr.count("\n") == 1
        assert not new.exists()
    new.mkdir()
    (new / "thesis.txt").write_text("mine")
    done = run("merge", new, bank.path, status=1)
    assert "exists and is not an empty folder; open it, or choose another path" in done.stderr
    assert [path.name for path in new.iterdir()] == ["thesis.txt"]
    assert "the following arguments are required: other" in run("merge", new, status=2).stderr
    long = tmp_path / ("x" * 300)
    assert run("merge", long, bank.path, status=1).stderr.count("\n") == 1
