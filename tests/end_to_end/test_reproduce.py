"""tools/reproduce.py: every experiment on a tiny setting, kills, budgets, refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.reproduce import main
from tools.reproduction.accuracy import Accuracy
from tools.reproduction.catalogue import EXPERIMENTS
from tools.reproduction.data import DataFolder
from tools.reproduction.learning import learned_bank
from tools.reproduction.methods import AUROC, METHODS, TRACKED, WAYS

from commands import Done, call, run, run_stopped
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs" / "REPRODUCIBILITY.md"
TOOL = [sys.executable, str(REPOSITORY / "tools" / "reproduce.py")]
NAMES = tuple(name for name, e in EXPERIMENTS.items() if isinstance(e, Accuracy))
TIMES = ("known_ms", "unknown_ms")


def without_data() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "SUPSUP_DATA"}


def reproduce(*arguments: object, status: int = 0) -> Done:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SUPSUP_DATA", raising=False)
        return call(main, "reproduce", *arguments, status=status)


def reproduce_as_program(*arguments: object) -> Done:
    return subprocess.run(
        [*TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=without_data(),
    )


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_the_list_names_every_experiment() -> None:
    lines = reproduce("--list").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_on_a_tiny_setting(name: str, tmp_path: Path) -> None:
    before = DOCS.read_bytes()
    done = reproduce(name, "--tiny", "--work", tmp_path)
    folder = tmp_path / "tiny" / name
    result = json.loads((folder / f"{name}.json").read_text())
    assert result["overrides"] == {"tiny": True}
    assert result["command"] == f"python tools/reproduce.py {name} --tiny"
    lines = done.stdout.split("\n\n")[0].splitlines()
    assert lines[0].startswith("In percent; ")
    for row, line in zip(result["rows"], lines[2:], strict=True):
        assert row["label"].rpartition(": ")[2] in line
        assert row["images"] == 4 * row["num_tasks"]
        nns = name.startswith("nns")
        measures = ["shared"] if nns else ["known", "unknown", "shared", "inferred"]
        for measure in measures:
            assert 0 <= row[measure] <= 1
            assert len(row["tasks"][measure]) == row["num_tasks"]
    assert ("near" in result["rows"][0]) == (name in {"rotated-36", "transfer"})
    assert (folder / f"{name}.svg").exists() or "matplotlib is not installed" in done.stderr
    assert DOCS.read_bytes() == before


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    command = ["permuted-250", "--tiny", "--json"]
    whole = json.loads(reproduce(*command, "--work", tmp_path / "whole").stdout)
    work = tmp_path / "killed"
    lines = work / "tiny" / "permuted-250" / "rows.jsonl"
    run_stopped(
        *TOOL[1:],
        *command,
        "--work",
        work,
        event="open",
        name="rows.jsonl",
        count=3,
        env=without_data(),
    )
    kept = lines.read_text().splitlines()[:2]
    with lines.open("a") as file:
        file.write('{"key": "cut sho')  # what a kill in the middle of a write would leave
    again = json.loads(reproduce_as_program(*command, "--work", work).stdout)
    assert lines.read_text().splitlines()[:2] == kept  # not measured again
    assert timeless(again["rows"]) == timeless(whole["rows"])


def test_methods_run_on_a_tiny_setting(tmp_path: Path) -> None:
    done = reproduce("methods", "--tiny", "--work", tmp_path)
    result = json.loads((tmp_path / "tiny" / "methods" / "methods.json").read_text())
    assert [row["label"] for row in result["rows"]] == [case.label for case in METHODS.cases]
    for row in result["rows"]:
        assert {*WAYS, *TRACKED, "known", AUROC[0]} <= set(row["means"])
        for name, share in row["means"].items():
            assert name.endswith(" ms") or 0 <= share <= 1
            assert row["seeds"][name] == [share]
    single, more = done.stdout.split("\n\n")[:2]
    assert single.startswith("Tasks inferred right, % (ms per call), 1 seed, single images")
    assert len(single.splitlines()) == len(more.splitlines()) == 2 + len(METHODS.cases)
    assert not (tmp_path / "data").exists()  # no pictures were needed


def test_a_bank_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    reproduce("split-5", "--tiny", "--work", tmp_path / "first")
    bank = tmp_path / "first" / "tiny" / "split-5" / "banks" / "lenet"
    before = {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()}
    reproduce("split-5", "--tiny", "--bank", f"lenet={bank}", "--work", tmp_path / "second")
    assert not (tmp_path / "second" / "tiny" / "split-5" / "banks").exists()
    assert {path: path.read_bytes() for path in bank.rglob("*") if path.is_file()} == before
    for options, message in (
        (["split-5", "--tasks", "5"], "it has no task 'split-0-1'"),
        (["permuted-250"], "it has no task 'permuted-0000'"),
    ):
        key = "lenet" if options[0] == "split-5" else "shared"
        done = reproduce(
            *options, "--tiny", "--bank", f"{key}={bank}", "--work", tmp_path / "x", status=1
        )
        assert message in done.stderr


def test_a_bank_of_another_setting_is_refused(tmp_path: Path) -> None:
    """What NNs was told, what a baseline's tasks have of their own, and whole files."""
    reproduce("nns-100", "--tiny", "--work", tmp_path / "first")
    found = tmp_path / "first" / "tiny" / "nns-100" / "banks" / "learner"
    psp = tmp_path / "psp"
    other = ["--model", "mlp-17", "--tasks", "3", "--steps", "10", "--bank", str(psp), "--quiet"]
    run("supsup-baseline", "psp", "permuted", *other)
    bank = MaskBank.open(found)
    for change, message in (
        ({"stream": "rotated"}, "with stream 'rotated', this run has 'permuted'"),
        ({"settings": {"period": 6}}, "with settings {'period': 6}, this run has"),
    ):
        task = bank.task(1)
        bank.replace(replace(task, training={**task.training, **change}))
        refused("nns-100", f"learner={found}", message, tmp_path)
        bank.replace(task)
    refused("psp", f"psp={psp}", "'context1' must have shape (17, 17) as in the", tmp_path)
    (found / "nns" / "learner.json").write_text("{")
    refused("nns-100", f"learner={found}", "learner.json: must be a learner's JSON", tmp_path)


