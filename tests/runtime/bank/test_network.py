from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import network_of, small_network
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import MAX_ELEMENTS, MaskedParameter, Network, StateTensor
from supsup_runtime.bank.weights import sign_plane
from supsup_runtime.errors import BankError
from supsup_runtime.preprocessing import Preprocessing


def test_dictionary_and_back() -> None:
    for network in (small_network(), small_network(state=True)):
        assert Network.from_dict(network.to_dict()) == network


def test_sizes() -> None:
    network = small_network(state=True)
    assert (network.num_masked, network.num_state, network.superfluous_outputs) == (16, 2, 1)
    assert [w.shape for w in network.weights()] == [(3, 3), (1, 7)]


def test_the_digest_is_frozen_and_covers_description_and_program() -> None:
    network = small_network()
    frozen = "d1fec5573af44583c74a24eff328303a51796b9d861195a9223e4e923c65bd83"
    assert network.digest(b"forward") == frozen
    assert network.digest(b"other") != network.digest(b"forward")
    assert small_network(state=True).digest(b"forward") != network.digest(b"forward")


def unit_network() -> Network:
    return network_of(
        MaskedParameter.ones("scale", (11,)), MaskedParameter.signed_kaiming("second", (1, 7))
    )


def test_ones_are_ones_and_draw_nothing() -> None:
    network = unit_network()
    assert Network.from_dict(network.to_dict()) == network
    scale, second = network.weights()
    np.testing.assert_array_equal(scale, np.ones(11, np.float32))
    np.testing.assert_array_equal(second, small_network().weights()[1])  # position 1 in both
    planes = [p.signs(3, index).tobytes().hex() for index, p in enumerate(network.parameters)]
    assert planes == ["ff07", sign_plane(3, 1, 7).tobytes().hex()]


def test_the_digest_of_ones_is_frozen() -> None:
    frozen = "c950cab6bd89328862e66253a1ec2daf97c40fed1077cd2e4a0012e03bc0c376"
    assert unit_network().digest(b"forward") == frozen


def picture_network(**changes: Any) -> Network:
    steps = Preprocessing(mode="rgb", size=(2, 3))
    return replace(small_network(), input_shape=(3, 2, 3), preprocessing=steps, **changes)


def test_preprocessing_is_part_of_the_description_and_the_digest() -> None:
    network = picture_network()
    assert Network.from_dict(network.to_dict()) == network
    plain = replace(network, preprocessing=None)
    assert "preprocessing" not in plain.to_dict()
    assert network.digest(b"forward") != plain.digest(b"forward")
    frozen = "6d640e09f3c3b2292cced5618be37d3b9b36abe2081a61bc82fdb4ea0cac4c99"
    assert network.digest(b"forward") == frozen
    flat = replace(network, input_shape=(18,))
    assert Network.from_dict(flat.to_dict()) == flat


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessing": None}, "network: preprocessing: fields must be"),
        ({"input_shape": [3, 3, 2]}, r"network: input_shape must be \(3, 2, 3\), as preprocessing"),
        ({"input_shape": [17]}, r"makes it, or flat, got \(17,\)"),
    ],
)
def test_preprocessing_that_does_not_fit_is_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BankError, match=message):
        Network.from_dict(picture_network().to_dict() | changes)


def test_preprocessing_needs_format_2(tmp_path: Path) -> None:
    bank = MaskBank.create(tmp_path / "masks", picture_network(), forward=b"f")
    assert MaskBank.open(bank.path).network == picture_network()
    index = bank.path / "bank.json"
    index.write_text(index.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(BankError, match="preprocessing needs format 2, got a bank of format 1"):
        MaskBank.open(bank.path)


def test_a_bank_says_how_it_stores_state_unless_as_float32(tmp_path: Path) -> None:
    network = replace(small_network(state=True), state_dtype="float16")
    assert "state_dtype" not in small_network(state=True).to_dict()
    bank = MaskBank.create(tmp_path / "masks", network, forward=b"f")
    assert MaskBank.open(bank.path).network == network
    index = bank.path / "bank.json"
    text = index.read_text()
    index.write_text(text.replace('"format": 2', '"format": 1'))
    with pytest.raises(BankError, match="state_dtype needs format 2, got a bank of format 1"):
        MaskBank.open(bank.path)
    index.write_text(text.replace('"float16"', '"float32"'))
    with pytest.raises(BankError, match="state_dtype must be left out for float32"):
        MaskBank.open(bank.path)
    for value in ("float64", None, ["float16"]):
        with pytest.raises(BankError, match="network: state_dtype must be one of float32, float16"):
            Network.from_dict(network.to_dict() | {"state_dtype": value})


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("outputs"), "fields must be"),
        (lambda d: d.update(extra=1), "fields must be"),
        (lambda d: d.update(outputs="3"), "outputs must be an integer, got '3'"),
        (lambda d: d.update(outputs=True), "outputs must be an integer, got True"),
        (lambda d: d.update(real_outputs=4), r"real_outputs must be an integer in \[1, 3\], got 4"),
        (lambda d: d.update(real_outputs=0), r"got 0"),
        (lambda d: d.update(weight_seed=-1), "weight_seed must be an integer in"),
        (lambda d: d.update(input_shape=[0]), "input_shape must be positive"),
        (lambda d: d.update(input_shape=3), "input_shape must be a list"),
        (lambda d: d.update(parameters=[], state=[]), "a state tensor, got neither"),
        (lambda d: d.update(parameters={}), "parameters must be a list"),
        (lambda d: d.update(parameters=["x"]), "parameter: fields must be"),
        (lambda d: d["parameters"][0].update(shape=[3, -3]), "shape of 'first' must be positive"),
        (lambda d: d["parameters"][0].update(shape=[2**40, 2**40]), "shape of 'first'"),
        (lambda d: d["parameters"][0].update(shape=[]), "shape of 'first'"),
        (lambda d: d["parameters"][0].update(name="second"), "unique, got 'second' twice"),
        (lambda d: d["parameters"][0].update(name=""), "must not be empty"),
        (lambda d: d["parameters"][0].update(name=1), "parameter: name must be a string, got 1"),
        (lambda d: d["parameters"][0].update(constant=0), "constant of 'first' must be finite"),
        (lambda d: d["parameters"][0].update(constant="c"), "constant must be a number"),
        (
            lambda d: d["parameters"][0].update(init="normal"),
            "must be one of ones, signed-constant, stored, got 'n",
        ),
        (
            lambda d: d["parameters"][0].update(init="ones", constant=0.5),
            "constant of 'first' must be 1 with init 'ones', got 0.5",
        ),
        (lambda d: d["state"].append({"name": "first", "shape": [1]}), "unique, got 'first'"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: Change, message: str) -> None:
    value = copy.deepcopy(small_network(state=True).to_dict())
    change(value)
    with pytest.raises(BankError, match=message):
        Network.from_dict(value)


def test_absurd_sums_are_refused() -> None:
    half = (MAX_ELEMENTS // 2 + 1, 1)
    with pytest.raises(BankError, match=f"at most {MAX_ELEMENTS} masked weights"):
        Network(
            weight_seed=0,
            input_shape=(1,),
            outputs=1,
            real_outputs=1,
            parameters=tuple(MaskedParameter.signed_kaiming(n, half) for n in "ab"),
        )
    with pytest.raises(BankError, match="at most 10000 state"):
        Network(
            weight_seed=0,
            input_shape=(1,),
            outputs=1,
            real_outputs=1,
            parameters=(MaskedParameter.signed_kaiming("a", (1, 1)),),
            state=(StateTensor(name="s", shape=(1,)),) * 10_001,
        )
