"""The fuzzer finds what it looks for, and makes a case again from its seed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conftest import random_task, small_network
from fuzz.campaign import Counts, campaign, run_chunk, shares
from fuzz.case import Case, read_case, read_files
from fuzz.judge import Verdict
from fuzz.mutate import bytes_of, json_of
from fuzz.protobuf import BYTES, VARINT, Field, mutated, parse, serialize
from fuzz.report import to_text
from fuzz.targets import TARGETS
from fuzz.targets.models import changed_metadata
from fuzz.targets.planted import FAULTS
from fuzz.tensors import npy_of, split, tensors_of, zip_of
from fuzz.waiting import is_waiting, watched
from supsup_runtime.bank.task import encode_task

PLANTED = "planted:Planted"
KINDS = {"none": "answer", "outside": "wrong", "large": "memory", "wait": "hang"}
"""Where it is not the fault's own name."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_the_next_case_is_judged(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "__defaults__", (1,))
    (tmp_path / "fault").write_text(fault)
    counts = run_chunk(PLANTED, 0, range(5, 7), tmp_path)
    kind = KINDS.get(fault, fault)
    assert counts.kinds == {kind: 2}
    assert counts.stages["header"] == 2
    if kind not in {"answer", "refused"}:
        ((cause, (count, numbers, _)),) = counts.findings.items()
        assert (cause.partition(":")[0], count, numbers) == (kind, 2, [5, 6])


def test_a_process_waits_if_nothing_of_it_can_run(tmp_path: Path) -> None:
    assert not is_waiting(os.getpid())
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["/bin/cat", tmp_path / "pipe"])
    try:
        while not is_waiting(reader.pid):
            pass
    finally:
        reader.kill()
    reader.wait()
    assert not is_waiting(reader.pid)


def test_a_child_that_runs_is_no_wait() -> None:
    code = "import subprocess; subprocess.run(['/bin/sh', '-c', 'while :; do :; done'])"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while not children.read_text() or is_waiting(parent.pid):
            pass
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()


def test_a_campaign_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def chunk(place: str, _seed: int, numbers: range, _seeds: Path) -> Counts:
        made.append((place, len(numbers)))
        counts = Counts()
        for number in numbers:
            counts.add(number, "hl", Verdict(kind="wrong", what="a", peak=number))
        return counts

    monkeypatch.setattr("fuzz.campaign.run_chunk", chunk)
    state = tmp_path / "state.jsonl"
    first = campaign(1500, ["npz"], 0, tmp_path, state)
    assert made == [("data:Npz", 1000), ("data:Npz", 500)]
    state.write_text(state.read_text().splitlines(keepends=True)[0])
    again = campaign(1500, ["npz"], 0, tmp_path, state)
    assert made[2:] == [("data:Npz", 500)]
    assert again == first
    assert first["npz"].findings == {"wrong: a": (1500, [0, 1, 2], "")}
    assert "[python -m fuzz show npz 0 0]" in to_text(first, 0)


def test_targets_have_their_parts_of_a_campaign() -> None:
    parts = shares(11_500, TARGETS)
    assert sum(parts.values()) == 11_500
    assert parts["model"] + parts["program"] + parts["arguments"] + parts["commands"] == 1000


def test_a_case_is_kept_whole(tmp_path: Path) -> None:
    case = Case(
        files={"a/b": b"\0\1"}, words={"line": ["\udcff"]}, odd={"p": "fifo", "d": "folder"}
    )
    case.keep(tmp_path / "case.zip")
    kept = (tmp_path / "case.zip").read_bytes()
    assert read_case(tmp_path / "case.zip") == case
    case.keep(tmp_path / "case.zip")
    assert (tmp_path / "case.zip").read_bytes() == kept
    case.write(tmp_path / "at")
    assert read_files(tmp_path / "at") == {"a/b": b"\0\1"}
    assert (tmp_path / "at/p").is_fifo()


def seeds() -> dict[str, bytes]:
    """One small file for each mutation."""
    import io

    import numpy as np

    network = small_network(state=True)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.ones((2, 3), np.float32))
    np.savez(npz, x=np.ones((2, 3), np.float32), y=np.arange(3))
    message = [
        Field(1, VARINT, 300),
        Field(2, BYTES, [Field(1, BYTES, b"name"), Field(5, 5, b"1234")]),
    ]
    return {
        "bytes": bytes(range(40)),
        "json": json.dumps({"a": [1, 2.5, "x"], "b": {"c": None, "d": True}}).encode(),
        "tensors": encode_task(random_task(network, "a"), network, "0" * 64),
        "npy": npy.getvalue(),
        "zip": npz.getvalue(),
        "protobuf": serialize(message),
    }


MUTATIONS = {
    "bytes": bytes_of,
    "json": json_of,
    "tensors": tensors_of,
    "npy": npy_of,
    "zip": zip_of,
    "protobuf": mutated,
}


@pytest.mark.parametrize("kind", MUTATIONS)
def test_mutations_are_many_and_the_same_again(kind: str) -> None:
    data, mutation = seeds()[kind], MUTATIONS[kind]
    made = [mutation(Random(seed), data) for seed in range(300)]
    assert made == [mutation(Random(seed), data) for seed in range(300)]
    assert len(set(made)) > 150


def test_tensors_stay_a_whole_file_most_of_the_time() -> None:
    whole, data = 0, seeds()["tensors"]
    for seed in range(300):
        try:
            split(tensors_of(Random(seed), data))
        except ValueError:
            continue
        whole += 1
    assert whole > 200


FIELDS = st.recursive(
    st.builds(Field, st.integers(1, 40), st.just(VARINT), st.integers(0, 2**64 - 1))
    | st.builds(Field, st.integers(1, 40), st.just(BYTES), st.binary()),
    lambda inner: st.builds(Field, st.integers(1, 40), st.just(BYTES), st.lists(inner, min_size=1)),
)


@given(st.lists(FIELDS))
@example([Field(1, BYTES, b"\xf1" + bytes(9))])
def test_protobuf_is_written_as_it_was_read(fields: list[Field]) -> None:
    data = serialize(fields)
    assert serialize(parse(data)) == data


@pytest.mark.parametrize("data", [b"", b"r", b"r\x03\n\x05a", b"r\x05\n\x01\xff\x12\0"])
def test_a_model_that_was_changed_before_is_changed_again(data: bytes) -> None:
    assert isinstance(changed_metadata(Random(0), data, forward=False), bytes)
