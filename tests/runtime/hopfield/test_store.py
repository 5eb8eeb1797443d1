"""The Hopfield store: a bank's masks in one matrix a parameter."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from conftest import network_of, random_task, small_network
from patterns import flipped
from supsup_runtime.arrays import Floats
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.bank.task import make_task
from supsup_runtime.errors import BankError, CapacityWarning, InputError
from supsup_runtime.hopfield.matrix import (
    capacity,
    expected_bit_error,
    matrix_bytes,
)
from supsup_runtime.hopfield.store import HopfieldStore, store_bytes, to_pattern

RULES = ("hebb", "storkey")


@contextmanager
def no_capacity_warning() -> Iterator[None]:
    """For stores that are full on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapacityWarning)
        yield


def wide_network(size: int = 128) -> Network:
    return network_of(
        MaskedParameter.signed_kaiming("first", (size,)),
        MaskedParameter.signed_kaiming("second", (8, 7)),
        state=[StateTensor(name="mean", shape=(2, 3))],
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_store_gives_masks_means_and_names_back(rule: str) -> None:
    network = wide_network()
    store = HopfieldStore(network, "d", rule=rule)
    tasks = [random_task(network, f"task-{i}", seed=i) for i in range(4)]
    for task in tasks:
        assert set(store.encode(task)) == {"first", "second"}
    assert store.task_names == ("task-0", "task-1", "task-2", "task-3")
    assert len(store) == 4
    assert "task-2" in store
    assert store.tasks[0].labels == ("no", "yes")
    patterns = [store.patterns_of(task) for task in tasks]
    for name in ("first", "second"):
        mean = np.mean([p[name] for p in patterns], axis=0)
        np.testing.assert_array_equal(store.mean(name), mean)  # quarters are exact
    states = np.stack([task.state["mean"] for task in tasks]).astype(np.float64)
    np.testing.assert_array_equal(store.mean_state()["mean"], states.mean(0).astype(np.float32))
    own = patterns[1]
    assert store.find(own) == ("task-1",)
    assert store.find(own | {"first": patterns[2]["first"]}) == ()
    settled, fixed = store.settle({name: flipped(z, 0.05) for name, z in own.items()})
    assert fixed
    assert store.find(settled) == ("task-1",)
    np.testing.assert_array_equal(to_pattern(own["second"].reshape(8, 7) > 0), own["second"])


@pytest.mark.parametrize("rule", RULES)
def test_more_patterns_than_capacity_are_never_silent(rule: str) -> None:
    network = wide_network(256)
    store = HopfieldStore(network, "d", rule=rule)
    room = capacity(56, rule)
    for index in range(12):
        task = random_task(network, f"t{index}", seed=index)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            errors = store.encode(task)
        told = [str(w.message) for w in caught if issubclass(w.category, CapacityWarning)]
        assert len(told) == len(caught)
        if index + 1 > room or errors["second"] > 0.0036:
            assert any(
                f"'second' holds {index + 1} patterns of 56 bits, its capacity by rule {rule} is "
                f"{room:.1f} random ones: expected bit error "
                f"{expected_bit_error(56, index + 1, rule):.2%}"
                in text
                and f"measured of 't{index}' {errors['second']:.2%}" in text
                for text in told
            )
        else:
            assert told == []
    assert len(store) > room if rule == "hebb" else len(store) <= room


def test_masks_that_are_alike_are_told_below_capacity() -> None:
    """Masks of density 0.95 are far from random: Hebb's rule turns the zeros that differ."""
    network = wide_network(256)
    store = HopfieldStore(network, "d", rule="hebb")
    with no_capacity_warning():
        for index in range(5):
            store.encode(random_task(network, f"t{index}", seed=index, density=0.95))
    with pytest.warns(CapacityWarning) as caught:
        store.encode(random_task(network, "t5", seed=5, density=0.95))
    assert len(store) < capacity(256, "hebb") / 5
    assert re.search(
        r"'first' holds 6 patterns .* 0\.00% .* measured of 't5' [1-9]", str(caught[0].message)
    )


def test_what_does_not_fit_a_store_is_refused_and_changes_nothing() -> None:
    network = small_network(state=True)
    store = HopfieldStore(network, "d")
    with no_capacity_warning():
        store.encode(random_task(network, "a"))
    halves = {name: matrix.half() for name, matrix in store.matrices.items()}
    other = random_task(wide_network(), "b")
    for task, message in (
        (random_task(network, "A", seed=1), "task 'A': is encoded already"),
        (other, "task 'b': mask"),
        (make_task("c", {}), "task 'c': masks must be of"),
        (random_task(network, "../d"), "task name: must be"),
    ):
        with pytest.raises(BankError, match=message):
            store.encode(task)
    for name, half in halves.items():
        np.testing.assert_array_equal(store.matrices[name].half(), half)
    assert store.task_names == ("a",)
    with pytest.raises(InputError, match=r"parameter must be one of first, second, got"):
        store.mean("third")
    patterns = store.patterns_of(random_task(network, "a"))
    cases: list[tuple[dict[str, Floats], str]] = [
        ({}, r"patterns must be of \['first', 'second'\], got \[\]"),
        ({**patterns, "first": patterns["first"] * np.float32(0.5)}, "all values must be -1 or 1"),
    ]
    for wrong, message in cases:
        with pytest.raises(InputError, match=message):
            store.settle(wrong)
        with pytest.raises(InputError, match=message):
            store.find(wrong)
    with pytest.raises(InputError, match="no task is encoded"):
        HopfieldStore(network, "d").mean("first")
    bare = network_of(state=[StateTensor(name="s", shape=(1,))])
    with pytest.raises(InputError, match="must have masked parameters, got none"):
        HopfieldStore(bare, "d")


def test_an_overflow_in_the_second_parameter_changes_neither() -> None:
    network = wide_network()
    store = HopfieldStore(network, "d", dtype="float16")
    store.matrices["second"].scaled[:] = 60_000
    with pytest.raises(InputError, match="float16 maximum"):
        store.encode(random_task(network, "a"))
    assert not store.matrices["first"].scaled.any()
    assert len(store) == 0


def test_bytes_are_those_of_the_halves() -> None:
    assert matrix_bytes(2048, "float32") == 2048 * 2049 * 2
    assert matrix_bytes(7, "float16") == 56
    network = wide_network()
    halves = 2 * (128 * 129 // 2 + 56 * 57 // 2)
    assert store_bytes(network, "float16") == halves + 4 * (128 + 56) + 8 * 6


def test_a_parameter_too_large_is_named() -> None:
    network = wide_network(235_200)  # the first layer of LeNet 300-100
    with pytest.raises(InputError, match=r"'first': .* 221,276,160,000 bytes; mask units instead"):
        HopfieldStore(network, "d")
