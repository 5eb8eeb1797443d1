from __future__ import annotations

import contextlib
import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import supsup_runtime.hopfield.file as file_module
from conftest import random_task, small_network
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.fields import canonical_json
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import BankError, BankLockedError, CapacityWarning, InputError
from supsup_runtime.files import exclusive
from supsup_runtime.hopfield.file import (
    STORE_FILE,
    decode_store,
    delete_masks,
    encode_into,
    encode_store,
    has_store,
    read_store,
)
from supsup_runtime.hopfield.store import HopfieldStore, fingerprints

pytestmark = pytest.mark.filterwarnings(
    "ignore::supsup_runtime.errors.CapacityWarning"  # tiny matrices are soon full
)
NETWORK = small_network(state=True)


def filled(rule: str = "storkey", dtype: str = "float32", count: int = 3) -> HopfieldStore:
    store = HopfieldStore(NETWORK, "d", rule=rule, dtype=dtype)
    for index in range(count):
        store.encode(random_task(NETWORK, f"task-{index}", seed=index))
    return store


def assert_equal(left: HopfieldStore, right: HopfieldStore) -> None:
    assert (left.digest, left.rule, left.dtype) == (right.digest, right.rule, right.dtype)
    assert left.tasks == right.tasks
    for name, matrix in left.matrices.items():
        np.testing.assert_array_equal(matrix.scaled, right.matrices[name].scaled)
        np.testing.assert_array_equal(left.sums[name], right.sums[name])
    for name, total in left.state_sums.items():
        np.testing.assert_array_equal(total, right.state_sums[name])


@pytest.mark.parametrize("rule", ["hebb", "storkey"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_decode_inverts_encode_and_encoding_goes_on(rule: str, dtype: str, count: int) -> None:
    store = filled(rule, dtype, count)
    back = decode_store(encode_store(store), NETWORK, "d", place="f")
    assert_equal(back, store)
    for one in (store, back):
        one.encode(random_task(NETWORK, "more", seed=99))
    assert_equal(back, store)
    assert encode_store(back) == encode_store(store)


def test_store_files_are_frozen() -> None:
    """Format 1: these bytes are on devices."""
    network = Network(
        weight_seed=0,
        input_shape=(1,),
        outputs=2,
        real_outputs=2,
        parameters=(MaskedParameter.signed_kaiming("w", (3,)),),
        state=(StateTensor(name="s", shape=(2,)),),
    )
    store = HopfieldStore(network, "d", rule="hebb", dtype="float16")
    for name, mask in (("a", 5), ("b", 1)):  # signs + - +, then + - -
        masks = {"w": np.array([mask], np.uint8)}
        state = {"s": np.array([0.5, -2], np.float32)}
        store.encode(TaskMasks(name=name, masks=masks, state=state, labels=("no",)))
    data = encode_store(store)
    assert data == GOLDEN
    tensors = safetensors.numpy.load(data)
    assert tensors["matrix.w"].tolist() == [2, -2, 0, 2, 0, 2]
    assert tensors["sum.w"].tolist() == [2, -2, 0]
    assert tensors["state.s"].tolist() == [1, -4]


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        ({"entropy": 0.25}, 0.25),
        ({"entropy": 0}, 0.0),
        ({}, None),
        ({"entropy": "low"}, None),
        ({"entropy": -1.0}, None),
        ({"entropy": True}, None),
    ],
)
def test_the_entropy_that_training_recorded_is_kept(
    record: dict[str, Any], kept: float | None
) -> None:
    store = HopfieldStore(NETWORK, "d")
    task = random_task(NETWORK, "a")
    store.encode(replace(task, training=record))
    back = decode_store(encode_store(store), NETWORK, "d", place="f")
    assert (back.tasks[0].entropy, back.tasks) == (kept, store.tasks)


def test_the_sum_of_state_does_not_drift() -> None:
    """Written and read between the tasks, it is what it is when they come at once."""
    store, part = filled(count=0), filled(count=0)
    for index in range(5):
        task = random_task(NETWORK, f"t{index}", seed=index)
        store.encode(task)
        part = decode_store(encode_store(part), NETWORK, "d", place="f")
        part.encode(task)
    assert_equal(part, store)


