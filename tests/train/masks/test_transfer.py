"""Initial scores from earlier tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import initial_scores
from supsup_train.masks.recipe import TransferKind
from supsup_train.resume import check_resumed

KINDS: tuple[TransferKind, ...] = ("none", "masks", "scores")
RECIPE = st.Recipe(steps=25, learning_rate=1e-3)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return make_stream("rotated", load_dataset(None), num_tasks=5)


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return st.make_model("mlp-64", input_shape=(64,), outputs=20)


def learned(
    path: Path, module: torch.nn.Module, stream: Stream, recipe: st.Recipe, *, tasks: int = 5
) -> MaskBank:
    """Learn the stream's first tasks, or resume."""
    bank = st.open_bank(path, module, input_shape=(64,), real_outputs=10)
    names, labels = stream.task_names[:tasks], stream.task_labels[:tasks]
    first = replace(stream, task_names=names, task_labels=labels)
    st.train_stream(bank, module, first, recipe=recipe)
    return bank


def digests(bank: MaskBank) -> list[str]:
    return [entry.sha256 for entry in bank.entries]


def accuracy(bank: MaskBank) -> float:
    """Return the mean accuracy of all tasks but the first, which has no transfer."""
    return float(np.mean([task.training["accuracy"] for task in list(bank)[1:]]))


@pytest.mark.parametrize("rule", [st.Rule(), st.Rule(kind="top-k", density=0.3)], ids=["0", "k"])
def test_the_mean_of_masks_by_hand(
    tmp_path: Path, module: torch.nn.Module, stream: Stream, rule: st.Rule
) -> None:
    recipe = replace(RECIPE, transfer="masks", rule=rule)
    bank = learned(tmp_path / "masks", module, stream, recipe, tasks=3)
    fresh = initial_scores(bank.network, torch.Generator().manual_seed(0))
    start = st.Transfer(bank, recipe).start(fresh)
    for p in bank.network.parameters:
        mean = np.mean([unpack_mask(task.masks[p.name], p.shape) for task in bank], axis=0)
        drawn = fresh[p.name].numpy().astype(np.float64)
        bound = 1 / np.sqrt(p.shape[1])
        if rule.kind == "top-k":
            want = np.sign(drawn) * (mean * bound + np.abs(drawn)) / 2
        else:
            want = ((2 * mean - 1) * np.abs(drawn) + drawn / 4) * 4 / 5  # three tasks
        got = start[p.name].numpy()
        # three float32 operations on values within the bound
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * 2.0**-24 * bound)
        assert np.abs(got).max() <= bound
    # after one task the next starts with the same mask
    alone = learned(tmp_path / "alone", module, stream, recipe, tasks=1)
    begun = st.Transfer(alone, recipe).start(fresh)
    densities = rule.densities([p.shape for p in alone.network.parameters])
    for p, density in zip(alone.network.parameters, densities, strict=True):
        mask = unpack_mask(alone.task(0).masks[p.name], p.shape)
        got = rule.mask(begun[p.name], density).bool().numpy()
        np.testing.assert_array_equal(got, mask)


def test_where_half_of_the_tasks_have_a_weight_fresh_scores_decide(
    tmp_path: Path, module: torch.nn.Module, stream: Stream
) -> None:
    recipe = replace(RECIPE, transfer="masks")
    bank = learned(tmp_path / "masks", module, stream, recipe, tasks=2)
    fresh = initial_scores(bank.network, torch.Generator().manual_seed(0))
    start = st.Transfer(bank, recipe).start(fresh)
    for p in bank.network.parameters:
        one, two = (unpack_mask(task.masks[p.name], p.shape) for task in bank)
        keeps, drawn = (start[p.name] >= 0).numpy(), (fresh[p.name] >= 0).numpy()
        assert (one != two).any()
        np.testing.assert_array_equal(keeps, np.where(one == two, one, drawn))


@pytest.mark.parametrize("kind", ["masks", "scores"])
def test_top_k_can_take_up_what_no_task_had(
    tmp_path: Path, module: torch.nn.Module, stream: Stream, kind: TransferKind
) -> None:
    """A score of 0 has no gradient: every later mask would equal the first."""
    rule = st.Rule(kind="top-k", density=0.3)
    recipe = replace(RECIPE, transfer=kind, rule=rule)
    bank = learned(tmp_path / "masks", module, stream, recipe, tasks=3)
    p = bank.network.parameters[0]
    first, _, third = (unpack_mask(task.masks[p.name], p.shape) for task in bank)
    assert (third & ~first).sum() > 0.02 * first.sum()
    assert bank.task(2).training["accuracy"] > 0.7


def test_the_mean_of_scores_by_hand(
    tmp_path: Path, module: torch.nn.Module, stream: Stream
) -> None:
    recipe = replace(RECIPE, transfer="scores")
    bank = learned(tmp_path / "masks", module, stream, recipe, tasks=2)
    rng = np.random.default_rng(0)
    made = [
        {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in bank.network.parameters}
        for _ in range(2)
    ]
    other = st.create_bank(tmp_path / "other", module, input_shape=(64,), real_outputs=10)
    transfer = st.Transfer(other, recipe)
    fresh = initial_scores(bank.network, torch.Generator())
    assert transfer.start(fresh) is fresh
    for index, scores in enumerate(made):
        tensors = {name: torch.from_numpy(value) for name, value in scores.items()}
        transfer.remember(bank.task(index), tensors)
        transfer.remember(bank.task(index), tensors)  # learned and discarded
        other.add(bank.task(index))
        transfer.tidy()
    start = st.Transfer(other, recipe).start(fresh)  # read from the file
    for name, value in start.items():
        want = (made[0][name].astype(np.float64) + made[1][name]) / 2
        np.testing.assert_allclose(value.numpy(), want, rtol=1e-6, atol=1e-9)


