"""Fixtures that several floors share: small networks and banks, made without torch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import MaskedParameter, Network, StateTensor
from supsup_runtime.bank.task import TaskMasks, make_task

# a deadline would make every property a timed test
settings.register_profile("supsup", deadline=None)
settings.load_profile("supsup")


def network_of(*parameters: MaskedParameter, state: Sequence[StateTensor] = ()) -> Network:
    """A network of what a test is about; all else is the same in each."""
    return Network(
        weight_seed=3,
        input_shape=(3,),
        outputs=3,
        real_outputs=2,
        parameters=parameters,
        state=tuple(state),
    )


def small_network(*, state: bool = False) -> Network:
    """Awkward on purpose: 9 and 7 weights, so rows end inside a byte."""
    return network_of(
        MaskedParameter.signed_kaiming("first", (3, 3)),
        MaskedParameter.signed_kaiming("second", (1, 7)),
        state=[StateTensor(name="mean", shape=(2,))] if state else [],
    )


def random_task(network: Network, name: str, seed: int = 0, density: float = 0.5) -> TaskMasks:
    rng = np.random.default_rng(seed)
    return make_task(
        name,
        {p.name: rng.random(p.shape) < density for p in network.parameters},
        state={s.name: rng.standard_normal(s.shape).astype(np.float32) for s in network.state},
        labels=("no", "yes"),
        training={"accuracy": 0.5, "steps": 10},
    )


def pytest_collection_finish() -> None:
    """Torch and its like stay: to look for garbage among them costs a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def exports_made_once() -> Iterator[None]:
    """Where a module of the tests has imported supsup_train, and without torch where none has."""
    exporting = "supsup_train.networks.create_bank" in sys.modules
    with import_module("exports").each_made_once() if exporting else nullcontext():
        yield


@pytest.fixture
def network() -> Network:
    return small_network()


@pytest.fixture
def bank(tmp_path: Path, network: Network) -> MaskBank:
    """A bank of three tasks whose programs are not meant to run."""
    made = MaskBank.create(tmp_path / "masks", network, forward=b"forward", gradient=b"gradient")
    made.extend(random_task(network, f"task-{i}", seed=i) for i in range(3))
    return made
