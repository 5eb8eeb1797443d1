"""Scenario NNs on permuted digits with small networks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.errors import InputError
from supsup_train.masks.recipe import OptimizerKind
from supsup_train.nns.learner import MIN_MASKS, Decision, NnsLearner, NnsSettings
from supsup_train.nns.stream import _is_later, unlabelled_batches
from supsup_train.reporting import begin_log

# On digits, entropy separates a few tasks if there are many superfluous outputs.
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
    """Yield the batches of some tasks in order."""
    every = list(unlabelled_batches(stream, recipe))
    size = recipe.steps
    return [batch for task in tasks for batch in every[task * size : (task + 1) * size]]


def learn(learner: NnsLearner, batches: list[tuple[Tensor, Tensor]]) -> list[Decision]:
    found = [learner.learn(x, y) for x, y in batches]
    return [decision for decision in found if decision is not None]


def test_a_mask_is_allocated_for_each_task_and_no_other(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    """Four tasks, then the second one again."""
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
    training = bank.task(2).training
    assert training["scenario"] == "NNs"
    assert training["allocated"] == asdict(decisions[4])  # why
    assert training["settings"] == asdict(SETTINGS)
    assert len(learner.scores(stream_images(stream))) == MIN_MASKS  # one reference


def test_untrained_masks_are_never_chosen(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    """The authors' code also compares unallocated masks, and may train one."""
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
    """After any batch: training resumes from the last checkpoint."""
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
    """Images without signal give equal scores for all masks, so each is a new task."""
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, settings=NnsSettings(period=1, max_tasks=2))
    x, y = torch.zeros(8, 64), torch.zeros(8, dtype=torch.int64)  # also one class only
    kinds = [d.kind for d in learn(learner, [(x, y)] * 4)]
    assert kinds == ["first", "new", "full", "full"]
    assert learner.scores(x).tolist() == [0.0] * MIN_MASKS


def test_one_task_is_one_mask(stream: Stream, module: torch.nn.Module, tmp_path: Path) -> None:
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=RECIPE, settings=SETTINGS)
    decisions = learn(learner, batches_of(stream, [0, 0, 0], RECIPE))
    assert [d.kind for d in decisions] == ["first"] + ["same"] * 5
    assert learner.num_tasks == 1


def test_batches_of_one_class_are_of_their_task(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=RECIPE, settings=SETTINGS)
    learn(learner, batches_of(stream, [0, 1], RECIPE))
    for task in (0, 1):
        data = stream.task(task)
        for label in range(10):
            rows = data.train_y == label
            scores = learner.scores(torch.from_numpy(data.train_x[rows]))
            assert scores[:2].argmax() == task


def test_a_batch_of_mixed_tasks_goes_to_one_of_them(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    """All rows train the likeliest mask."""
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=RECIPE, settings=SETTINGS)
    learn(learner, batches_of(stream, [0, 1], RECIPE))
    (x0, y0), (x1, y1) = batches_of(stream, [0, 1], RECIPE)[::100]
    decision = learner.learn(torch.cat([x0, x1[:32]]), torch.cat([y0, y1[:32]]))
    assert decision is not None
    assert (decision.kind, decision.task) == ("known", "learned-0000")
    learner.checkpoint()
    assert bank.task(0).training["batches"] == [[0, 100], [200, 201]]


def test_a_batch_normalised_network_learns_and_goes_on(tmp_path: Path) -> None:
    images = make_stream("permuted", load_dataset(None), num_tasks=2, layout="image")
    module = st.Cnn(1, 30, width=8)
    recipe, settings = st.Recipe(steps=6, batch_size=16), NnsSettings(period=3)
    batches = list(unlabelled_batches(images, recipe))
    found = []
    for name, stop in (("whole", 12), ("parts", 8)):
        bank = st.create_bank(tmp_path / name, module, input_shape=(1, 8, 8), real_outputs=10)
        learn(NnsLearner(bank, module, recipe=recipe, settings=settings), batches[:stop])
        again = NnsLearner(MaskBank.open(bank.path), module, recipe=recipe, settings=settings)
        learn(again, batches[again.batches :])
        again.checkpoint()
        found.append([entry.sha256 for entry in MaskBank.open(bank.path).entries])
    assert found[0] == found[1]
    assert again.num_tasks >= 1


