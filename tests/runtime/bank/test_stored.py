"""Weights of one's own: one file, bound to its network by digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from conftest import network_of, random_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import MaskedParameter, Network
from supsup_runtime.bank.stored import STORED_FILE
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.hopfield.store import HopfieldStore

VALUES = np.array([[0.5, -2.0], [0.0, 3.25]], np.float32)


def stored_network() -> Network:
    return network_of(
        MaskedParameter.stored("base", VALUES), MaskedParameter.signed_kaiming("head", (1, 7))
    )


@pytest.fixture
def bank(tmp_path: Path) -> MaskBank:
    return MaskBank.create(tmp_path / "masks", stored_network(), forward=b"forward")


def test_description_and_back() -> None:
    network = stored_network()
    described = network.to_dict()
    first, second = described["parameters"]
    assert first["init"] == "stored"
    assert set(second) == {"constant", "init", "name", "shape"}
    again = Network.from_dict(json.loads(json.dumps(described)))
    assert again == network
    assert again.newer == network.newer == ["init 'stored'"]
    with pytest.raises(BankError, match="weights of 'base' are in its bank alone; open it"):
        again.weights()


def test_the_digest_is_that_of_the_bytes() -> None:
    golden = bytes.fromhex("0000003f000000c00000000000005040")  # little-endian float32
    assert VALUES.tobytes() == golden
    assert stored_network().parameters[0].sha256 == hashlib.sha256(golden).hexdigest()


def test_the_digest_of_the_network_covers_the_weights() -> None:
    other = network_of(
        MaskedParameter.stored("base", VALUES + 1), MaskedParameter.signed_kaiming("head", (1, 7))
    )
    assert other.digest(b"forward") != stored_network().digest(b"forward")


def test_a_bank_gives_them_back(bank: MaskBank) -> None:
    opened = MaskBank.open(bank.path)
    np.testing.assert_array_equal(opened.network.weights()[0], VALUES)
    assert opened.network.weights()[0].flags.writeable  # torch shares only such arrays
    opened.add(random_task(opened.network, "one"))
    again = MaskBank.open(bank.path)
    assert again.task_names == ("one",)
    np.testing.assert_array_equal(again.network.weights()[0], VALUES)


def test_equal_weights_give_equal_bytes(bank: MaskBank, tmp_path: Path) -> None:
    other = MaskBank.create(tmp_path / "other", stored_network(), forward=b"forward")
    assert (bank.path / STORED_FILE).read_bytes() == (other.path / STORED_FILE).read_bytes()


def test_a_file_of_other_weights_is_refused(bank: MaskBank) -> None:
    path = bank.path / STORED_FILE
    meta = {"supsup": json.dumps({"digest": bank.digest, "format": 1})}
    changed = {"base": VALUES + 1}
    for tensors, match in (
        (changed, "the weights of 'base' were changed: SHA-256 must be"),
        ({"base": VALUES.astype(np.float64)}, "'base' must be float32"),
        ({"base": np.full_like(VALUES, np.nan)}, "'base' must be finite"),
        ({"other": VALUES}, r"missing \['base'\], extra \['other'\]"),
    ):
        path.write_bytes(safetensors.numpy.save(tensors, metadata=meta))
        with pytest.raises(BankError, match=match):
            MaskBank.open(bank.path)
    path.unlink()
    with pytest.raises(BankError, match="missing"):
        MaskBank.open(bank.path)


def test_format_1_has_none(bank: MaskBank) -> None:
    index = bank.path / "bank.json"
    value = json.loads(index.read_text()) | {"format": 1}
    index.write_text(json.dumps(value))
    with pytest.raises(BankError, match="init 'stored' needs format 2"):
        MaskBank.open(bank.path)


@pytest.mark.parametrize("sha256", ["", "A" * 64, "0" * 63])
def test_a_digest_is_hexadecimal(sha256: str) -> None:
    with pytest.raises(BankError, match="sha256 of 'w' must be hexadecimal with init 'stored'"):
        MaskedParameter(name="w", shape=(2,), constant=1.0, init="stored", sha256=sha256)


def test_seeded_weights_have_no_digest_and_stored_no_magnitude() -> None:
    with pytest.raises(BankError, match="empty with others"):
        MaskedParameter(name="w", shape=(2, 2), constant=1.0, sha256="0" * 64)
    with pytest.raises(BankError, match="constant of 'w' must be 1 with init 'stored', got 2"):
        MaskedParameter(name="w", shape=(2,), constant=2.0, init="stored", sha256="0" * 64)


def test_a_hopfield_store_needs_seeded_weights() -> None:
    with pytest.raises(InputError, match=r"weights must be seeded.*got stored ones of 'base'"):
        HopfieldStore(stored_network(), "")