def refused(name: str, bank: str, message: str, folder: Path) -> None:
    done = reproduce(name, "--tiny", "--bank", bank, "--work", folder / "again", status=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_workers_learn_the_same_banks(tmp_path: Path) -> None:
    for name, more in (("one", ()), ("two", ("--workers", 2))):
        reproduce("split-5", "--tiny", "--threads", 1, *more, "--work", tmp_path / name)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("banks/lenet/tasks/*")}
        for name in ("one", "two")
    )
    assert one
    assert one == two
    done = reproduce("transfer", "--tiny", "--workers", "auto", "--work", tmp_path / "three")
    assert "transfer: masks" in done.stdout  # in order, without workers
    assert "argument --workers" in reproduce("digits", "--workers", "no", status=2).stderr


def test_shared_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    wanted = replace(EXPERIMENTS["permuted-250"].banks["shared"], source="digits", tasks=2)
    folder = tmp_path / "data" / str(wanted.shared)
    folder.mkdir(parents=True)
    file = folder / "masks.npz"
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    data = DataFolder(tmp_path / "data", tmp_path)
    for write, message in (
        (lambda: file.write_bytes(b"no"), "must be the .npz of masks"),
        (lambda: file.write_bytes(b"PK\x03\x04"), "must be the .npz of masks"),
        (lambda: file.write_bytes(plain.getvalue()), "must be the .npz of masks"),
        (lambda: np.savez(file, m0=np.zeros(3)), "has 0 tasks, this run has 2"),
        (lambda: np.savez(file, accuracy=np.zeros(2)), "has no m0"),
        (file.unlink, "no such file"),
    ):
        write()
        with pytest.raises(InputError, match=message) as caught:
            learned_bank(wanted, tmp_path / "bank", data)
        assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "experiment: must be one of permuted-250, permuted-2500,"),
        ([], "got None; --list describes them"),
        (["permuted-fc"], "this experiment needs mnist, got no folder; give the"),
        (["permuted-fc", "--data", "{folder}"], "this experiment needs mnist, got {folder}"),
        (["permuted-250", "--data", "{folder}"], "this experiment needs mnist, got {folder}"),
        (["digits", "--tiny", "--orders", "2"], "--orders: digits has no such option"),
        (["digits", "--tiny", "--record"], "--tiny results are meaningless"),
        (["digits", "--tiny", "--bank", "lenet"], "--bank: must be KEY=PATH, got 'lenet'"),
        (["split-5", "--tiny", "--bank", "fc=x"], "split-5 has the banks lenet, got 'fc'"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    given = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    done = reproduce(*given, "--work", tmp_path / "work", status=1)
    assert message.replace("{folder}", str(tmp_path)) in done.stderr
    assert len(done.stderr.splitlines()) <= 2  # one line, and what it was at


def test_a_work_folder_of_another_setting_is_refused(tmp_path: Path) -> None:
    command = ["split-5", "--tiny", "--work", tmp_path]
    reproduce(*command)
    done = reproduce(*command, "--per-task", "5", status=1)
    assert "the folder has rows[0].images 4, this run has 5" in done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--tasks", "0"), "argument --tasks: must be an integer of at least 1, got '0'"),
        (("--images", "5"), "--images: is called --per-task now"),
    ],
)
def test_options_that_are_wrong_for_all_are_refused(
    option: tuple[str, str], message: str, tmp_path: Path
) -> None:
    done = reproduce("digits", "--tiny", *option, "--work", tmp_path, status=2)
    assert message in done.stderr