def test_a_loss_that_is_lost_leaves_the_checkpoint_before(stream: Stream, tmp_path: Path) -> None:
    """A trained head at a learning rate that is too high, also in the last step."""
    module = st.make_model("mlp-16", input_shape=(64,), outputs=30)
    names = [name for name, _ in module.named_parameters()]
    bank = st.create_bank(
        tmp_path / "masks",
        module,
        input_shape=(64,),
        real_outputs=10,
        masked=names[:1],
        state=names[1:],
    )
    wild = st.Recipe(steps=8, learning_rate=1e38, batch_size=16, optimizer="sgd")
    learner = NnsLearner(bank, module, recipe=wild, settings=NnsSettings(period=8))
    batches = batches_of(stream, [0], wild)
    with pytest.raises(
        InputError, match=r"batch [12], task 'learned-0000': the loss must .* lower"
    ):
        learn(learner, batches)
    files = {path: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}
    fresh = NnsLearner(bank, module, recipe=wild, settings=NnsSettings(period=8))
    fresh.learn(*batches[0])
    fresh._current.scores[names[0]].data.fill_(torch.nan)  # type: ignore[union-attr]  # learning
    with pytest.raises(
        InputError, match=r"task 'learned-0000': .* must be finite.* lower the learn"
    ):
        fresh.checkpoint()
    assert files == {path: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}