def test_transfer_helps_where_tasks_are_alike_and_steps_are_few(
    tmp_path: Path, module: torch.nn.Module, stream: Stream
) -> None:
    """Rotations by 10 degrees, 10 steps per task: 66 % without, about 83 % with either."""
    recipe = replace(RECIPE, steps=10)
    found = {
        kind: accuracy(learned(tmp_path / kind, module, stream, replace(recipe, transfer=kind)))
        for kind in KINDS
    }
    assert found["masks"] > found["none"] + 0.08
    assert found["scores"] > found["none"] + 0.08


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_gives_the_same_bank(
    tmp_path: Path, module: torch.nn.Module, stream: Stream, kind: TransferKind
) -> None:
    recipe = replace(RECIPE, transfer=kind, steps=5)
    whole = learned(tmp_path / "whole", module, stream, recipe)
    learned(tmp_path / "parts", module, stream, recipe, tasks=2)
    bank = MaskBank.open(tmp_path / "parts")
    # stopped after writing the third task's scores, before adding it to the bank
    st.train_task(bank, module, stream.task(2), recipe=recipe, transfer=st.Transfer(bank, recipe))
    parts = learned(tmp_path / "parts", module, stream, recipe)
    assert digests(parts) == digests(whole)
    left = list((tmp_path / "parts").glob("transfer/*"))
    assert [path.name for path in left] == (["0005.safetensors"] if kind == "scores" else [])


def test_each_task_is_read_once(
    tmp_path: Path, module: torch.nn.Module, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on resuming; the bank equals one with means computed anew per task."""
    recipe = replace(RECIPE, transfer="masks", steps=5)
    anew = st.create_bank(tmp_path / "anew", module, input_shape=(64,), real_outputs=10)
    for index in range(5):
        transfer = st.Transfer(anew, recipe)
        record = {**stream.origin(index), "stream_index": index}
        data = stream.task(index)
        anew.add(st.train_task(anew, module, data, recipe=recipe, record=record, transfer=transfer))
    read: list[int | str] = []
    task_of = MaskBank.task

    def counted(bank: MaskBank, key: int | str) -> TaskMasks:
        read.append(key)
        return task_of(bank, key)

    monkeypatch.setattr(MaskBank, "task", counted)
    learned(tmp_path / "masks", module, stream, recipe, tasks=3)
    assert read == [0, 1]
    bank = learned(tmp_path / "masks", module, stream, recipe)
    assert read[-4:] == [
        0,
        1,
        2,
        3,
    ]  # not counting the reads on opening the bank and comparing recipes
    assert len(read) == 2 + 3 + 3 + 4
    for name in ("bank.json", *(entry.file for entry in bank.entries)):
        assert (bank.path / name).read_bytes() == (anew.path / name).read_bytes(), name
    fresh = initial_scores(bank.network, torch.Generator().manual_seed(0))
    transfer = st.Transfer(bank, recipe)
    transfer.start(fresh)
    bank.replace(replace(bank.task(1), masks=bank.task(0).masks))  # a counted task has changed
    again, anew_start = transfer.start(fresh), st.Transfer(bank, recipe).start(fresh)
    assert all(torch.equal(again[name], value) for name, value in anew_start.items())


def test_what_does_not_fit_is_refused(
    tmp_path: Path, module: torch.nn.Module, stream: Stream
) -> None:
    with pytest.raises(InputError, match=r"transfer: must be one of none,.*got 'luck'"):
        st.Recipe(transfer="luck")  # type: ignore[arg-type]  # refused
    recipe = replace(RECIPE, transfer="scores", steps=2)
    bank = learned(tmp_path / "masks", module, stream, recipe, tasks=2)
    with pytest.raises(InputError, match="the recipe transfers scores; give transfer=Transfer"):
        st.train_task(bank, module, stream.task(2), recipe=recipe)
    other = st.Transfer(bank, replace(recipe, transfer="none"))
    with pytest.raises(InputError, match="the Transfer was made for transfer 'none', the recipe"):
        st.train_task(bank, module, stream.task(2), recipe=recipe, transfer=other)
    with pytest.raises(InputError, match="learned with transfer 'scores', this run has 'n"):
        check_resumed(bank, bank.task_names, replace(recipe, transfer="none"), lambda _: {})
    file = bank.path / "transfer" / "0002.safetensors"
    data = file.read_bytes()
    file.write_bytes(b"no")
    with pytest.raises(InputError, match=r"0002.safetensors: cannot be read.*restore it, or start"):
        st.Transfer(bank, recipe)
    file.unlink()
    with pytest.raises(InputError, match=r"0002.safetensors: cannot be read.*restore it"):
        st.Transfer(bank, recipe)
    file.write_bytes(data)
    task = bank.task(1)
    bank.replace(replace(task, labels=("changed",)))  # another task with the same name
    with pytest.raises(InputError, match="must be of the bank's tasks, is of others"):
        st.Transfer(bank, recipe)
    bank.replace(task)
    st.Transfer(bank, recipe)
    bank.rename(bank.task_names[0], "another")
    with pytest.raises(InputError, match="must be of the bank's tasks, is of others"):
        st.Transfer(bank, recipe)


def test_recipes_of_before_transfer_go_on(
    tmp_path: Path, module: torch.nn.Module, stream: Stream
) -> None:
    recipe = replace(RECIPE, steps=1)
    bank = learned(tmp_path / "masks", module, stream, recipe, tasks=1)
    task = bank.task(0)
    old = {k: v for k, v in task.training["recipe"].items() if k != "transfer"}
    bank.replace(replace(task, training={**task.training, "recipe": old}))
    check_resumed(bank, bank.task_names, recipe, lambda _: {})
