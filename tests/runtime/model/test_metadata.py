from __future__ import annotations

import json
from dataclasses import replace

import pytest

from conftest import small_network
from supsup_runtime.bank.task import Origin
from supsup_runtime.errors import ModelError
from supsup_runtime.model.metadata import PREFIX, ModelInfo, described

FORWARD = b"\x00program"
ORIGIN: Origin = {"data": "0" * 64, "seed": 3, "stream": "permuted"}
ODD_ORIGINS: list[object] = [
    *(3, [], {"data": "0" * 64}),
    *({**ORIGIN, "seed": 1.5}, {**ORIGIN, "x": 1}, {**ORIGIN, "data": "z" * 64}),
]
INFO = ModelInfo(
    network=small_network(state=True),
    digest=small_network(state=True).digest(FORWARD),
    tasks=described(small_network(state=True), [("a", ("no", "yes"), ORIGIN), ("b", (), {})]),
    objective="entropy",
    mode="full",
    target="cpu",
    forward=FORWARD,
)


def test_metadata_and_back() -> None:
    known = replace(INFO, mode="known", objective="", target="portable")
    for info in (INFO, replace(INFO, scoring="screened", target="cuda"), known):
        assert ModelInfo.from_metadata(info.to_metadata(), place="m") == info


def test_a_task_has_the_outputs_of_its_labels() -> None:
    """In contract 1, all real outputs are labels of every task."""
    network = replace(INFO.network, outputs=9, real_outputs=5)
    tasks = described(network, [("a", ("no", "yes"), {}), ("b", (), {}), ("c", tuple("vwxyz"), {})])
    info = replace(INFO, network=network, digest=network.digest(FORWARD), tasks=tasks)
    assert [task.real_outputs for task in tasks] == [2, 5, 5]
    metadata = info.to_metadata()
    assert metadata[PREFIX + "contract"] == "2"
    assert ModelInfo.from_metadata(metadata, place="m").tasks == tasks
    old = ModelInfo.from_metadata(metadata | {PREFIX + "contract": "1"}, place="m")
    assert [task.real_outputs for task in old.tasks] == [5, 5, 5]
    assert [task.labels for task in old.tasks] == [task.labels for task in tasks]


def test_the_revision_is_optional_and_not_of_contract_1() -> None:
    info = replace(INFO, revision="0a" * 32)
    metadata = info.to_metadata()
    assert ModelInfo.from_metadata(metadata, place="m") == info
    assert PREFIX + "revision" not in INFO.to_metadata()
    old = metadata | {PREFIX + "contract": "1"}
    assert ModelInfo.from_metadata(old, place="m").revision is None


def test_models_that_do_not_say_how_they_score_score_exactly() -> None:
    metadata = INFO.to_metadata()
    del metadata[PREFIX + "scoring"]
    assert ModelInfo.from_metadata(metadata, place="m").scoring == "exact"


def test_long_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supsup_runtime.model.metadata.MAX_JSON", 300)
    metadata = INFO.to_metadata() | {PREFIX + "tasks": "[" + "[]," * 100 + "[]]"}
    with pytest.raises(ModelError, match=r"JSON must have at most 300 characters, got \d+$"):
        ModelInfo.from_metadata(metadata, place="m")


def test_superfluous_needs_superfluous_outputs() -> None:
    network = replace(INFO.network, real_outputs=INFO.network.outputs)
    digest = {PREFIX + "digest": network.digest(FORWARD), PREFIX + "objective": "superfluous"}
    metadata = replace(INFO, network=network).to_metadata() | digest
    with pytest.raises(ModelError, match="objective superfluous needs superfluous outputs"):
        ModelInfo.from_metadata(metadata, place="m")


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
        ("contract", None, "m: not a supsup model"),
        ("contract", "3", "contract must be 1 or 2, got '3'"),
        ("forward", None, "metadata must have org.supsup.forward, got none"),
        ("forward", "%%%", "malformed"),
        (
            "mode",
            "half",
            r"mode must be one of \['full', .* 'recover', 'recover-stream'\], got 'half'",
        ),
        ("mode", "recover", "hopfield is required in mode recover, got none"),
        ("mode", "recover-stream", "hopfield is required in mode recover-stream, got none"),
        ("hopfield", "{}", r"only in modes \['recover', 'recover-stream'\], got mode 'full'"),
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
        ("tasks", "[]", r"tasks must be a list of at least one, got \[\]"),
        (
            "tasks",
            '[{"labels": ["x", "y", "z"], "name": "a"}]',
            r"task 'a': at most 2 labels \(the real outputs\), got 3",
        ),
        *(
            (
                "tasks",
                json.dumps([{"labels": [], "name": "a", "origin": origin}]),
                "origin of '?a'? must have data and stream, got ",
            )
            for origin in ODD_ORIGINS
        ),
        (
            "tasks",
            '[{"labels": [], "name": "a"}, {"labels": [], "name": "a"}]',
            "task names must be unique, got 'a' twice",
        ),
        ("objective", "", r"objective must be one of \['entropy', 'superfluous'\], got ''"),
        ("target", "tpu", r"target must be one of \['cpu', 'cuda', 'portable'\], got 'tpu'"),
        ("scoring", "1", r"scoring must be one of \['exact', 'rounded', 'screened'\], got '1'"),
        ("revision", "A" * 64, f"revision must be 64 hexadecimal digits, got '{'A' * 64}'$"),
        ("revision", "", "revision must be 64 hexadecimal digits, got ''$"),
        ("digest", "d" * 64, "digest must be '[0-9a-f]{64}', got 'd+'"),
        ("forward", "AAAA", "digest must be"),
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
