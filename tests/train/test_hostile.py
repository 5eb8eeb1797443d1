"""Training beside other writers, and in folders in which another user can write."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import supsup_train as st
from commands import run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.errors import BankError, BankLockedError, InputError
from supsup_runtime.files import exclusive
from supsup_train.nns.learner import NnsLearner
from supsup_train.reporting import Reporter, begin_log, progress_bars

RECIPE = st.Recipe(steps=1)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return make_stream("rotated", load_dataset(None), num_tasks=2)


@pytest.fixture
def module() -> torch.nn.Module:
    return st.make_model("mlp-4", input_shape=(64,), outputs=11)


@pytest.fixture
def bank(tmp_path: Path, module: torch.nn.Module) -> MaskBank:
    return st.create_bank(tmp_path / "masks", module, input_shape=(64,), real_outputs=10)


def refuse_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)


def never(*_: object, **__: object) -> None:
    pytest.fail("learned, and could not have stored it")


def test_that_there_is_no_lock_is_noticed_before_learning(
    bank: MaskBank, module: torch.nn.Module, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supsup_train.masks.train_task.train_task", never)
    with exclusive(bank.path), pytest.raises(BankLockedError, match="another process is writing"):
        st.train_stream(bank, module, stream, recipe=RECIPE)
    refuse_locks(monkeypatch)
    with pytest.raises(BankLockedError, match="the file system cannot lock files"):
        st.train_stream(bank, module, stream, recipe=RECIPE)
    with pytest.raises(BankLockedError, match="the file system cannot lock files"):
        NnsLearner(bank, module)


@pytest.mark.parametrize("method", ["heads", "psp"])
def test_baselines_notice_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("supsup_train.baselines.run._Learner.__call__", never)
    refuse_locks(monkeypatch)
    words = [method, "permuted", "--tasks", 1, "--steps", 1, "--model", "mlp-4"]
    done = run("supsup-baseline", *words, "--bank", tmp_path / "b", status=1)
    assert "the file system cannot lock files (No locks available)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("scenario", ["GNu", "NNs"])
def test_a_log_in_the_bank_is_no_link_and_no_pipe(
    bank: MaskBank, tmp_path: Path, scenario: str
) -> None:
    log = bank.path / "train.jsonl"
    words = ["permuted", "--model", "mlp-4", "--outputs", 11, "--tasks", 1, "--steps", 1]
    words += ["--scenario", scenario, "--bank", bank.path]
    log.symlink_to(tmp_path / "outside")
    assert "train.jsonl: symbolic links" in run("supsup-train", *words, status=3).stderr
    log.unlink()
    os.mkfifo(log)
    assert "train.jsonl: must be a regular file" in run("supsup-train", *words, status=3).stderr
    assert not (tmp_path / "outside").exists()


def test_a_log_that_becomes_a_link_is_not_followed(bank: MaskBank, tmp_path: Path) -> None:
    line = {"task": "a", "index": 0, "accuracy": 0.5, "seconds": 1.0}
    log = bank.path / "train.jsonl"
    reporter = Reporter(progress_bars(quiet=True), bank.path, None, 1, 1)
    reporter.report(line)
    log.rename(tmp_path / "kept")
    log.symlink_to(tmp_path / "outside")
    with pytest.raises(BankError, match=f"{log}: symbolic links are refused"):
        reporter.report(line)
    assert json.loads((tmp_path / "kept").read_text()) == line
    assert not (tmp_path / "outside").exists()


def test_a_log_that_a_person_names_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "log")
    begin_log(tmp_path / "link")
    (tmp_path / "log").write_text('{"a": 1}\n{"b"')
    begin_log(tmp_path / "link")
    assert (tmp_path / "log").read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("recipe", [5, [], "x", None])
def test_a_record_of_another_form_is_one_line(
    bank: MaskBank, module: torch.nn.Module, stream: Stream, recipe: object
) -> None:
    task = st.train_task(bank, module, stream.task(0), recipe=RECIPE)
    bank.add(replace(task, training={"recipe": recipe}))
    message = f"record of task '{task.name}' must have an object as recipe, got "
    with pytest.raises(InputError, match=message):
        st.train_stream(bank, module, stream, recipe=RECIPE)


@pytest.mark.parametrize("folder", ["transfer", "nns"])
def test_what_a_killed_run_left_is_removed_by_the_next(
    bank: MaskBank, module: torch.nn.Module, stream: Stream, folder: str
) -> None:
    (bank.path / folder / ".0001.safetensors.x.part").mkdir(parents=True)  # blocks nothing
    (bank.path / folder / ".0001.safetensors.y.part").write_bytes(b"half")
    if folder == "nns":
        NnsLearner(bank, module).checkpoint()
    else:
        st.train_stream(bank, module, stream, recipe=replace(RECIPE, transfer="scores"))
    assert [path.name for path in bank.path.rglob("*.part")] == [".0001.safetensors.x.part"]


def test_a_sum_of_scores_that_is_a_pipe_is_refused(
    bank: MaskBank, module: torch.nn.Module, stream: Stream
) -> None:
    recipe = replace(RECIPE, transfer="scores")
    st.train_stream(bank, module, stream, recipe=recipe)
    (path,) = (bank.path / "transfer").iterdir()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"0002.safetensors: cannot be read: .* regular file"):
        st.Transfer(bank, recipe)
