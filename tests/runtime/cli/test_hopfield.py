from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from commands import Done, program, run, run_stopped
from conftest import network_of, random_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import count_ones, pack_mask
from supsup_runtime.bank.network import MaskedParameter, StateTensor
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.files import exclusive
from supsup_runtime.hopfield.file import STORE_FILE, read_store


def encode(bank: MaskBank, *arguments: object, status: int = 0) -> Done:
    return run("supsup-hopfield", "encode", "--bank", bank.path, *arguments, status=status)


@pytest.fixture
def wide(tmp_path: Path) -> MaskBank:
    """Four tasks, well within the capacity of 200 units."""
    network = network_of(
        MaskedParameter.signed_kaiming("first", (200,)),
        MaskedParameter.signed_kaiming("second", (20, 11)),
        state=[StateTensor(name="mean", shape=(5,))],
    )
    made = MaskBank.create(tmp_path / "wide", network, forward=b"forward")
    made.extend(random_task(network, f"task-{i}", seed=i) for i in range(4))
    return made


def test_tasks_one_after_the_other_then_all(wide: MaskBank) -> None:
    done = encode(wide, "task-2", "--rule", "hebb", "--dtype", "float16")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["task", "bit", "error", "first", "bit", "error", "second"]
    assert lines[1].split() == ["task-2", "0.0000", "0.0000"]
    size = (wide.path / STORE_FILE).stat().st_size
    assert lines[2].endswith(f"1 encoded, 1 in total, rule hebb, float16, {size:,} bytes")
    said = json.loads(encode(wide, "--json").stdout)
    assert said["encoded"] == ["task-0", "task-1", "task-3"]
    assert (said["num_encoded"], said["num_explicit"], said["deleted"]) == (4, 4, [])
    assert read_store(wide).task_names == ("task-2", "task-0", "task-1", "task-3")
    before = (wide.path / STORE_FILE).read_bytes()
    assert "0 encoded, 4 in total" in encode(wide).stdout
    assert (wide.path / STORE_FILE).read_bytes() == before


def test_masks_are_deleted_once_the_store_gives_them_back(wide: MaskBank) -> None:
    tasks = {task.name: task for task in wide}
    done = encode(wide, "task-1", "task-0", "--delete-masks")
    assert "2 task files deleted, 2 left" in done.stdout
    assert MaskBank.open(wide.path).task_names == ("task-2", "task-3")
    assert json.loads(encode(wide, "--json", "--delete-masks").stdout)["deleted"] == [
        "task-2",
        "task-3",
    ]
    assert list((wide.path / "tasks").iterdir()) == []
    bank = MaskBank.open(wide.path)
    store = read_store(bank)
    for name, task in tasks.items():
        near = store.patterns_of(task)
        for pattern in near.values():
            pattern[:10] *= -1
        assert store.find(store.settle(near)[0]) == (name,)
    assert "bank " in run("supsup-inspect", wide.path).stdout
    assert "0 tasks" in run("supsup-bank", "verify", wide.path).stdout
    assert run("supsup-bank", "list", wide.path).stdout.split()[0] == "index"
    again = encode(wide, status=0)
    assert "0 encoded, 4 in total" in again.stdout


def test_masks_encoded_earlier_are_deleted_later(wide: MaskBank) -> None:
    encode(wide)
    said = json.loads(encode(wide, "task-3", "--delete-masks", "--json").stdout)
    assert (said["encoded"], said["deleted"]) == ([], ["task-3"])
    assert MaskBank.open(wide.path).task_names == ("task-0", "task-1", "task-2")


def test_a_warning_is_one_line_a_parameter(bank: MaskBank) -> None:
    """Matrices of 9 and 7 units hold one pattern."""
    lines = encode(bank, "--rule", "hebb").stderr.splitlines()
    assert lines
    for line in lines:
        assert line.startswith("supsup-hopfield: warning: Hopfield store: '")
        assert "expected bit error " in line or "does not hold " in line
    assert any("'first' holds 2 patterns of 9 bits" in line for line in lines)


def test_masks_alike_that_storkey_forgets_are_told(wide: MaskBank) -> None:
    """Density 0.1, well below the capacity of random masks: the newest task shows no error."""
    wide.extend(random_task(wide.network, f"a-{i}", seed=50 + i, density=0.1) for i in range(16))
    done = encode(wide)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("a-")]
    assert all(float(cell) == 0 for row in rows for cell in row[1:])
    lines = done.stderr.splitlines()
    assert [line.split("'")[1] for line in lines] == ["first", "second"]
    assert all("of the tasks whose masks are in the bank: one step flips up to" in x for x in lines)


