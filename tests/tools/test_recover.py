"""tools/recover.py on the bundled digits: every step, going on, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.recover import main
from tools.recovery import making
from tools.recovery.making import left_out_model, stored_model
from tools.recovery.measuring import accuracy
from tools.recovery.setting import TINY, ways
from tools.trace import read_ways

from commands import Done, call, run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.errors import InputError
from supsup_runtime.recovery.model import load_hopfield

TASKS = ["split-0-1", "split-2-3", "split-4-5", "split-6-7", "split-8-9"]


def recover(*arguments: object, status: int = 0) -> Done:
    """The tool, with its commands in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "_command", run)
        return call(main, "recover", *arguments, status=status)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a tiny run of one seed and order."""
    folder = tmp_path_factory.mktemp("recover") / "work"
    done = recover("--tiny", "--seeds", "3", "--work", folder)
    assert "One task left out of the store" in done.stdout
    assert "asked for" not in done.stdout  # tiny numbers are not judged
    yield folder
    shutil.rmtree(folder)


def numbers(folder: Path, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        recover("--tiny", "--work", folder, "--json", *arguments).stdout
    )
    return found


def test_all_masks_are_deleted_before_recovery(work: Path) -> None:
    place = work / "seed-3"
    assert MaskBank.open(place / "trained").task_names == tuple(TASKS)
    assert not MaskBank.open(place / "stored").task_names
    assert [task.name for task in load_hopfield(place / "recover.onnx").tasks] == TASKS
    assert not (place / "stored.part").exists()
    assert not (place / "left-out.onnx").exists()


def test_every_series_has_every_task(work: Path) -> None:
    value = numbers(work, "--seeds", "3")
    lines = value["recoveries"]
    assert len(lines) == len(TASKS) * (len(ways(TINY)) + len(TASKS))
    known = [line for line in lines if line["left_out"] is None]
    assert [line["task"] for line in known] == TASKS * len(ways(TINY))
    to_the_end = [line for line in known if line["way"].endswith("from mean, no looks")]
    assert [line["recovered"]["steps"] for line in to_the_end] == [5, 5, 5, 5, 5]  # 69 to 80 images
    for line in lines:
        assert 0 <= line["distance"] <= 1
        assert 0 <= line["off"] <= 1
        assert line["seed"] == 3
        assert line["same"] <= (line["off"] == 0)
    for line in known:
        assert 0 <= line["running"] <= 1
        assert 0 <= line["batch"] <= 1
    assert value["bars"] == []
    assert value["setting"]["recovery"]["step_size"] == 500
    assert value["machine"]["numpy"] == np.__version__


def test_more_orders_add_to_what_is_there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = work / "recoveries.jsonl"
    before = file.read_text()
    first = numbers(work, "--seeds", "3")["recoveries"]
    assert file.read_text() == before
    monkeypatch.setattr("tools.recovery.measuring.load_hopfield", None)  # nothing is measured
    assert numbers(work, "--seeds", "3")["recoveries"] == first
    monkeypatch.undo()
    file.write_text(before + '{"cut')
    both = numbers(work, "--seeds", "3", "--orders", "2")["recoveries"]
    assert file.read_text().startswith(before)
    assert [line for line in both if line["order"] == 0] == first
    assert {line["task"] for line in both if line["order"] == 1} == set(TASKS)
    assert len(both) == len(first) + len(TASKS) * (3 + len(TASKS))  # three ways are everywhere


def test_traces_of_the_first_order_become_a_picture(work: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = recover(
        "--tiny", "--seeds", "3", "--work", work, "--markdown", "--plot", tmp_path / "t.svg"
    )
    assert done.stderr.endswith(f"wrote {tmp_path / 't.svg'}\n")
    assert done.stdout.startswith("From batches of 16, from mean, within one pass")
    assert "\n|---|---|" in done.stdout
    assert (tmp_path / "t.svg").read_text().count("split-") == len(TASKS)  # in the legend
    recovered = numbers(work, "--seeds", "3")["recoveries"][0]["recovered"]
    (tmp_path / "r.json").write_text(json.dumps(recovered))
    assert len(read_ways([tmp_path / "r.json"])[0].distance) == 6


def test_a_left_out_task_is_not_in_the_model(work: Path, tmp_path: Path) -> None:
    bank = MaskBank.open(work / "seed-3" / "trained")
    model = load_hopfield(left_out_model(bank, TASKS[2], tmp_path / "m.onnx"))
    assert [task.name for task in model.tasks] == [TASKS[0], TASKS[1], TASKS[3], TASKS[4]]


def test_accuracy_is_that_of_the_mask(work: Path) -> None:
    model = load_hopfield(work / "seed-3" / "recover.onnx")
    data = TINY.stream("digits").task(1, train=False)
    task = MaskBank.open(work / "seed-3" / "trained").task(TASKS[1])
    parts = [unpack_mask(task.masks[p.name], (p.size,)) for p in model.info.network.parameters]
    mask = np.concatenate(parts)
    assert model.find(mask) == (model.tasks[1],)
    found = replace(model.recover([data.test_x]), mask=mask)
    want = [
        np.mean(model.logits(data.test_x, mask, statistics=kind).argmax(axis=1) == data.test_y)
        for kind in ("running", "batch")
    ]
    rows = len(data.test_x)
    assert accuracy(model, found, data, rows=7, statistics="running") == want[0]
    assert accuracy(model, found, data, rows=rows, statistics="batch") == want[1]
    back = np.arange(rows)[::-1]
    assert accuracy(model, found, data, rows=7, statistics="running", order=back) == want[0]


def test_a_store_beside_masks_is_refused(work: Path, tmp_path: Path) -> None:
    bank = MaskBank.open(work / "seed-3" / "trained")
    shutil.copytree(bank.path, tmp_path / "stored")
    with pytest.raises(InputError, match=r"stored: must have no mask left, got .*'split-0-1'"):
        stored_model(bank, tmp_path)


def test_another_setting_in_the_folder_is_refused(work: Path, tmp_path: Path) -> None:
    shutil.copy(work / "setting.json", tmp_path)
    file = tmp_path / "setting.json"
    file.write_text(file.read_text().replace('"momentum": 0.9', '"momentum": 0.8'))
    done = recover("--tiny", "--work", tmp_path, status=1)
    assert "begun with recovery.momentum 0.8, this run wants 0.9" in done.stderr


def test_a_failed_command_is_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    making._command("supsup-hopfield", "--version")
    with pytest.raises(InputError, match="supsup-hopfield ended with status 3, its message is"):
        making._command("supsup-hopfield", "encode", "--bank", "nowhere")
    told = capfd.readouterr()
    assert not told.out  # it is for the tables
    assert "supsup-hopfield" in told.err
    assert "nowhere" in told.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 1, "recover: data: give the folder of MNIST with --data, or --tiny"),
        (("--tiny", "--data", "mnist"), 1, "one of the two"),
        (("--data", "nowhere"), 1, "recover: nowhere: "),
        (("--tiny", "--seeds", "0,0"), 2, "must differ, got '0,0'"),
        (("--tiny", "--seeds", "0,x"), 2, "must be whole numbers and commas, got '0,x'"),
        (("--tiny", "--orders", "0"), 2, "must be an integer of at least 1, got '0'"),
        (("--tiny", "--json", "--markdown"), 2, "not allowed with"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: tuple[str, ...], status: int, message: str, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    done = recover(*arguments, "--work", work, status=status)
    assert message in done.stderr
    assert not work.exists()


def test_the_script_finds_its_parts() -> None:
    tool = Path(__file__).resolve().parents[2] / "tools" / "recover.py"
    done = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("recover: data: ")
