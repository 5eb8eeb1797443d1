from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from conftest import random_task, small_network
from supsup_runtime.bank import task_tensors
from supsup_runtime.bank.network import MaskedParameter, Network
from supsup_runtime.bank.task import (
    TaskMasks,
    _sealed,
    check_name,
    decode_task,
    encode_task,
    make_task,
)
from supsup_runtime.bank.task_tensors import FREE_BYTES
from supsup_runtime.errors import BankError

NETWORK = small_network(state=True)


def header_of(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + length])["__metadata__"]["supsup"]
    header: dict[str, Any] = json.loads(text)
    return header


def is_sparse(data: bytes, network: Network) -> bool:
    """Whether the first mask is not packed."""
    header = header_of(data)
    first = network.parameters[0]
    if header["format"] == 1:
        return bool(header["encodings"][first.name] == "sparse")
    return bool(header["lengths"][0] < -(-first.size // 8))


def sized_network(size: int) -> Network:
    parameters = (MaskedParameter.signed_kaiming("w", (size, 1)),)
    return Network(
        weight_seed=0, input_shape=(1,), outputs=2, real_outputs=2, parameters=parameters
    )


@given(
    size=st.sampled_from([1, 7, 8, 9, 1000, 5000]),
    density=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    seed=st.integers(0, 5),
    version=st.sampled_from([1, 2]),
)
def test_decode_inverts_encode(size: int, density: float, seed: int, version: int) -> None:
    network = sized_network(size)
    task = random_task(network, "a", seed, density)
    data = encode_task(task, network, "d", version=version)
    back = decode_task(data, network, "d", place="f")
    np.testing.assert_array_equal(back.masks["w"], task.masks["w"])
    assert (back.name, back.labels, back.training) == (task.name, task.labels, task.training)
    if size >= 1000:
        assert is_sparse(data, network) == (density not in {0.5, 1.0})


def test_state_comes_back() -> None:
    task = random_task(NETWORK, "a")
    back = decode_task(encode_task(task, NETWORK, "d"), NETWORK, "d", place="f")
    np.testing.assert_array_equal(back.state["mean"], task.state["mean"])


def test_state_in_float16_is_rounded_once() -> None:
    network = dataclasses.replace(NETWORK, state_dtype="float16")
    task = random_task(network, "a")
    data = encode_task(task, network, "d")
    assert safetensors.numpy.load(data)["state"].dtype == np.float16
    back = decode_task(data, network, "d", place="f")
    assert back.state["mean"].dtype == np.float32
    np.testing.assert_array_equal(back.state["mean"], task.state["mean"].astype(np.float16))
    assert encode_task(back, network, "d") == data


def test_state_beyond_float16_is_refused() -> None:
    network = dataclasses.replace(NETWORK, state_dtype="float16")
    large = {"mean": np.array([1, -7e4], np.float32)}
    task = dataclasses.replace(random_task(network, "a"), state=large)
    message = (
        r"task 'a': state of a bank with state_dtype float16 must be within \+-65504.0, got -7"
    )
    with pytest.raises(BankError, match=message):
        encode_task(task, network, "d")
    with pytest.raises(
        BankError, match="f: a task of format 1 has float32 state, this bank has fl"
    ):
        decode_task(encode_task(task, NETWORK, "d", version=1), network, "d", place="f")
    other = encode_task(task, NETWORK, "d")
    with pytest.raises(BankError, match=r"f: state must be float16 \(2,\), got float32 \(2,\)"):
        decode_task(other, network, "d", place="f")


def test_names_stand_in_the_bank_alone() -> None:
    long = "x" * 1000
    parameters = tuple(MaskedParameter.signed_kaiming(f"{long}{i}", (3, 3)) for i in range(50))
    network = dataclasses.replace(NETWORK, parameters=parameters)
    data = encode_task(random_task(network, "a"), network, "d")
    assert len(data) < 1000
    assert long.encode() not in data


def test_task_files_are_frozen() -> None:
    """These bytes are on devices, by format."""
    network = sized_network(9)
    task = TaskMasks(name="a", masks={"w": np.array([0x81, 1], np.uint8)})
    masks = {"w": np.packbits(np.arange(5000) % 997 == 5, bitorder="little")}
    sparse = TaskMasks(name="b", masks=masks)
    for version, (golden, sha256) in {1: (GOLDEN, SPARSE), 2: (GOLDEN_2, SPARSE_2)}.items():
        data = encode_task(task, network, "d", version=version)
        assert data == golden
        assert decode_task(data, network, "d", place="f", newest=version).name == "a"
        data = encode_task(sparse, sized_network(5000), "d", version=version)
        assert hashlib.sha256(data).hexdigest() == sha256


SPARSE = "08a999cba1adeedb5d940ae3b85b3744c8f1fb05773ef07427ecbfc5175b09fc"
SPARSE_2 = "81a23337645b9733c2a56326d84ff28046285a07d68adaf0292b9380e0202ab7"
GOLDEN = (
    b'\xc8\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"supsup":"{\\"digest\\":\\"d\\",\\"encod'
    b'ings\\":{\\"w\\":\\"packed\\"},\\"format\\":1,\\"labels\\":[],\\"name\\'
    b'":\\"a\\",\\"training\\":{}}"},"mask.w":{"dtype":"U8","shape":[2'
    b'],"data_offsets":[0,2]}}    \x81\x01'
)


GOLDEN_2 = (
    b'\x08\x01\x00\x00\x00\x00\x00\x00{"__metadata__":{"supsup":"{\\"digest\\":\\"d\\",\\"format'
    b'\\":2,\\"labels\\":[],\\"lengths\\":[2],\\"name\\":\\"a\\",\\"sha256\\":\\"'
    b"e653b53b7334252f61fed8e2a35d3994a8338ebaae46960fc401670d7c7fc509"
    b'\\",\\"training\\":{}}"},"masks":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}      '
    b"\x81\x01"
)


def test_every_flipped_bit_of_format_2_is_refused() -> None:
    """Labels that look like the field are no trap."""
    task = dataclasses.replace(
        random_task(NETWORK, "a"), labels=(f'"sha256":"{"0" * 64}",', f'\\"sha256\\":\\"{"0" * 64}')
    )
    data = bytearray(encode_task(task, NETWORK, "d"))
    assert decode_task(bytes(data), NETWORK, "d", place="file").labels == task.labels
    for position, bit in itertools.product(range(len(data)), (0, 5)):
        data[position] ^= 1 << bit
        with pytest.raises(BankError, match="file: "):
            decode_task(bytes(data), NETWORK, "d", place="file")
        data[position] ^= 1 << bit


def test_a_task_that_holds_its_own_digest_wrongly_is_refused() -> None:
    data = encode_task(random_task(NETWORK, "a"), NETWORK, "d")
    own = header_of(data)["sha256"].encode()
    for told in (b"0" * 64, own[::-1], own.upper()):
        with pytest.raises(BankError, match="file: the task is damaged or was changed: its own SH"):
            decode_task(data.replace(own, told), NETWORK, "d", place="file")
    for value in (1, "", "a", "\ud800", None):
        with pytest.raises(BankError, match=r"file: (the task is damaged|fields must be)"):
            decode_task(forged(sha256=value), NETWORK, "d", place="file")


def test_a_newer_task_says_that_the_bank_needs_an_upgrade() -> None:
    data = encode_task(random_task(NETWORK, "a"), NETWORK, "d")
    message = "f: a task of format 2 needs a bank of that format, got a bank of format 1; run supsu"
    with pytest.raises(BankError, match=message):
        decode_task(data, NETWORK, "d", place="f", newest=1)


@pytest.mark.parametrize("version", [1, 2])
def test_sparse_masks_decode_to_a_bounded_size(version: int) -> None:
    """A file of a few bytes can claim 2^33 weights."""
    size = 8 * FREE_BYTES + 8
    network, task = sized_network(size), TaskMasks(name="a", masks={"w": np.zeros(1, np.uint8)})
    written = encode_task(task, sized_network(8), "d", version=version)
    empty = b"\x04" + size.to_bytes(4, "little") + b"\x00" if version == 1 else bytes(5)
    header = header_of(written)
    header |= {"encodings": {"w": "sparse"}} if version == 1 else {"lengths": [len(empty)]}
    if version > 1:
        header["sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":"))
    name = "mask.w" if version == 1 else "masks"
    tensors = {name: np.frombuffer(empty, np.uint8)}
    data = safetensors.numpy.save(tensors, metadata={"supsup": text})
    data = _sealed(data) if version > 1 else data
    with pytest.raises(BankError, match=r"f: sparse masks of 67108865 packed bytes are too much"):
        decode_task(data, network, "d", place="f")


def test_a_large_mask_is_stored_sparse_only_if_a_reader_accepts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_tensors, "FREE_BYTES", 100)
    monkeypatch.setattr(task_tensors, "MAX_EXPANSION", 8)
    network = sized_network(8000)
    for ones, sparse in ((0, False), (20, False), (200, True), (8000, False)):
        mask = np.zeros((8000, 1), np.bool_)
        mask[np.linspace(0, 7999, ones, dtype=int)] = True
        data = encode_task(make_task("a", {"w": mask}), network, "d")
        assert is_sparse(data, network) == sparse
        decode_task(data, network, "d", place="f")


def test_padding_bits_of_sparse_masks_are_zero() -> None:
    for blob in (b"\x01\x09\x02\xff\x03\x00", b"\x01\x09\xa1\x09\x00"):
        sparse = np.frombuffer(blob, np.uint8)
        data = old({F: sparse}, encodings={"first": "sparse", "second": "packed"})
        with pytest.raises(BankError, match="mask of 'first': padding bits must be zero"):
            decode_task(data, NETWORK, "d", place="file")


def test_a_frame_larger_than_the_network_needs_is_refused_unparsed() -> None:
    data = rewritten(lambda value: value.update(x="y" * 2**22))
    with pytest.raises(BankError, match=r"file: its first \d+ bytes must be at most \d+ for the t"):
        decode_task(data, NETWORK, "d", place="file")


def test_equal_tasks_give_equal_bytes_in_another_process() -> None:
    code = (
        "import sys; from conftest import *; from supsup_runtime.bank.task import encode_task\n"
        "n = small_network(state=True)\n"
        "sys.stdout.buffer.write(encode_task(random_task(n, 'a'), n, 'd'))"
    )
    here = encode_task(random_task(NETWORK, "a"), NETWORK, "d")
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env=environment
        )
        assert done.stdout == here


def test_every_truncation_is_refused() -> None:
    data = encode_task(random_task(NETWORK, "a"), NETWORK, "d")
    for length in range(len(data)):
        with pytest.raises(BankError, match="file: not a whole safetensors file"):
            decode_task(data[:length], NETWORK, "d", place="file")


def test_a_flipped_bit_can_do_no_more_than_be_refused() -> None:
    data = bytearray(encode_task(random_task(NETWORK, "a"), NETWORK, "d"))
    for position, bit in itertools.product(range(len(data)), range(8)):
        data[position] ^= 1 << bit
        with contextlib.suppress(BankError):
            task = decode_task(bytes(data), NETWORK, "d", place="file")
            encode_task(task, NETWORK, "d")  # legal: it can be written again
        data[position] ^= 1 << bit


def test_a_task_of_another_network_is_refused() -> None:
    data = encode_task(random_task(NETWORK, "a"), NETWORK, "one")
    with pytest.raises(BankError, match="f: the task belongs to another network: digest must be t"):
        decode_task(data, NETWORK, "two", place="f")


def forged(tensors: dict[str, Any] | None = None, *, version: int = 2, **changes: object) -> bytes:
    """A task file with other tensors or header fields; None takes a field out."""
    data = encode_task(random_task(NETWORK, "a"), NETWORK, "d", version=version)
    held = {**safetensors.numpy.load(data), **(tensors or {})}
    held = {key: value for key, value in held.items() if value is not None}
    header = {**header_of(data), **({"sha256": "0" * 64} if version > 1 else {}), **changes}
    header = {key: value for key, value in header.items() if value is not None}
    text = json.dumps(header, separators=(",", ":"))
    made = safetensors.numpy.save(held, metadata={"supsup": text})
    return _sealed(made) if "sha256" not in changes and version > 1 else made


old = functools.partial(forged, version=1)


def rewritten(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A task file of format 1 whose safetensors header was edited."""
    data = encode_task(random_task(NETWORK, "a"), NETWORK, "d", version=1)
    end = 8 + int.from_bytes(data[:8], "little")
    value = json.loads(data[8:end])
    change(value)
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def with_text(text: str) -> bytes:
    return rewritten(lambda value: value.update(__metadata__={"supsup": text}))


F, M = "mask.first", "masks"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (old({F: np.zeros(2, np.float64)}), r"'first' must be uint8 \(n,\), got float64"),
        (old({F: np.zeros(2, np.float32)}), r"'first' must be uint8 \(n,\), got float32"),
        (old({F: np.zeros((2, 1), np.uint8)}), r"must be uint8 \(n,\), got uint8 \(2, 1\)"),
        (old({F: np.zeros(3, np.uint8)}), r"9 weights must be uint8 \(2,\), got uint8 \(3,\)"),
        (old({F: np.array([0, 2], np.uint8)}), "padding bits must be zero"),
        (old({F: np.zeros(2, np.int64)}), r"'mask.first' must be one of \['U8', .*, got I64"),
        (forged({M: np.array([0, 2, 1], np.uint8)}), "mask of 'first': padding bits must be zero"),
        (forged({M: np.zeros(2, np.uint8)}), r"masks must be uint8 \(3,\), the sum of lengths, g"),
        (forged({M: np.zeros((3, 1), np.uint8)}), r"sum of lengths, got uint8 \(3, 1\)"),
        (forged({M: np.zeros(3, np.float32)}), r"sum of lengths, got float32 \(3,\)"),
        (forged({M: None}), r"missing \['masks'\], extra \[\]"),
        (forged({F: np.zeros(2, np.uint8)}), r"missing \[\], extra \['mask.first'\]"),
        (forged(lengths=[2]), r"lengths must be those of 2 masks, each at least 1 .* got \(2,\)"),
        (forged(lengths=[0, 3]), "lengths must be those of 2 masks"),
        (forged(lengths=[2, 10**4000]), "lengths must be those of 2 masks"),
        (forged(lengths=[3, 1]), "at most the mask packed, got"),
        (forged({M: np.zeros(2, np.uint8)}, lengths=[1, 1]), "mask of 'first': the 1 bytes must "),
        (forged(lengths=[2, True]), "lengths must be a list of integers"),
        (forged(lengths=None), "file: fields must be"),
        (forged(encodings={}), "file: fields must be"),
        (old(lengths=[2, 1]), "file: fields must be"),
        (forged({"state": np.zeros(3, np.float32)}), r"float32 \(2,\), got float32 \(3,\)"),
        (forged({"state": np.zeros(2, np.float16)}), r"float32 \(2,\), got float16 \(2,\)"),
        (forged({"state": np.full(2, np.inf, np.float32)}), "state must be finite"),
        (rewritten(lambda v: v[F].update(shape=[1] * 70 + [2])), "'mask.first' is out of range"),
        (rewritten(lambda v: v.update(__metadata__=None)), "'supsup' must be JSON"),
        (rewritten(lambda v: v.pop("__metadata__")), "'supsup' must be JSON"),
        (with_text("no"), "'supsup' must be JSON: Expecting value"),
        (with_text("[1]"), "format must be 1 or 2, got 'list'"),
        (with_text("1" * 5000), "'supsup' must be JSON: Exceeds"),
        (with_text(" " * (2**20 + 1)), "header must have at most 1048576 characters"),
        (forged(training={"loss": float("nan")}), "'supsup' must be JSON"),
        (forged(name="a" * 101), "task name: must be 1 to 100"),
        (old({F: None}), r"missing \['mask.first'\], extra \[\]"),
        (old({"mask.third": np.zeros(1, np.uint8)}), r"extra \['mask.third'\]"),
        (old({"state.mean": np.zeros(3, np.float32)}), r"float32 \(2,\), got float32 \(3,\)"),
        (old({"state.mean": np.full(2, np.nan, np.float32)}), "state 'mean' must be finite"),
        (old(encodings={"first": "zip", "second": "packed"}), "'packed' or 'sparse', got 'zip"),
        (old(encodings={"first": {}, "second": "packed"}), "'packed' or 'sparse', got {}"),
        (old(encodings={}), "'packed' or 'sparse', got None"),
        (old(encodings={"first": "sparse", "second": "packed"}), "sparse mask"),
        (old(encodings=[]), "encodings must be an object"),
        (forged(format=3), "task format must be 1 or 2, got 3"),
        (forged(labels=None), "file: fields must be"),
        (forged(extra=1), "file: fields must be"),
        (forged(labels=["a", "b", "c"]), r"at most 2 labels \(the real outputs\), got 3"),
        (forged(labels=[1]), "labels must be strings"),
        (forged(labels=["\ud800"]), "got a lone surrogate"),
        (forged(labels="ab"), "labels must be a list"),
        (forged(name="../a"), "task name: must be 1 to 100"),
        (forged(name=3), "task name"),
        (safetensors.numpy.save({"a": np.zeros(1, np.uint8)}), "'supsup' must be JSON"),
        (
            safetensors.numpy.save({"a": np.zeros(1, np.uint8)}, metadata={"supsup": "[" * 10**5}),
            "'supsup' must be JSON",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BankError, match=message):
        decode_task(data, NETWORK, "d", place="file")


def test_a_number_out_of_range_is_refused() -> None:
    """It would read as infinity, which could not be written again."""
    data = forged(training={"loss": 1.5})
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].replace(b"1.5", b"1e999")
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    with pytest.raises(BankError, match="'supsup' must be JSON"):
        decode_task(whole, NETWORK, "d", place="file")


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a\\b", "a\n", "é", "a" * 101, "-a"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(BankError, match="task name: must be"):
        check_name(name)


def test_a_task_that_does_not_fit_is_not_written() -> None:
    task = random_task(NETWORK, "a")
    with pytest.raises(BankError, match="masks must be of"):
        encode_task(dataclasses.replace(task, masks={}), NETWORK, "d")
    with pytest.raises(BankError, match="state must be of"):
        encode_task(dataclasses.replace(task, state={}), NETWORK, "d")
