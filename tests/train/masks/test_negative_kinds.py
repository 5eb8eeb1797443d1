"""Kinds of negatives: recipes, options of the command, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import supsup_train as st
from commands import run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.stored_images import forget_images
from supsup_runtime.data.own import Tasks
from supsup_runtime.data.streams import Stream, TaskData, make_stream
from supsup_runtime.errors import BankError, DataError, FileError, InputError
from supsup_train import Device, Negatives, Recipe, Workers
from supsup_train.masks import gathering
from supsup_train.nns.learner import NnsLearner
from tiny_streams import pictures
from with_negatives import ALONE, RECIPE, bank_of, flat, learned, own_pictures


@pytest.mark.parametrize(
    "kinds", ["", "noise", "none,turned", "turned,turned", "file:", "turned, shuffled", "File:a"]
)
def test_unknown_kinds_are_refused(kinds: str) -> None:
    text = (
        "^negatives: must be none, or some of turned, shuffled, others, memory and file:PATH, "
        f"joined by commas, each once, got {kinds!r}$"
    )
    with pytest.raises(InputError, match=text):
        Recipe(negatives=kinds)


def test_recipes() -> None:
    assert Recipe().negative_parts == ()
    assert Recipe(negatives="memory,turned,file:a:b").negative_parts == (
        *("turned", "shuffled", "stored", "file:a:b"),
    )
    text = r"^memory: goes with negatives 'memory', got 'turned'; leave it out$"
    with pytest.raises(InputError, match=text):
        Recipe(negatives="turned", memory=3)
    with pytest.raises(InputError, match=r"^memory: must be an integer of at least 1, got 0"):
        Recipe(negatives="memory", memory=0)
    with pytest.raises(InputError, match=r"^negatives: must be text"):
        Recipe(negatives=3)  # type: ignore[arg-type]


def refused(path: Path, stream: Tasks, kinds: str, message: str, **options: Any) -> None:
    bank, module = bank_of(path, stream, **options)
    recipe = replace(RECIPE, negatives=kinds)
    with pytest.raises((InputError, DataError), match=f"^{message}$"):
        st.train_stream(bank, module, stream, recipe=recipe)
    assert not len(bank)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path / "a",
        flat(),
        "turned",
        r"negatives: 'turned' need outputs beyond the classes, the network has none; make a bank "
        r"with more --outputs, or leave negatives out",
        outputs=2,
    )
    data = pictures(tasks=2, classes=4).dataset
    features = replace(
        data,
        train_x=data.train_x.reshape(len(data.train_x), -1),
        test_x=data.test_x.reshape(len(data.test_x), -1),
    )
    stream = make_stream("split", features, num_tasks=2)
    for kinds, named in (("memory", "turned and shuffled"), ("others,turned", "turned")):
        message = f"negatives: {named} need pictures of at least two pixels, pictures has none;"
        refused(tmp_path / kinds, stream, kinds, f"{message} use others, or file:PATH")
    learned(tmp_path / "features", stream, "others")
    single = pictures(tasks=2, classes=4, side=1)
    message = "negatives: shuffled need pictures of at least two pixels, pictures has none; use "
    message += "others, or file:PATH"
    refused(tmp_path / "pixel", single, "shuffled", message, model="conv-2")
    message = "negatives: others need another task, pictures has one; use turned, shuffled, memory "
    refused(tmp_path / "one", flat(tasks=1, classes=4), "others", f"{message}or file:PATH")
    alone = learned(tmp_path / "alone", flat(tasks=1, classes=4), "memory")
    assert "negative_tasks" not in alone.task(0).training
    bank, module = bank_of(tmp_path / "task", flat())
    recipe, task = replace(RECIPE, negatives="memory"), flat().task(0)
    with pytest.raises(
        InputError, match=r"task split-0-1: the recipe has negatives 'memory'; give "
    ):
        st.train_task(bank, module, task, recipe=recipe)
    text = "^negatives: memory makes each task depend on those before it, so they are learned in "
    for options in ({"workers": Workers(count=2)}, {"device": Device(tasks=2)}):
        with pytest.raises(InputError, match=text):
            st.train_stream(bank, module, flat(), recipe=recipe, **options)
    text = "negatives: scenario NNs has no batch that says which task it is of, got 'memory'; leave"
    with pytest.raises(InputError, match=text):
        NnsLearner(bank, module, recipe=recipe)


def twice(stream: Stream) -> Stream:
    """Two tasks of the same images."""
    return replace(
        stream,
        task_names=("a", "b"),
        task_labels=stream.task_labels[:1] * 2,
        view=lambda _, x, y: stream.view(0, x, y),
    )


def test_equal_images_would_cancel(tmp_path: Path) -> None:
    message = "task 'a': all images of other tasks are its own; as negatives they would cancel: "
    same = twice(flat())
    refused(tmp_path / "a", same, "others", f"{message}leave out others, or one of the tasks")
    bank = learned(tmp_path / "b", same, "memory")
    assert "negative_tasks" not in bank.task(1).training
    stored = learned(tmp_path / "c", flat(), "memory")
    both = Negatives(stored, same, replace(RECIPE, negatives="others,memory")).of(same.task(0))
    assert both.tasks == ("split-2-3", "split-4-5")  # stored ones suffice
    assert all(len(pool) for pool in both.pools)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda _: None,
            "{path}: must be a folder of pictures, an .npz or .npy file, got a path",
        ),
        (
            lambda p: np.save(p, np.zeros((2, 8, 9, 3), np.uint8)),
            r"negatives: {path}: pictures must be uint8 \(8, 8, 3\), as those of pictures, ",
        ),
        (
            lambda p: np.save(p, np.zeros((2, 8, 8, 3), np.float32)),
            r"negatives: {path}: pictures must be uint8 \(8, 8, 3\), as .*, got float32",
        ),
        (lambda p: np.save(p, np.zeros((2, 8, 8, 3))), "{path}: must be uint8 or float32 "),
        (
            lambda p: np.save(p, np.zeros((0, 8, 8, 3), np.uint8)),
            "{path}: must be uint8 or float32 ",
        ),
        (lambda p: p.write_bytes(b"no"), "{path}: must be a .npy array of numbers"),
        (lambda p: p.mkdir(), "{path}: must hold pictures alone, got none"),
        (
            lambda p: np.save(p, pictures(tasks=3, classes=6).dataset.train_x),
            "negatives: {path}: 24 of 72 pictures are those of task 'split-0-1'; as negatives ",
        ),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "more.npy"
    make(path)
    refused(tmp_path / "b", flat(), f"file:{path}", message.format(path=path) + ".*")


def test_the_memory_of_another_bank_is_refused(tmp_path: Path) -> None:
    stream, recipe = flat(), replace(RECIPE, negatives="memory")
    first = replace(stream, task_names=stream.task_names[:1], task_labels=stream.task_labels[:1])
    bank = learned(tmp_path / "a", first, "memory")
    other, module = bank_of(tmp_path / "b", stream)
    st.train_stream(other, module, first, recipe=replace(recipe, seed=1))
    name = "memory/split-0-1.safetensors"
    (bank.path / name).write_bytes((other.path / name).read_bytes())
    text = (
        f"^{bank.path / name}: must be of the bank's task, is of another; or let supsup-bank "
        "forget the images of 'split-0-1'$"
    )
    with pytest.raises(BankError, match=text):
        st.train_stream(bank, module, stream, recipe=recipe)
    run("supsup-bank", "forget", bank.path, "split-0-1")
    st.train_stream(bank, module, stream, recipe=recipe)
    assert [task.training.get("negative_tasks") for task in bank] == [None, None, ["split-2-3"]]


def test_options_of_the_command(tmp_path: Path) -> None:
    own_pictures(tmp_path / "own")
    words = ["own", "--data", tmp_path / "own", "--steps", 2, "--batch-size", 5, "--quiet"]
    for more, wanted in (
        (["--model", "mlp-4"], "turned,shuffled"),
        (["--model", "mlp-4", "--outputs", 3, "--max-classes", 3], None),
        (["--negatives", "none"], None),
        (["--negatives", "memory", "--memory", 2], "memory"),
    ):
        bank = tmp_path / f"b{len(list(tmp_path.iterdir()))}"
        run("supsup-train", *words, *more, "--bank", bank)
        recipe = MaskBank.open(bank).task(1).training["recipe"]
        assert recipe.get("negatives") == wanted
        run("supsup-train", *words, *more, "--bank", bank)  # again
    listed = json.loads(run("supsup-bank", "list", bank, "--json").stdout)
    assert all(row["image_bytes"] > 2 * 4 * 64 for row in listed)
    run("supsup-train", "permuted", "--tasks", 1, *words[3:], "--bank", tmp_path / "p")
    assert "negatives" not in MaskBank.open(tmp_path / "p").task(0).training["recipe"]
    for more, text in (
        (["--outputs", 3, "--max-classes", 3, "--negatives", "turned"], "need outputs beyond the"),
        (["--negatives", "turned", "--memory", 20], "--memory: goes with --negatives memory, got"),
        (["--negatives", "noise"], "negatives: must be none, or some of turned, shuffled, "),
        (["--negatives", "memory", "--vectorise", 2], "negatives: memory makes each task depend"),
    ):
        folder = tmp_path / f"none{len(more)}"
        done = run("supsup-train", *words, *more, "--bank", folder, status=1)
        assert text in done.stderr.splitlines()[-1]
    done = run("supsup-train", *words, "--scenario", "NNs", "--bank", tmp_path / "c", status=1)
    assert "--scenario NNs: goes with streams, got own tasks" in done.stderr
    done = run(
        *("supsup-train", "permuted", "--scenario", "NNs", "--negatives", "turned", "--bank"),
        tmp_path / "none",
        status=1,
    )
    text = "supsup-train: --negatives: go with GG, GNs and GNu, got turned with NNs, where no batch"
    assert done.stderr.startswith(text)


def test_the_order_of_kinds_does_not_matter(tmp_path: Path) -> None:
    assert Recipe(negatives="others,file:x,turned").negatives == "turned,others,file:x"
    banks = [learned(tmp_path / kinds, flat(), kinds) for kinds in ("shuffled,turned", ALONE)]
    assert banks[0].entries == banks[1].entries


def test_of_a_file_what_is_in_it_is_recorded_and_not_where_it_is(tmp_path: Path) -> None:
    stream, file = flat(), tmp_path / "secret" / "place.npy"
    file.parent.mkdir()
    values = np.random.default_rng(3).integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
    np.save(file, values)
    bank = learned(tmp_path / "b", stream, f"file:{file}")
    assert bank.task(0).training["recipe"]["negatives"] == "file"
    assert all(b"secret" not in file.read_bytes() for file in bank.path.glob("tasks/*"))
    moved = file.rename(tmp_path / "moved.npy")
    module = bank_of(tmp_path / "c", stream)[1]
    recipe = replace(RECIPE, negatives=f"file:{moved}")
    st.train_stream(bank, module, stream, recipe=recipe)  # the same pictures
    np.save(moved, values[::-1])
    with pytest.raises(InputError, match=r"was learned with negative_files \['[0-9a-f]{16}'\]"):
        st.train_stream(bank, module, stream, recipe=recipe)


def test_negatives_of_another_recipe_network_or_task_are_refused(tmp_path: Path) -> None:
    stream = flat()
    bank, module = bank_of(tmp_path / "b", stream)
    other, _ = bank_of(tmp_path / "other", stream, outputs=11)
    recipe = replace(RECIPE, negatives="others")
    for made in (
        Negatives(bank, stream, replace(recipe, negatives="turned")),
        Negatives(other, stream, recipe),
    ):
        with pytest.raises(InputError, match="made for another recipe or network; make it with"):
            st.train_task(bank, module, stream.task(0), recipe=recipe, negatives=made)
    with pytest.raises(InputError, match=r"^negatives must be a Negatives, got 'others'"):
        st.train_task(
            bank,
            module,
            stream.task(0),
            recipe=recipe,
            negatives="others",  # type: ignore[arg-type]
        )
    with pytest.raises(InputError, match=r"^recipe must be a Recipe, got 'others'"):
        Negatives(bank, stream, "others")  # type: ignore[arg-type]
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 3), np.uint8))
    recipe = replace(RECIPE, negatives=f"file:{tmp_path / 'x.npy'}")
    unknown = replace(stream.task(0), name="unknown")
    with pytest.raises(InputError, match="of which 'unknown' is none; make the Negatives with"):
        Negatives(bank, stream, recipe).of(unknown)


def test_more_stored_images_than_fit_are_refused_before_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = flat()
    bank, module = bank_of(tmp_path / "b", stream)
    with pytest.raises(InputError, match=r"^memory: images of a task may have 1,073,741,824 bytes"):
        Negatives(bank, stream, replace(RECIPE, negatives="memory", memory=10**8))
    recipe = replace(RECIPE, negatives="memory", memory=5)
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(FileError, match=r"need [\d,]+ bytes, 1,000 are free; make room, or take"):
        st.train_stream(bank, module, stream, recipe=recipe)
    assert len(bank) == 0


def test_many_stored_tasks_share_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = flat()
    values = int(np.prod(stream.input_shape))
    monkeypatch.setattr(gathering, "_MOST_VALUES", 4 * values)  # four images
    bank, module = bank_of(tmp_path / "b", stream)
    recipe = replace(RECIPE, negatives="memory", memory=5)
    negatives = Negatives(bank, stream, recipe)
    sizes = []
    for index in range(3):
        found = negatives.of(stream.task(index))
        sizes.append(sum(map(len, found.pools)))
        task = st.train_task(bank, module, stream.task(index), recipe=recipe, negatives=negatives)
        bank.add(task)
    assert sizes == [0, 4, 4]
    again = Negatives(bank, stream, recipe).of(replace(stream.task(0), name="new"))
    assert sum(map(len, again.pools)) == 2  # one of each; the third is its own
    forget_images(bank, "split-2-3")  # the others may have more then, as in one run
    again = Negatives(bank, stream, recipe).of(replace(stream.task(0), name="new"))
    assert sum(map(len, again.pools)) == 2
    assert again.tasks == ("split-4-5",)


@pytest.mark.parametrize("model", ["mlp-6", "bnnet-6"])
def test_by_default_negatives_are_left_out_where_they_cannot_be(tmp_path: Path, model: str) -> None:
    own_pictures(tmp_path / "own")
    words = ["own", "--data", tmp_path / "own", "--steps", 2, "--batch-size", 5, "--quiet"]
    done = run("supsup-train", *words, "--model", model, "--bank", tmp_path / "b")
    recipe = MaskBank.open(tmp_path / "b").task(0).training["recipe"]
    left_out = "negatives: none, as they would change the statistics of a batch" in done.stderr
    assert left_out == ("negatives" not in recipe) == (model == "bnnet-6")


def test_equal_data_with_labels_of_any_number(tmp_path: Path) -> None:
    """A task of fewer images than a batch, and of an odd picture, learns."""
    x = np.random.default_rng(0).standard_normal((5, 1, 7, 1)).astype(np.float32)
    y = np.arange(5) % 2
    module = nn.Sequential(nn.Flatten(), nn.Linear(7, 4, bias=False))
    data = TaskData(name="a", labels=("n", "y"), train_x=x, train_y=y, test_x=x, test_y=y)
    bank = st.create_bank(tmp_path / "b", module, input_shape=(1, 7, 1), real_outputs=2)
    tall = pictures(tasks=2, classes=4)
    stream = replace(
        tall,
        dataset=replace(
            tall.dataset,
            train_x=tall.dataset.train_x[:, :7, :1, 0],
            test_x=tall.dataset.test_x[:, :7, :1, 0],
        ),
        input_shape=(1, 7, 1),
    )
    recipe = replace(RECIPE, negatives=ALONE)
    task = st.train_task(
        bank, module, data, recipe=recipe, negatives=Negatives(bank, stream, recipe)
    )
    assert task.training["recipe"]["negatives"] == ALONE