def test_the_log_of_a_run_that_stopped_is_that_of_a_whole_one(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [json.dumps({"batch": batch, "certainty": 2.0}) for batch in (0, 4, 8)]
    others = ["a note", '{"note": 1}', "[" * 100_000, "1" * 5000]
    others += [f'{{"certainty": 2.0{end}}}' for end in ("", ', "batch": "8"', ', "batch": null')]
    log.write_text("\n".join([*others, *lines]) + '\n{"batch": 12, "cer')
    begin_log(log, lambda line: not _is_later(line, 4))
    assert log.read_text().splitlines() == [*others, lines[0]]


def test_what_does_not_fit_is_refused(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"threshold": 1.0}, "threshold: must be above 1 and finite, got 1.0"),
        ({"threshold": float("nan")}, "threshold: must be above 1"),
        ({"period": 0}, "period: must be an integer of at least 1, got 0"),
        ({"max_tasks": 0}, "max_tasks: must be an integer of at least 1, got 0"),
        ({"objective": "luck"}, "objective: must be one of entropy, superfluous, got 'luck'"),
    )
    for settings, message in cases:
        with pytest.raises(InputError, match=message):
            NnsSettings(**settings)
    bank = new_bank(tmp_path / "masks", module)
    learner = NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    x, y = torch.zeros(2, 64), torch.zeros(2, dtype=torch.int64)
    for wrong, labels, message in (
        (torch.full((2, 64), torch.nan), y, "batch 0: x must be finite"),
        (x.double(), y, r"batch 0: x must be float32 \(images, 64\).* got float64 \(2, 64\)"),
        (x[:, 1:], y, r"x must be float32 .* got float32 \(2, 63\)"),
        (x[:0], y[:0], r"at least one image, got float32 \(0, 64\)"),
        (x, y[:1], r"y must be int64 \(2,\), got int64 \(1,\)"),
        (x, y.int(), r"y must be int64 \(2,\), got int32"),
        (x, y + 10, r"labels must be in \[0, 10\), got 10 to 10"),
        (x, y - 1, r"labels must be in \[0, 10\), got -1 to -1"),
    ):
        with pytest.raises(InputError, match=message):
            learner.learn(wrong, labels)
    assert (learner.batches, learner.num_tasks) == (0, 0)
    learn(learner, batches_of(stream, [0], SMALL))
    learner.checkpoint()
    other = NnsSettings(period=10)
    with pytest.raises(InputError, match=r"the learner had settings .*'period': 50.*this one has"):
        NnsLearner(bank, module, recipe=SMALL, settings=other)
    (bank.path / "nns" / "0000-8.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"0000-8.safetensors: damaged.*restore it"):
        NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    (bank.path / "nns" / "0000-8.safetensors").unlink()
    with pytest.raises(InputError, match=r"task 0 must be in 0000-8.safetensors, which is missing"):
        NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    path = bank.path / "nns" / "learner.json"
    whole = json.loads(path.read_text())
    broken = [{**whole, "format": 9}, {**whole, "tasks": [{}]}, {**whole, "current": 1}, [1]]
    broken += [{**whole, "batches": float("inf")}]
    broken += [{key: value for key, value in whole.items() if key != "batches"}]
    for text in ("{", "[" * 100_000, *map(json.dumps, broken)):
        path.write_text(text)
        with pytest.raises(InputError, match=r"learner.json: must be a checkpoint of format 1"):
            NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    path.unlink()  # the mask remains and is not overwritten
    with pytest.raises(InputError, match=r"the bank has tasks, and no nns/learner.json"):
        NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    named = new_bank(tmp_path / "named", module)
    named.add(st.train_task(named, module, stream.task(0), recipe=st.Recipe(steps=1)))
    with pytest.raises(InputError, match=r"the bank has tasks, and no nns/learner.json"):
        NnsLearner(named, module)
    plain = st.make_model("mlp-16", input_shape=(64,), outputs=10)
    small = st.create_bank(tmp_path / "plain", plain, input_shape=(64,), real_outputs=10)
    with pytest.raises(InputError, match="objective: superfluous needs superfluous outputs"):
        NnsLearner(small, plain, settings=NnsSettings(objective="superfluous"))
    state = st.create_bank(
        tmp_path / "state",
        plain,
        input_shape=(64,),
        real_outputs=10,
        masked=[],
        state=[name for name, _ in plain.named_parameters()],
    )
    with pytest.raises(InputError, match="needs masked parameters, got none; make the bank with"):
        NnsLearner(state, plain)
    with pytest.raises(
        InputError, match="transfer: scenario NNs starts with random scores, got 'm"
    ):
        NnsLearner(named, module, recipe=st.Recipe(transfer="masks"))
    with pytest.raises(InputError, match="transfer 'masks' needs masked parameters, the network"):
        st.Transfer(state, st.Recipe(transfer="masks"))


def test_a_recipe_of_before_an_option_was_there_goes_on(
    stream: Stream, module: torch.nn.Module, tmp_path: Path
) -> None:
    bank = new_bank(tmp_path / "masks", module)
    first = NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS)
    learn(first, batches_of(stream, [0], SMALL))
    first.checkpoint()
    path = bank.path / "nns" / "learner.json"
    told = json.loads(path.read_text())
    for name in ("schedule", "weight_decay", "score_init"):
        del told["origin"]["recipe"][name]
    path.write_text(json.dumps(told))
    assert NnsLearner(bank, module, recipe=SMALL, settings=SETTINGS).batches == SMALL.steps


def test_a_log_is_trimmed_in_place(tmp_path: Path) -> None:
    """A link stays a link; only truncated JSON is removed."""
    target, log = tmp_path / "target", tmp_path / "log"
    log.symlink_to(target)
    for text, kept in (
        ('{"a": 1}\n{"b": ', '{"a": 1}\n'),
        ('{"a": 1}', '{"a": 1}\n'),
        ("a\rb\nnotes", "a\rb\nnotes\n"),
        ("", ""),
    ):
        target.write_bytes(text.encode())
        begin_log(log)
        assert target.read_bytes() == kept.encode()
    assert log.is_symlink()
