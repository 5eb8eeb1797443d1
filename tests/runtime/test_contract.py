from __future__ import annotations

import json

import pytest

from conftest import small_network
from supsup_runtime.contract import PREFIX, ModelInfo, TaskInfo
from supsup_runtime.errors import ModelError

INFO = ModelInfo(
    network=small_network(state=True),
    digest="d" * 64,
    tasks=(TaskInfo(index=0, name="a", labels=("no", "yes")), TaskInfo(index=1, name="b")),
    objective="entropy",
    mode="full",
    target="cpu",
    forward=b"\x00program",
)


def test_metadata_and_back() -> None:
    assert ModelInfo.from_metadata(INFO.to_metadata(), place="m") == INFO


def _large_constant() -> str:
    network = INFO.network.to_dict()
    network["parameters"][0]["constant"] = 10**400
    return json.dumps(network)


LARGE_CONSTANT = _large_constant()


@pytest.mark.parametrize("key", ["digest", "mode", "network", "objective", "target", "tasks"])
def test_every_key_is_needed(key: str) -> None:
    metadata = INFO.to_metadata()
    del metadata[PREFIX + key]
    with pytest.raises(ModelError, match=f"metadata must have org.supsup.{key}, got none"):
        ModelInfo.from_metadata(metadata, place="m")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("contract", None, "m: not a model of supsup"),
        ("contract", "2", "contract must be 1, got '2'"),
        ("forward", None, "metadata must have org.supsup.forward, got none"),
        ("forward", "%%%", "malformed"),
        ("mode", "half", r"mode must be one of \['full', 'known', 'infer'\], got 'half'"),
        ("network", "{}", "fields must be"),
        ("network", "[", "malformed"),
        ("network", "[" * 100_000, "malformed"),
        ("tasks", "{}", "tasks must be a list"),
        ("tasks", "[1]", "malformed"),
        ("tasks", "[{}]", "malformed"),
        ("tasks", "[[1]]", "a task must be an object"),
        ("tasks", '[{"name": "a"}]', "a task must be an object"),
        ("tasks", '[{"name": "a", "labels": 3}]', "a task must have a name and a list of labels"),
        ("tasks", '[{"name": "a", "labels": "ab"}]', "a task must have a name and a list"),
        ("tasks", '[{"name": "a", "labels": [1]}]', "a task must have a name and a list"),
        ("tasks", '[{"name": 1, "labels": []}]', "a task must have a name and a list"),
        ("forward", "é", "malformed"),
        ("network", "1" * 5000, "malformed"),
        ("network", LARGE_CONSTANT, "malformed: int too large"),
    ],
)
def test_malformed_metadata_are_refused(key: str, value: str | None, message: str) -> None:
    metadata = {k: v for k, v in INFO.to_metadata().items() if k != PREFIX + key}
    if value is not None:
        metadata[PREFIX + key] = value
    with pytest.raises(ModelError, match=message):
        ModelInfo.from_metadata(metadata, place="m")
