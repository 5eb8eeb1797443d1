"""Scenario NNs: one stream, nobody names its tasks; on permuted digits of small networks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import supsup_train as st
from banks import make_bank
from parity.plain import numpy_scores
from supsup_runtime.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.sources import load_dataset
from supsup_runtime.streams import Stream, make_stream
from supsup_train.nns import MIN_MASKS, Decision, NnsLearner, NnsSettings
from supsup_train.nns_stream import unlabelled_batches
from supsup_train.recipe import OptimizerKind

# On digits, entropy tells a few tasks apart where there are many superfluous outputs.
MODEL, OUTPUTS, NUM_TASKS = "lenet-300-100", 500, 4
RECIPE = st.Recipe(steps=100, learning_rate=1e-3)
SETTINGS = NnsSettings(period=50)
SMALL = st.Recipe(steps=8, learning_rate=1e-3, batch_size=16)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return make_stream("permuted", load_dataset(None), num_tasks=NUM_TASKS)


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return st.make_model(MODEL, input_shape=(64,), outputs=OUTPUTS)


def new_bank(path: Path, module: torch.nn.Module) -> MaskBank:
    return st.create_bank(path, module, input_shape=(64,), real_outputs=10)


def batches_of(stream: Stream, tasks: list[int], recipe: st.Recipe) -> list[tuple[Tensor, Tensor]]:
    """The batches of some tasks, in that order."""
    every = list(unlabelled_batches(stream, recipe))
    size = recipe.steps
    return [batch for task in tasks for batch in every[task * size : (task + 1) * size]]


def learn(learner: NnsLearner, batches: list[tuple[Tensor, Tensor]]) -> list[Decision]:
    found = [learner.learn(x, y) for x, y in batches]
    return [decision for decision in found if decision is not None]


def test_a_mask_is_allocated_for_each_task_and_no_other(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    """Four tasks, and the second of them once more."""
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=RECIPE, settings=SETTINGS)
    decisions = learn(learner, batches_of(stream, [0, 1, 2, 3, 1], RECIPE))
    learner.checkpoint()
    assert learner.num_tasks == len(bank) == NUM_TASKS
    assert [d.kind for d in decisions[::2]] == ["first", "new", "new", "new", "known"]
    assert [d.kind for d in decisions[1::2]] == ["same"] * 5
    assert [d.task[-1] for d in decisions[::2]] == ["0", "1", "2", "3", "1"]
    for decision in decisions[1:]:
        assert decision.certainty is not None
        assert (decision.certainty < decision.threshold) == (decision.kind == "new")
    assert bank.task(1).training["batches"] == [[100, 200], [400, 500]]
    assert bank.task(0).training["scenario"] == "NNs"
    assert len(learner.scores(stream_images(stream))) == MIN_MASKS  # one reference


@pytest.mark.parametrize("objective", ["entropy", "superfluous"])
@pytest.mark.parametrize("num_tasks", [5, 9])
def test_scores_are_those_of_numpy(tmp_path: Path, num_tasks: int, objective: str) -> None:
    """From `MIN_MASKS` masks on there are no references: the scores are the bank's."""
    bank = make_bank(tmp_path / "masks", "mlp-64-48", outputs=20, real_outputs=6, tasks=num_tasks)
    module = st.make_model("mlp-64-48", input_shape=(30,), outputs=20)
    settings = NnsSettings(objective=objective)  # type: ignore[arg-type]  # a literal
    origin = {"recipe": asdict(st.Recipe()), "settings": asdict(settings), "digest": bank.digest}
    state = {"batches": 0, "current": -1, "visits": [[[0, 0]]] * num_tasks}
    (bank.path / "nns").mkdir()
    text = json.dumps({"files": {}, "format": 1, "origin": origin, "state": state})
    (bank.path / "nns" / "learner.json").write_text(text)
    learner = NnsLearner(bank, module, settings=settings)
    x = np.random.default_rng(0).standard_normal((3, 30)).astype(np.float32)
    want = numpy_scores(bank, x, np.full(num_tasks, 1 / num_tasks), objective)
    # float32 passes, sums in float64
    got = learner.scores(torch.from_numpy(x))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_untrained_masks_are_never_chosen(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    """The authors' code infers among masks that were never allocated, and may train one."""
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=RECIPE, settings=SETTINGS)
    for x, y in batches_of(stream, [0, 1, 2], RECIPE):
        decision = learner.learn(x, y)
        if decision is not None:
            assert int(decision.task.removeprefix("learned-")) < learner.num_tasks
    assert learner.num_tasks == 3
    assert len(learner.scores(stream_images(stream))) == MIN_MASKS


def stream_images(stream: Stream) -> Tensor:
    return torch.from_numpy(stream.task(0).test_x[:2])


