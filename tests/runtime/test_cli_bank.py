from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from conftest import random_task
from supsup_runtime.bank import MaskBank
from supsup_runtime.taskfile import encode_task


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("supsup-bank")
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_list_and_verify(bank: MaskBank) -> None:
    rows = json.loads(run("list", bank.path, "--json").stdout)
    assert [row["name"] for row in rows] == ["task-0", "task-1", "task-2"]
    assert rows[0]["accuracy"] == 0.5
    assert run("list", bank.path).stdout.splitlines()[0].split()[0] == "index"
    assert "3 tasks, all files whole" in run("verify", bank.path).stdout
    assert run("--version").stdout.startswith("supsup-bank ")


def test_a_task_over_the_air(bank: MaskBank, tmp_path: Path) -> None:
    file = tmp_path / "new.safetensors"
    task = random_task(bank.network, "new", seed=7)
    file.write_bytes(encode_task(task, bank.network, bank.digest))
    run("add", bank.path, file)
    assert MaskBank.open(bank.path).task_names[-1] == "new"
    refused = run("add", bank.path, file, status=3)
    assert "is there already" in refused.stderr
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
        (["add", bank.path, tmp_path / "none"], "missing"),
        (["remove", bank.path, "nope"], "no task 'nope'"),
        (["rename", bank.path, "task-0", "../x"], "task name: must be"),
        (["verify", tmp_path / "nowhere"], "not a mask bank"),
    ):
        done = run(*arguments, status=3)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert run("dance", bank.path, status=2).stdout == ""
    assert (bank.path / "bank.json").read_bytes() == before
