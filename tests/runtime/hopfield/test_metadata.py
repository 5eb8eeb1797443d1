from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import random_task, small_network
from supsup_runtime.bank.network import Network
from supsup_runtime.errors import BankError, InputError, ModelError
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import PREFIX, ModelInfo, described

pytestmark = pytest.mark.filterwarnings(
    "ignore::supsup_runtime.errors.CapacityWarning"  # tiny matrices are soon full
)
FORWARD = b"program"


def stored(network: Network, count: int = 2) -> HopfieldStore:
    store = HopfieldStore(network, network.digest(FORWARD))
    for index in range(count):
        task = random_task(network, f"task-{index}", seed=index)
        store.encode(replace(task, training={"entropy": 0.5} if index else {}))
    return store


def info_of(network: Network) -> ModelInfo:
    store = stored(network)
    return ModelInfo(
        network=network,
        digest=store.digest,
        tasks=described(network, ((task.name, (), {}) for task in store.tasks)),
        objective="entropy",
        mode="recover",
        target="portable",
        forward=FORWARD,
        hopfield=HopfieldInfo.of(store),
    )


@pytest.mark.parametrize("state", [True, False])
def test_metadata_and_back(state: bool) -> None:
    network = small_network(state=state)
    info = info_of(network)
    back = ModelInfo.from_metadata(info.to_metadata(), place="m")
    assert back.to_metadata() == info.to_metadata()
    found, store = back.hopfield, stored(network)
    assert found is not None
    assert (found.rule, found.dtype, found.entropies) == ("storkey", "float32", (None, 0.5))
    assert found.fingerprints == tuple(task.fingerprints for task in store.tasks)
    means = [store.mean(p.name) for p in network.parameters]
    np.testing.assert_array_equal(found.mean, np.concatenate(means))
    diagonals = [store.matrices[p.name].psi().diagonal() for p in network.parameters]
    np.testing.assert_array_equal(found.diagonal, np.concatenate(diagonals))
    assert found.state.shape == (network.num_state,)
    if state:
        np.testing.assert_array_equal(found.state, store.mean_state()["mean"])


def test_an_empty_store_says_nothing() -> None:
    with pytest.raises(InputError, match="no task is encoded"):
        HopfieldInfo.of(stored(small_network(), count=0))


def floats(count: int, value: float = 0.0) -> str:
    return base64.b64encode(np.full(count, value, "<f4").tobytes()).decode()


Change = Callable[[dict[str, Any]], object]


def put(**values: object) -> Change:
    return lambda value: value.update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(rule="other"), r"hopfield: rule must be one of \('hebb', 'storkey'\), got 'other'"),
        (put(dtype="int8"), r"hopfield: dtype must be one of \('float32', 'float16'\), got 'int8'"),
        (put(rule=["hebb"]), "hopfield: rule must be one of"),
        (put(more=1), r"hopfield: fields must be \['diagonal', .*\], got \['diagonal'"),
        (lambda value: value.pop("mean"), "hopfield: fields must be"),
        (put(mean=floats(15)), "hopfield: mean must have 16 floats, got 60 bytes"),
        (put(mean=floats(16, 1.5)), r"hopfield: mean must be within \[-1, 1\], got 1.5"),
        (put(mean=None), "hopfield: mean must have 16 floats, got 0 bytes"),
        (put(mean="%"), "malformed"),
        (put(diagonal=floats(16, np.nan)), "hopfield: diagonal must be finite, got NaN"),
        (put(state=floats(3)), "hopfield: state must have 2 floats, got 12 bytes"),
        (put(fingerprints=[["0" * 16] * 2]), "hopfield: fingerprints must be those of 2 tasks"),
        (put(fingerprints=[["0" * 16]] * 2), "hopfield: fingerprints must be those of 2 tasks"),
        (put(fingerprints=[["x" * 16] * 2] * 2), "hopfield: fingerprints must be those of 2"),
        (put(fingerprints=3), "hopfield: fingerprints must be a list, got 3"),
        (put(entropies=[None]), "hopfield: entropies must be those of 2 tasks, null or at least 0"),
        (put(entropies=[None, -1]), "hopfield: entropies must be those of 2 tasks"),
        (put(entropies=[None, True]), "hopfield: entropies must be those of 2 tasks"),
        (put(entropies=[0, 10**400]), "hopfield: entropies must be those of 2 tasks"),
    ],
)
def test_what_breaks_a_rule_is_refused(change: Change, message: str) -> None:
    metadata = info_of(small_network(state=True)).to_metadata()
    value = json.loads(metadata[PREFIX + "hopfield"])
    change(value)
    metadata[PREFIX + "hopfield"] = json.dumps(value)
    with pytest.raises(ModelError, match=message):
        ModelInfo.from_metadata(metadata, place="m")


@pytest.mark.parametrize("text", ["[", "[]", "1", "[" * 100_000, "1" * 5000])
def test_what_is_no_object_is_refused(text: str) -> None:
    metadata = info_of(small_network()).to_metadata() | {PREFIX + "hopfield": text}
    with pytest.raises(ModelError, match="m: metadata are malformed"):
        ModelInfo.from_metadata(metadata, place="m")


@pytest.mark.parametrize(("key", "value"), [("objective", "superfluous"), ("target", "cpu")])
def test_a_recovery_is_by_entropy_and_portable(key: str, value: str) -> None:
    metadata = info_of(small_network()).to_metadata() | {PREFIX + key: value}
    with pytest.raises(ModelError, match=f"{key} must be '(entropy|portable)', got {value!r}"):
        ModelInfo.from_metadata(metadata, place="m")


def test_a_mean_state_beyond_float32_is_refused() -> None:
    store = stored(small_network(state=True))
    store.state_sums["mean"][0] = 1e300
    with pytest.raises(BankError, match="hopfield: state must be finite"):
        HopfieldInfo.of(store)