def test_when_all_masks_are_taken_nothing_is_overwritten(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    bank = new_bank(tmp_path / "masks", module)
    settings = NnsSettings(period=50, max_tasks=2)
    learner = NnsLearner(bank, module, recipe=RECIPE, settings=settings)
    learn(learner, batches_of(stream, [0, 1], RECIPE))
    learner.checkpoint()
    before = [entry.sha256 for entry in bank.entries]
    decisions = learn(learner, batches_of(stream, [2, 0], RECIPE))
    learner.checkpoint()
    assert [(d.kind, d.task) for d in decisions[:2]] == [("full", "")] * 2
    assert [(d.kind, d.task) for d in decisions[2:3]] == [("known", "learned-0000")]
    assert bank.entries[1].sha256 == before[1]
    assert bank.task(0).training["batches"] == [[0, 100], [300, 400]]  # none of the third task's
    assert len(bank) == 2


@pytest.mark.parametrize(
    ("optimizer", "stop"), [("rmsprop", 8), ("rmsprop", 11), ("adam", 1), ("sgd", 20)]
)
def test_going_on_gives_the_same_bank(
    stream: Stream, tmp_path: Path, stop: int, optimizer: OptimizerKind
) -> None:
    """Whatever the batch it stopped at: it goes on from the checkpoint before."""
    recipe = st.Recipe(steps=8, learning_rate=1e-3, batch_size=16, optimizer=optimizer)
    settings = NnsSettings(period=4)
    module = st.make_model("mlp-16", input_shape=(64,), outputs=30)
    batches = list(unlabelled_batches(stream, recipe))[:24]
    one = new_bank(tmp_path / "one", module)
    whole = NnsLearner(one, module, recipe=recipe, settings=settings)
    learn(whole, batches)
    whole.checkpoint()
    two = new_bank(tmp_path / "two", module)
    learn(NnsLearner(two, module, recipe=recipe, settings=settings), batches[:stop])
    again = NnsLearner(MaskBank.open(two.path), module, recipe=recipe, settings=settings)
    assert again.batches == stop - 1 - (stop - 1) % 4  # a checkpoint is made before batch 4, 8...
    rest = list(unlabelled_batches(stream, recipe, start=again.batches))[: 24 - again.batches]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, batches[again.batches :], strict=True))
    learn(again, rest)
    again.checkpoint()
    first, second = MaskBank.open(one.path), MaskBank.open(two.path)
    assert [e.sha256 for e in first.entries] == [e.sha256 for e in second.entries]


def test_inputs_that_say_little(module: torch.nn.Module, tmp_path: Path) -> None:
    """Images without signal tell no tasks apart: all scores are equal, and each is a new task."""
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, settings=NnsSettings(period=1, max_tasks=2))
    x, y = torch.zeros(8, 64), torch.zeros(8, dtype=torch.int64)  # one class only, too
    kinds = [d.kind for d in learn(learner, [(x, y)] * 4)]
    assert kinds == ["first", "new", "full", "full"]
    assert learner.scores(x).tolist() == [0.0] * MIN_MASKS


def test_what_does_not_fit_is_refused(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"threshold": 1.0}, "threshold: must be above 1 and finite, got 1.0"),
        ({"threshold": float("nan")}, "threshold: must be above 1"),
        ({"period": 0}, "period: must be at least 1, got 0"),
        ({"max_tasks": 0}, "max_tasks: must be at least 1, got 0"),
        ({"objective": "luck"}, "objective: must be entropy or superfluous, got 'luck'"),
    )
    for settings, message in cases:
        with pytest.raises(InputError, match=message):
            NnsSettings(**settings)
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    with pytest.raises(InputError, match="batch 0: x must be finite"):
        learner.learn(torch.full((2, 64), torch.nan), torch.zeros(2, dtype=torch.int64))
    learn(learner, batches_of(stream, [0], SMALL))
    learner.checkpoint()
    other = NnsSettings(period=10)
    with pytest.raises(InputError, match=r"the learner had settings .*'period': 50.*this one has"):
        NnsLearner(bank, module, recipe=SMALL, settings=other)
    (bank.path / "nns" / "0000-8.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"0000-8.safetensors: damaged.*restore it"):
        NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    (bank.path / "nns" / "learner.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match=r"learner.json: must be of format 1 with the fields"):
        NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    named = new_bank(tmp_path / "named", module)
    named.add(st.train_task(named, module, stream.task(0), recipe=st.Recipe(steps=1)))
    with pytest.raises(InputError, match=r"the bank has tasks, and no nns/learner.json"):
        NnsLearner(named, module)
    plain = st.make_model("mlp-16", input_shape=(64,), outputs=10)
    small = st.create_bank(tmp_path / "plain", plain, input_shape=(64,), real_outputs=10)
    with pytest.raises(InputError, match="objective: superfluous needs superfluous outputs"):
        NnsLearner(small, plain, settings=NnsSettings(objective="superfluous"))
