"""Negatives: the loss, where they come from, and what is refused."""

from __future__ import annotations

import pickle
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st_

import supsup_train as st
from commands import program, run, run_stopped
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.stored_images import image_bytes, stored_images
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import InputError
from supsup_train import Device, Negatives, Workers
from supsup_train.masks import gathering
from supsup_train.masks.learning import loss_of
from supsup_train.masks.negatives import TaskNegatives
from tiny_streams import pictures, pictures_file
from with_negatives import ALONE, RECIPE, bank_of, drawn, flat, learned, own_pictures


def test_the_loss_by_hand() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((7, 5)) * 3
    labels = np.array([0, 2, 1, 0])
    odds = np.exp(z)
    own = -np.log(odds[np.arange(4), labels] / odds[:4].sum(1)).mean()
    others = -np.log(odds[4:, 3:].sum(1) / odds[4:].sum(1)).mean()
    logits, y = torch.from_numpy(z), torch.from_numpy(labels)
    assert loss_of(logits, y, 3).item() == pytest.approx(own + others, rel=1e-12)
    assert loss_of(logits[:4], y, 3).item() == pytest.approx(own, rel=1e-12)
    large = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    assert loss_of(large, torch.tensor([0]), 1).item() == 0


@given(own=st_.integers(1, 200), kinds=st_.integers(1, 4), seed=st_.integers(0, 9))
def test_a_third_of_a_batch_in_equal_parts(own: int, kinds: int, seed: int) -> None:
    pools = tuple(np.full((3, 1, 2, 2), 10.0 * (i + 1), np.float32) for i in range(kinds))
    made = TaskNegatives(changes=(), pools=pools, picture=(), augment="none", tasks=())
    x, generator = torch.zeros(own, 1, 2, 2), torch.Generator().manual_seed(seed)
    y = made.after(x, generator)
    assert len(y) - own == max(1, own * 42 // 128)
    assert torch.equal(y[:own], x)
    counts = Counter(y[own:, 0, 0, 0].tolist())
    found = [counts[10.0 * (i + 1)] for i in range(kinds)]
    assert max(found) - min(found) <= 1
    if own < 7:  # one, of each kind in its turn
        several = {made.after(x, generator)[-1, 0, 0, 0].item() for _ in range(99)}
        assert len(several) == kinds


def test_flat_inputs_are_pictures(tmp_path: Path) -> None:
    """Those of a flat stream are those of an image stream, flattened."""
    image = pictures(tasks=2, classes=4, side=9)
    wide = flat(tasks=2, classes=4, side=9)
    recipe = replace(RECIPE, negatives=ALONE)
    bank, _ = bank_of(tmp_path / "a", image, model="conv-3")
    found = []
    for stream, made in (
        (image, Negatives(bank, image, recipe).of(image.task(1))),
        (wide, drawn(tmp_path / "b", wide, recipe, 1)),
    ):
        x = torch.from_numpy(stream.task(1).train_x[:12])
        y = made.after(x, torch.Generator().manual_seed(3))
        assert y.shape == (15, *stream.input_shape)
        found.append(y.flatten(1))
    assert torch.equal(*found)
    assert made.tasks == ()


def test_others_are_of_all_other_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = flat(images=90)
    made = drawn(tmp_path / "a", stream, replace(RECIPE, negatives="others"), 1)
    (pool,) = made.pools
    rows = {row.tobytes() for k in (0, 2) for row in stream.task(k).train_x}
    assert {row.tobytes() for row in pool} == rows
    assert made.tasks == ("split-0-1", "split-4-5")
    monkeypatch.setattr(gathering, "_OTHERS", 7)
    (fewer,) = drawn(tmp_path / "b", stream, replace(RECIPE, negatives="others"), 1).pools
    assert len(fewer) == 14
    assert {row.tobytes() for row in fewer} < rows


def test_pictures_of_a_file_are_prepared_as_the_task_s(tmp_path: Path) -> None:
    more = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "more.npy", more)
    np.savez(tmp_path / "more.npz", x_train=more)
    data = pictures(tasks=3, classes=6).dataset
    learned_from_them = replace(data, train_x=more, train_y=np.arange(6))
    for name, kind in (("more.npy", "permuted"), ("more.npz", "rotated"), ("more.npy", "split")):
        recipe = replace(RECIPE, negatives=f"file:{tmp_path / name}")
        stream, theirs = (
            make_stream(kind, each, num_tasks=3, degrees=90.0) for each in (data, learned_from_them)
        )
        (pool,) = drawn(tmp_path / kind, stream, recipe, 1).pools
        if kind == "split":  # of all classes
            wanted = np.concatenate([theirs.task(index).train_x for index in range(3)])
        else:
            wanted = theirs.task(1).train_x
        np.testing.assert_array_equal(pool, wanted)