def test_every_truncation_is_refused() -> None:
    data = encode_store(filled())
    for length in range(0, len(data), 7):
        with pytest.raises(BankError, match="f: not a whole safetensors file"):
            decode_store(data[:length], NETWORK, "d", place="f")


def test_a_flipped_bit_can_do_no_more_than_be_refused() -> None:
    data = bytearray(encode_store(filled(dtype="float16", count=1)))
    for position, bit in itertools.product(range(len(data)), range(8)):
        data[position] ^= 1 << bit
        with contextlib.suppress(BankError):
            encode_store(decode_store(bytes(data), NETWORK, "d", place="f"))
        data[position] ^= 1 << bit


def header_of(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["supsup"])
    return header


Change = Callable[[dict[str, Any], dict[str, Any]], object]


def changed(change: Change) -> bytes:
    """A store's bytes after `change` of its header and its tensors."""
    data = encode_store(filled())
    header, tensors = header_of(data), dict(safetensors.numpy.load(data))
    change(header, tensors)
    return safetensors.numpy.save(tensors, metadata={"supsup": canonical_json(header)})


def put(key: str, value: object) -> Change:
    return lambda header, _: header.update({key: value})


def put_task(**values: object) -> Change:
    return lambda header, _: header["tasks"][0].update(values)


