"""tools/reproduction/hopfield.py on the bundled digits: every step, and more of it later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.reproduce import main
from tools.reproduction.catalogue import EXPERIMENTS
from tools.reproduction.hopfield import Hopfield, accuracy, stored_model
from tools.reproduction.plot import plot_traces

from commands import Done, call
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.recovery.model import load_hopfield

pytestmark = pytest.mark.slow

TASKS = ["split-0-1", "split-2-3", "split-4-5", "split-6-7", "split-8-9"]
TINY = EXPERIMENTS["hopfield"].tiny()


def hopfield(work: Path, *arguments: object, status: int = 0) -> Done:
    words = ("hopfield", "--tiny", "--work", work, *arguments)
    return call(main, "reproduce", *words, status=status)


def rows(work: Path, *arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(hopfield(work, "--json", *arguments).stdout)["rows"]
    return found


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a tiny run of one seed and order."""
    folder = tmp_path_factory.mktemp("hopfield")
    done = hopfield(folder)
    assert "One task left out of the store" in done.stdout
    assert "Bars" not in done.stdout  # tiny numbers are not judged
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def trained(work: Path) -> MaskBank:
    return MaskBank.open(work / "tiny" / "hopfield" / "banks" / "seed-0")


def test_the_store_holds_the_tasks_asked_for_and_no_mask(trained: MaskBank, tmp_path: Path) -> None:
    for left_out, known in ((None, TASKS), (TASKS[2], [*TASKS[:2], *TASKS[3:]])):
        folder = tmp_path / str(left_out)
        folder.mkdir()
        model = load_hopfield(stored_model(trained, folder, left_out))
        assert [task.name for task in model.tasks] == known
        assert not MaskBank.open(folder / "stored").task_names
    assert trained.task_names == tuple(TASKS)


def test_every_series_has_every_task(work: Path) -> None:
    assert isinstance(TINY, Hopfield)
    lines = rows(work)
    assert len(lines) == len(TASKS) * (len(TINY.ways) + len(TASKS))
    known = [line for line in lines if line["left_out"] is None]
    assert [line["task"] for line in known] == TASKS * len(TINY.ways)
    to_the_end = [line for line in known if line["way"].endswith("from mean, no looks")]
    assert [line["steps"] for line in to_the_end] == [5, 5, 5, 5, 5]  # 69 to 80 images
    assert [line for line in lines if "trace" in line] == to_the_end
    for line in lines:
        assert all(0 <= line[name] <= 1 for name in ("distance", "off", "running", "batch"))
        assert line["same"] <= (line["off"] == 0)
    assert TINY.setting()["recovery"]["step_size"] == 500


def test_more_orders_add_to_what_is_there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = work / "tiny" / "hopfield" / "rows.jsonl"
    before = file.read_text()
    monkeypatch.setattr("tools.reproduction.hopfield.load_hopfield", None)  # nothing is measured
    first = rows(work)
    assert file.read_text() == before
    monkeypatch.undo()
    file.write_text(before + '{"cut')
    both = rows(work, "--orders", "2")
    assert file.read_text().startswith(before)
    assert [line for line in both if line["order"] == 0] == first
    assert {line["task"] for line in both if line["order"] == 1} == set(TASKS)
    assert len(both) == len(first) + len(TASKS) * (3 + len(TASKS))  # three ways are everywhere


def test_accuracy_is_that_of_the_mask(trained: MaskBank, tmp_path: Path) -> None:
    model = load_hopfield(stored_model(trained, tmp_path))
    stream = make_stream("split", load_dataset("digits"), num_tasks=5, labels="shared")
    data = stream.task(1, train=False)
    task = trained.task(TASKS[1])
    parts = [unpack_mask(task.masks[p.name], (p.size,)) for p in model.info.network.parameters]
    mask = np.concatenate(parts)
    assert model.find(mask) == (model.tasks[1],)
    found = replace(model.recover([data.test_x]), mask=mask)
    order = np.arange(len(data.test_x))[::-1]
    for statistics, size in (("running", 7), ("batch", len(order))):
        logits = model.logits(data.test_x, mask, statistics=statistics)  # type: ignore[arg-type]  # one of both
        want = np.mean(logits.argmax(axis=1) == data.test_y)
        got = accuracy(model, found, data, rows=size, statistics=statistics, order=order)  # type: ignore[arg-type]  # as above
        assert got == want


def test_equal_traces_give_equal_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trace = {"distance": [0.5, 0.25, 0.0], "energy": [-1, -9], "entropy": [2.0, None]}
    lines: dict[str, dict[str, Any]] = {
        "a": {"verdict": "stored", "expected_entropy": 0.2, "trace": trace},
        "b": {"verdict": "diverged", "expected_entropy": None, "trace": trace},
    }
    for name in ("a.svg", "b.svg"):
        assert plot_traces(lines, tmp_path / name) == f"wrote {tmp_path / name}"
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_another_setting_in_the_folder_is_refused(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "hopfield"
    folder.mkdir(parents=True)
    text = (work / "tiny" / "hopfield" / "setting.json").read_text()
    (folder / "setting.json").write_text(text.replace('"momentum": 0.9', '"momentum": 0.8'))
    done = hopfield(tmp_path, status=1)
    assert "the folder has recovery.momentum 0.8, this run has 0.9" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--bank", "seed-0=x"), 1, "--bank: hopfield has the banks (none), got 'seed-0'"),
        (("--tasks", "3"), 1, "--tasks: hopfield has no such option; leave it out"),
        (("--orders", "0"), 2, "must be an integer of at least 1, got '0'"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: tuple[str, ...], status: int, message: str, tmp_path: Path
) -> None:
    assert message in hopfield(tmp_path / "work", *arguments, status=status).stderr
    assert not (tmp_path / "work").exists()