def test_of_a_large_file_some_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "more.npy", more)
    recipe = replace(RECIPE, negatives=f"file:{tmp_path / 'more.npy'}")
    stream = flat()
    (every,) = drawn(tmp_path / "a", stream, recipe, 1).pools
    monkeypatch.setattr(gathering, "_MOST_VALUES", 4 * 8 * 8 * 3)
    few = [
        drawn(tmp_path / name, stream, recipe, task).pools[0]
        for name, task in (("b", 1), ("c", 1), ("d", 2))
    ]
    assert [len(pool) for pool in few] == [4, 4, 4]
    np.testing.assert_array_equal(few[0], few[1])
    rows = [{row.tobytes() for row in pool} for pool in (every, few[0], few[2])]
    assert rows[1] < rows[0]
    assert rows[1] != rows[2]  # by task


def test_workers_map_the_images_of_others(tmp_path: Path) -> None:
    stream = flat(images=90)
    bank, _ = bank_of(tmp_path / "b", stream)
    negatives = Negatives(bank, stream, replace(RECIPE, negatives="others"))
    negatives.gather()
    mapped: list[pickle.PickleBuffer] = []
    sent = pickle.dumps(negatives._others, protocol=5, buffer_callback=mapped.append)
    assert len(mapped) == 1  # joblib maps arrays, if each is large
    assert len(sent) < mapped[0].raw().nbytes / 2


def test_a_folder_of_pictures_for_own_tasks(tmp_path: Path) -> None:
    from PIL import Image

    tasks = own_pictures(tmp_path / "own")
    (tmp_path / "more").mkdir()
    for i in range(3):
        Image.fromarray(np.full((12 + i, 9, 3), 40 * i, np.uint8)).save(tmp_path / f"more/{i}.png")
    recipe = replace(RECIPE, negatives=f"others,file:{tmp_path / 'more'}")
    made = drawn(tmp_path / "bank", tasks, recipe)
    # of the other task's 16 pictures a fifth of each class is held out
    assert sorted(pool.shape for pool in made.pools) == [(3, 64), (12, 64)]
    (tmp_path / "more" / "z.png").write_bytes((tmp_path / "own/a/x/1.png").read_bytes())
    with pytest.raises(InputError, match="1 of 4 pictures are those of task 'a'; as negatives th"):
        drawn(tmp_path / "again", tasks, recipe)


def test_memory_grows_with_the_tasks(tmp_path: Path) -> None:
    stream = flat()
    bank = learned(tmp_path / "b", stream, "memory")
    told = [task.training.get("negative_tasks") for task in bank]
    assert told == [None, ["split-0-1"], ["split-0-1", "split-2-3"]]
    assert image_bytes(bank).keys() == set(stream.task_names)
    for index, name in enumerate(stream.task_names):
        images = stored_images(bank, name)
        assert images is not None
        own = {row.tobytes() for row in stream.task(index).train_x}
        assert len(images) == min(20, len(own))
        assert {row.tobytes() for row in images} <= own
    recipe = replace(RECIPE, negatives="memory", memory=3)
    other, module = bank_of(tmp_path / "few", stream)
    st.train_stream(other, module, stream, recipe=recipe)
    few = stored_images(other, "split-0-1")
    assert few is not None
    assert few.shape == (3, 192)
    assert other.task(0).training["recipe"]["memory"] == 3
    assert "memory" not in bank.task(0).training["recipe"]


def digests(bank: MaskBank) -> list[str]:
    return [entry.sha256 for entry in bank.entries]