def put_tensor(name: str, value: object) -> Change:
    return lambda _, tensors: tensors.update({name: np.array(value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format", 2), "Hopfield store format must be 1, got 2"),
        (put("format", True), "Hopfield store format must be 1, got True"),
        (put("digest", "e"), "belongs to another network: digest must be d, got 'e'"),
        (put("rule", "x"), "rule: must be one of hebb, storkey, got 'x'"),
        (put("rule", ["x"]), "rule: must be one of hebb, storkey, got"),
        (put("dtype", "int8"), "dtype: must be one of float32, float16, got 'int8'"),
        (put("dtype", "float16"), r"'matrix.first' must be float16 \(45,\), got float32 \(45,\)"),
        (put("sha256", 1), "damaged or was changed: SHA-256 of its tensors must be 1, got"),
        (put_tensor("matrix.first", np.ones(45, np.float32)), "damaged or was changed: SHA-256"),
        (put("more", 1), "f: fields must be"),
        (put("tasks", {}), "tasks must be a list of 0 to 100000, got {}"),
        (put("tasks", [1]), "a task: fields must be .*, got int"),
        (put_task(more=1), "a task: fields must be"),
        (put_task(name="../a"), "f: task name: must be"),
        (put_task(name="TASK-1"), "task names must be unique"),
        (put_task(labels="no"), "labels must be a list, got 'no'"),
        (put_task(labels=["a", "b", "c"]), "at most 2 labels"),
        (put_task(labels=[1]), "labels must be strings"),
        (put_task(entropy=None), "entropy of a task must be at least 0 and finite, got None"),
        (put_task(entropy=True), "entropy of a task must be at least 0 and finite, got True"),
        (put_task(entropy=-0.1), "entropy of a task must be at least 0 and finite, got -0.1"),
        (put_task(entropy="1"), "entropy of a task must be at least 0 and finite, got '1'"),
        (put_task(entropy=10**400), "entropy of a task must be at least 0 and finite, got 1"),
        (put_task(fingerprints=["0" * 16]), "fingerprints of a task must be 2, each"),
        (put_task(fingerprints=["0" * 16, "x" * 16]), "each of 16 hexadecimal digits"),
        (put_task(fingerprints=["0" * 16, 1]), "each of 16 hexadecimal digits"),
        (put_tensor("more", [1.0]), r"missing \[\], extra \['more'\]"),
        (lambda _, tensors: tensors.pop("sum.first"), r"missing \['sum.first'\], extra"),
        (put_tensor("sum.first", np.zeros(9, np.int32)), "must add 3 signs: .* and odd"),
        (put_tensor("sum.first", np.full(9, 5, np.int32)), r"within \[-3, 3\] and odd"),
        (put_tensor("sum.first", np.full(9, -(2**31), np.int32)), "must add 3 signs"),
        (put_tensor("sum.first", np.ones(9)), r"must be int32 \(9,\), got float64 \(9,\)"),
        (put_tensor("state.mean", np.ones(2, np.float32)), r"must be float64 \(2,\), got float32"),
        (put_tensor("state.mean", [1.0, np.nan]), "'state.mean' must be finite"),
        (put_tensor("matrix.first", np.full(45, np.inf, np.float32)), "must be finite"),
        (put_tensor("matrix.first", np.ones((5, 9), np.float32)), r"got float32 \(5, 9\)"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: Change, message: str) -> None:
    with pytest.raises(BankError, match=message) as caught:
        decode_store(changed(change), NETWORK, "d", place="f")
    assert str(caught.value).startswith("f: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "1", "[1]", "1" * 5000, "[" * 100_000])
def test_a_header_that_is_none_is_refused(text: str) -> None:
    tensors = safetensors.numpy.load(encode_store(filled()))
    for metadata in ({"supsup": text}, {"other": text}, None):
        data = safetensors.numpy.save(tensors, metadata=metadata)
        with pytest.raises(BankError, match=r"f: (metadata|Hopfield store format)"):
            decode_store(data, NETWORK, "d", place="f")


def test_a_header_too_long_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled()
    data = encode_store(store)
    short = replace(file_module._FILE, max_header=100)
    monkeypatch.setattr("supsup_runtime.hopfield.file._FILE", short)
    with pytest.raises(BankError, match="header must have at most 100 characters, got"):
        encode_store(store)
    with pytest.raises(BankError, match="f: header must have at most 100 characters, got"):
        decode_store(data, NETWORK, "d", place="f")


def test_a_store_of_a_bank(bank: MaskBank) -> None:
    assert not has_store(bank)
    with pytest.raises(BankError, match=r"has no Hopfield store, .* supsup-hopfield encode"):
        read_store(bank)
    store, errors = encode_into(bank, ["task-1"], rule="hebb", dtype="float16")
    assert set(errors) == {"task-1"}
    assert has_store(bank)
    assert_equal(read_store(bank), store)
    before = (bank.path / "bank.json").read_bytes()
    whole, errors = encode_into(bank, ["task-2", "task-0"])
    assert list(errors) == ["task-2", "task-0"]
    assert read_store(bank).task_names == ("task-1", "task-2", "task-0")
    at_once = HopfieldStore(bank.network, bank.digest, rule="hebb", dtype="float16")
    for name in whole.task_names:
        at_once.encode(bank.task(name))
    assert_equal(whole, at_once)
    assert (bank.path / "bank.json").read_bytes() == before
    assert MaskBank.open(bank.path).task_names == bank.task_names


def test_a_bank_without_explicit_masks_opens_and_goes_on(bank: MaskBank) -> None:
    store, _ = encode_into(bank, bank.task_names)
    for name in bank.task_names:
        bank.remove(name)
    again = MaskBank.open(bank.path)
    assert len(again) == 0
    assert_equal(read_store(again), store)
    again.add(random_task(bank.network, "new", seed=9))
    grown, _ = encode_into(again, ["new"])
    assert grown.task_names == ("task-0", "task-1", "task-2", "new")


def test_refusals_leave_the_file_as_it_was(bank: MaskBank) -> None:
    encode_into(bank, ["task-0"], rule="hebb")
    before = (bank.path / STORE_FILE).read_bytes()
    with pytest.raises(InputError, match=r"rule of an existing store .* hebb, got storkey"):
        encode_into(bank, ["task-1"], rule="storkey")
    with pytest.raises(InputError, match=r"dtype of an existing store .* float32, got float16"):
        encode_into(bank, ["task-1"], dtype="float16")
    with pytest.raises(BankError, match="task 'task-0': is encoded already"):
        encode_into(bank, ["task-1", "task-0"])
    with pytest.raises(BankError, match="no task 'nope'"):
        encode_into(bank, ["task-1", "nope"])
    with (
        exclusive(bank.path),
        pytest.raises(BankLockedError, match="another process is writing"),
    ):
        encode_into(bank, ["task-1"])
    assert (bank.path / STORE_FILE).read_bytes() == before


def test_a_mask_that_is_not_in_the_store_is_not_deleted(bank: MaskBank) -> None:
    encode_into(bank, ["task-0"])
    with pytest.raises(BankError, match="task 'task-1' is not in the store; encode it first"):
        delete_masks(bank, ["task-0", "task-1"])
    assert len(MaskBank.open(bank.path)) == 3
    delete_masks(bank, ["task-0", "task-0"])
    assert MaskBank.open(bank.path).task_names == ("task-1", "task-2")


def test_masks_are_checked_and_deleted_under_one_lock(
    bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_into(bank, bank.task_names[:1])
    other, looked = MaskBank.open(bank.path), []

    def look(task: TaskMasks, network: Network) -> tuple[str, ...]:
        looked.append(task.name)
        with pytest.raises(BankLockedError):  # after the check it would be lost with the old one
            other.replace(random_task(network, task.name, seed=77))
        return fingerprints(task, network)

    monkeypatch.setattr(file_module, "fingerprints", look)
    delete_masks(bank, ["task-0"])
    assert (looked, MaskBank.open(bank.path).task_names) == (["task-0"], ("task-1", "task-2"))


def test_a_store_that_is_gone_deletes_no_mask(bank: MaskBank) -> None:
    encode_into(bank, ["task-0"])
    (bank.path / STORE_FILE).unlink()
    with pytest.raises(BankError, match="the bank has no Hopfield store"):
        delete_masks(bank, ["task-0"])
    assert len(MaskBank.open(bank.path)) == 3


def test_a_task_is_encoded_as_it_is_now(bank: MaskBank) -> None:
    new = random_task(bank.network, "task-0", seed=77)
    MaskBank.open(bank.path).replace(new)
    MaskBank.open(bank.path).add(random_task(bank.network, "new"))
    store, _ = encode_into(bank, ["task-0", "new"])
    assert store.tasks[0].fingerprints == fingerprints(new, bank.network)


def test_size_and_links_are_looked_at_first(bank: MaskBank, tmp_path: Path) -> None:
    encode_into(bank, ["task-0"])
    path = bank.path / STORE_FILE
    with path.open("ab") as file:
        file.truncate(1 << 30)  # sparse: no bytes are written
    with pytest.raises(BankError, match=r"hopfield.safetensors: must have at most \d+ bytes, got"):
        read_store(bank)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BankError, match="symbolic links are refused"):
        read_store(bank)


def test_encoding_beyond_capacity_warns_through_the_bank(bank: MaskBank) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encode_into(bank, bank.task_names, rule="hebb")
    assert caught
    assert {w.category for w in caught} == {CapacityWarning}


GOLDEN = (
    b'\x10\x02\x00\x00\x00\x00\x00\x00{"__metadata__":{"supsup":"{\\"digest\\":\\"d\\",\\"dtype'
    b'\\":\\"float16\\",\\"format\\":1,\\"rule\\":\\"hebb\\",\\"sha256\\":\\"a'
    b"da4abfcb731d8d4d48512a4b8cd26b58df2483addc47efdbd16574e4d360"
    b'299\\",\\"tasks\\":[{\\"fingerprints\\":[\\"e77b9a9ae9e30b0d\\"],\\"'
    b'labels\\":[\\"no\\"],\\"name\\":\\"a\\"},{\\"fingerprints\\":[\\"4bf51'
    b'22f344554c5\\"],\\"labels\\":[\\"no\\"],\\"name\\":\\"b\\"}]}"},"stat'
    b'e.s":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"sum.'
    b'w":{"dtype":"I32","shape":[3],"data_offsets":[16,28]},"matri'
    b'x.w":{"dtype":"F16","shape":[6],"data_offsets":[28,40]}}\x00\x00\x00\x00'
    b"\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\x10\xc0\x02\x00\x00\x00\xfe\xff\xff\xff\x00\x00\x00\x00\x00@\x00\xc0\x00\x00\x00@\x00\x00\x00@"
)