def test_masks_that_would_be_lost_are_not_deleted(bank: MaskBank) -> None:
    bank.extend(random_task(bank.network, f"more-{i}", seed=20 + i) for i in range(9))
    done = encode(bank, "--rule", "hebb", "--delete-masks", status=3)
    last = done.stderr.splitlines()[-1]
    assert "the store must return the mask" in last
    assert "no mask was deleted" in last
    assert len(MaskBank.open(bank.path)) == 12
    assert len(read_store(bank)) == 12


def test_a_task_that_was_replaced_since_is_not_deleted(wide: MaskBank) -> None:
    encode(wide)
    wide.replace(random_task(wide.network, "task-1", seed=77))
    done = encode(wide, "task-1", "--delete-masks", status=3)
    assert "'task-1' was replaced since it was encoded" in done.stderr
    assert "task-1" in MaskBank.open(wide.path)


def test_refusals_are_one_line_and_change_nothing(wide: MaskBank, tmp_path: Path) -> None:
    encode(wide, "task-0")
    before = {p: p.read_bytes() for p in wide.path.rglob("*") if p.is_file()}
    for arguments, status, message in (
        (["task-0"], 3, "is encoded already"),
        (["nope"], 3, "no task 'nope'"),
        (["--rule", "hebb"], 1, "rule of an existing store cannot change, expected storkey"),
    ):
        done = encode(wide, *arguments, status=status)
        assert message in done.stderr
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    with exclusive(wide.path):
        assert "another process" in encode(wide, status=1).stderr
    done = run("supsup-hopfield", "encode", "--bank", tmp_path / "none", status=3)
    assert "not a mask bank" in done.stderr
    assert {p: p.read_bytes() for p in wide.path.rglob("*") if p.is_file()} == before
    empty = MaskBank.create(tmp_path / "empty", wide.network, forward=b"forward")
    assert "has no task to encode" in encode(empty, status=3).stderr


def test_a_store_of_another_network_is_status_3(wide: MaskBank, bank: MaskBank) -> None:
    encode(bank)
    (bank.path / STORE_FILE).rename(wide.path / STORE_FILE)
    for module, arguments in (
        ("supsup-hopfield", ["encode", "--bank", wide.path]),
        ("supsup-bank", ["verify", wide.path]),
        ("supsup-inspect", [wide.path, "--storage"]),
    ):
        done = run(module, *arguments, status=3)
        assert f"belongs to another network: digest must be {wide.digest}" in done.stderr
        assert done.stderr.count("\n") == 1