@pytest.mark.parametrize("negatives", ["memory", "others,memory"])
def test_going_on_gives_the_same_bank(tmp_path: Path, negatives: str) -> None:
    stream, recipe = flat(), replace(RECIPE, negatives=negatives)
    whole = learned(tmp_path / "whole", stream, negatives)
    bank, module = bank_of(tmp_path / "parts", stream)
    negative = Negatives(bank, stream, recipe)
    record = {**stream.origin(0), "stream_index": 0}
    data = stream.task(0)
    given = {"recipe": recipe, "record": record, "negatives": negative}
    bank.add(st.train_task(bank, module, data, **given))  # type: ignore[arg-type]
    st.train_task(bank, module, stream.task(1), **given)  # type: ignore[arg-type]  # and stopped
    st.train_stream(MaskBank.open(bank.path), module, stream, recipe=recipe)
    parts = MaskBank.open(bank.path)
    assert digests(parts) == digests(whole)
    assert {f.name: f.read_bytes() for f in (bank.path / "memory").iterdir()} == {
        f.name: f.read_bytes() for f in (whole.path / "memory").iterdir()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory/split-2-3.safetensors", "tasks/split-2-3.safetensors"])
def test_a_kill_between_images_and_task_changes_nothing(tmp_path: Path, name: str) -> None:
    data = pictures_file(tmp_path / "p.npz", classes=6, side=8, images=72)
    words = ["split", "--data", data, "--tasks", 3, "--model", "mlp-8", "--outputs", 9, "--quiet"]
    words += ["--steps", 5, "--negatives", "memory", "--memory", 4, "--bank"]
    run("supsup-train", *words, tmp_path / "whole")
    run_stopped(program("supsup-train"), *words, tmp_path / "cut", name=name, stop=signal.SIGKILL)
    run("supsup-train", *words, tmp_path / "cut")
    for path in (tmp_path / "whole").glob("*/*.safetensors"):
        other = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes(), path.name
    assert not list((tmp_path / "cut").rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("negatives", [ALONE, "others,shuffled"])
def test_workers_learn_the_same(tmp_path: Path, negatives: str) -> None:
    stream = flat()
    one = learned(tmp_path / "one", stream, negatives)
    two = learned(tmp_path / "two", stream, negatives, workers=Workers(count=2))
    assert digests(one) == digests(two)


@pytest.mark.parametrize("model", ["mlp-6", "cnn"])
def test_tasks_at_once_learn_nearly_the_same(tmp_path: Path, model: str) -> None:
    stream = pictures(tasks=3, classes=6) if model == "cnn" else flat()
    recipe = replace(RECIPE, negatives="others,turned,shuffled")
    banks = []
    for tasks in (1, 3):
        bank, module = bank_of(tmp_path / str(tasks), stream, model=model)
        st.train_stream(bank, module, stream, recipe=recipe, device=Device(tasks=tasks))
        banks.append(bank)
    for a, b in zip(*banks, strict=True):
        for key, value in a.masks.items():
            assert np.unpackbits(value ^ b.masks[key]).mean() < 2e-3
        for key, state in a.state.items():
            np.testing.assert_allclose(b.state[key], state, rtol=1e-3, atol=1e-4)


def test_superfluous_outputs_learn_what_is_not_the_task(tmp_path: Path) -> None:
    """Images of the task and of another come further apart by their log-odds."""
    stream = flat(images=240)
    recipe = replace(RECIPE, steps=80)
    odds = {}
    for kind in ("none", "others"):
        bank, module = bank_of(tmp_path / kind, stream, outputs=20)
        st.train_stream(bank, module, stream, recipe=replace(recipe, negatives=kind))
        loaded = st.load_task(bank, module, 0)
        for index in (0, 1):
            z = loaded(torch.from_numpy(stream.task(index).test_x)).detach()
            odds[kind, index] = (z[:, :2].logsumexp(1) - z[:, 2:].logsumexp(1)).mean().item()
    apart = {kind: odds[kind, 0] - odds[kind, 1] for kind in ("none", "others")}
    assert apart["others"] > apart["none"] + 0.5
    assert odds["others", 1] < min(0, odds["none", 1]) < 0 < odds["others", 0]
    assert bank.task(0).training["recipe"]["negatives"] == "others"