def test_storage_says_which_is_smaller(wide: MaskBank) -> None:
    value = json.loads(run("supsup-inspect", wide.path, "--storage", "--json").stdout)
    halves = 200 * 201 // 2 + 220 * 221 // 2
    others = 4 * (200 + 220) + 8 * 5
    assert value["hopfield_bytes"] == {
        "float32": 4 * halves + others,
        "float16": 2 * halves + others,
    }
    a_task = 25 + 28 + 20  # two packed masks, five floats
    assert (value["task_bytes"], value["packed_bytes"]) == (a_task, 4 * a_task)
    assert value["break_even"]["float16"] == -(-(2 * halves + others) // a_task)
    assert value["capacity"] == {"hebb": 27, "storkey": 61}
    assert value["explicit_bytes"] == sum(p.stat().st_size for p in (wide.path / "tasks").iterdir())
    assert value["store"] is None
    assert value["float_bytes"] == 4 * 4 * (200 + 220 + 5)
    each = value["by_task"]
    for form in ("bound", "csc", "explicit", "float", "packed"):
        assert value[f"{form}_bytes"] == sum(task[f"{form}_bytes"] for task in each)
    task = wide.task(0)
    ones = sum(map(count_ones, task.masks.values()))
    assert (each[0]["name"], each[0]["density"]) == ("task-0", ones / 420)
    assert each[0]["csc_bytes"] == 2 * ones + 4 * 5
    assert 0.95 * 420 / 8 < each[0]["bound_bytes"] - 20 < 420 / 8
    assert "explicit masks are smaller: 292 bytes" in value["verdict"]
    encode(wide, "--dtype", "float16")
    text = run("supsup-inspect", wide.path, "--storage").stdout
    size = (wide.path / STORE_FILE).stat().st_size
    assert f"{STORE_FILE}, storkey, float16" in text
    assert f"{size:,}" in text
    encode(wide, "--delete-masks")
    value = json.loads(run("supsup-inspect", wide.path, "--storage", "--json").stdout)
    assert (value["tasks"], value["explicit_bytes"], value["store"]["tasks"]) == (0, 0, 4)
    assert "For the 4 tasks of this bank, explicit masks are smaller" in value["verdict"]


def test_storage_of_a_network_too_large_or_without_masks(tmp_path: Path) -> None:
    large = network_of(MaskedParameter.signed_kaiming("w", (300, 784)))
    bank = MaskBank.create(tmp_path / "large", large, forward=b"f")
    bank.add(TaskMasks(name="a", masks={"w": pack_mask(np.ones(235_200, bool))}))
    text = run("supsup-inspect", bank.path, "--storage").stdout
    assert "none: above 16,384 units" in text
    assert "This bank supports explicit masks only" in text
    done = encode(bank, status=1)
    assert "1 to 16384 units, got 235200, whose matrix would take 221,276,160,000" in done.stderr
    bare = network_of(state=[StateTensor(name="s", shape=(1,))])
    empty = MaskBank.create(tmp_path / "bare", bare, forward=b"f")
    done = run("supsup-inspect", empty.path, "--storage", status=1)
    assert "this network has no masked parameter" in done.stderr
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert (
        "--storage needs a bank, got a file"
        in run("supsup-inspect", file, "--storage", status=1).stderr
    )


@pytest.mark.parametrize(
    ("event", "name", "count"),
    [
        ("os.rename", STORE_FILE, 1),  # before the store is there
        ("os.rename", "bank.json", 1),  # the store is there, the task as well
        ("os.remove", ".safetensors", 1),  # the task's file is left, no longer named
    ],
)
def test_a_killed_encoding_is_repeated_with_the_same_words(
    wide: MaskBank, event: str, name: str, count: int
) -> None:
    words = ["encode", "--bank", wide.path, "task-1", "task-3", "--delete-masks"]
    run_stopped(program("supsup-hopfield"), *words, event=event, name=name, count=count)
    for _ in range(2):  # once more: nothing is left to do
        said = json.loads(run("supsup-hopfield", *words, "--json").stdout)
        assert said["num_encoded"] == 2
        assert not list(wide.path.rglob("*.part"))
        assert MaskBank.open(wide.path).task_names == ("task-0", "task-2")
        assert len(list((wide.path / "tasks").iterdir())) == 2
    assert said["deleted"] == []
    assert "no task 'nope'" in encode(wide, "nope", "--delete-masks", status=3).stderr


def test_a_store_that_is_no_file_is_refused(wide: MaskBank) -> None:
    (wide.path / STORE_FILE).mkdir()
    for command in ("encode", "verify"):
        words = ["--bank", wide.path] if command == "encode" else [wide.path]
        name = "supsup-hopfield" if command == "encode" else "supsup-bank"
        done = run(name, command, *words, status=3)
        assert f"{STORE_FILE}: must be a regular file" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_network_whose_matrices_take_too_much_is_refused(tmp_path: Path) -> None:
    layers = [MaskedParameter.ones(f"layer-{i}", (16_384,)) for i in range(200)]
    bank = MaskBank.create(tmp_path / "b", network_of(*layers), forward=b"f")
    bank.add(random_task(bank.network, "a"))
    done = encode(bank, status=1)
    assert "may take 4,294,967,296 bytes in memory, got 214,748,364,800; mask fewer" in done.stderr
    store = {
        f"{kind}.{p.name}": np.zeros(1, np.float32) for p in layers for kind in ("matrix", "sum")
    }
    header = {"digest": bank.digest, "dtype": "float32", "format": 1, "rule": "hebb"}
    text = json.dumps({**header, "sha256": "", "tasks": []})
    data = safetensors.numpy.save(store, metadata={"supsup": text})
    (bank.path / STORE_FILE).write_bytes(data)
    done = encode(bank, status=3)
    assert "'matrix.layer-0' must be float32 (134225920,), got float32 (1,)" in done.stderr
