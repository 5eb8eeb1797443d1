"""Tasks learned at once are those learned one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st_
from torch.func import vmap

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Layout, Stream, TaskData, make_stream
from supsup_runtime.errors import FileError, InputError
from supsup_train import Device, Recipe, Rule
from supsup_train.masks import together
from supsup_train.masks.inputs import _Own, _Shared, shares_images
from supsup_train.masks.rules import RuleKind
from supsup_train.masks.train_task import begin_task
from supsup_train.resume import Losses
from tiny_streams import pictures

RECIPE = Recipe(steps=30, batch_size=32, learning_rate=1e-2)
SLOW = replace(RECIPE, steps=100, learning_rate=1e-3)
"""Larger steps of RMSprop turn what rounds otherwise on a GPU into other masks."""
MOST_BITS = 1e-3
"""Share of mask bits that may differ: batched products round otherwise."""


def learned(path: Path, model: str, stream: Stream, recipe: Recipe, device: Device) -> MaskBank:
    shape = stream.input_shape
    module = st.make_model(model, input_shape=shape, outputs=12)
    bank = st.create_bank(path, module, input_shape=shape, real_outputs=stream.real_outputs)
    st.train_stream(bank, module, stream, recipe=recipe, device=device)
    return bank


def small(path: Path) -> tuple[MaskBank, torch.nn.Module]:
    """Make a bank for the bundled digits, and its network."""
    module = st.make_model("mlp-8", input_shape=(64,), outputs=12)
    return st.create_bank(path, module, input_shape=(64,), real_outputs=10), module


@pytest.mark.parametrize("tasks", [2, 3, 9])
@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("mlp-8", RECIPE),
        ("mlp-8", replace(RECIPE, rule=Rule(kind="top-k", density=0.3), optimizer="sgd")),
        ("conv-4-4", replace(RECIPE, optimizer="adam", schedule="cosine", augment="flip")),
        ("bnnet-8", replace(RECIPE, warmup=3, weight_decay=1e-4)),
    ],
)
def test_masks_and_state_are_those_of_one_by_one(
    model: str, recipe: Recipe, tasks: int, tmp_path: Path
) -> None:
    if model.startswith("conv"):
        stream = pictures(tasks=3, classes=6)
    else:
        stream = make_stream("permuted", load_dataset(), num_tasks=4)
    one = learned(tmp_path / "one", model, stream, recipe, Device())
    many = learned(tmp_path / "many", model, stream, recipe, Device(tasks=tasks))
    assert one.task_names == many.task_names
    for a, b in zip(one, many, strict=True):
        bits = [np.unpackbits(a.masks[key] ^ b.masks[key]).mean() for key in a.masks]
        assert max(bits) <= MOST_BITS
        for key, value in a.state.items():
            np.testing.assert_allclose(b.state[key], value, rtol=1e-4, atol=1e-5)
        assert b.training["accuracy"] == pytest.approx(a.training["accuracy"], abs=0.01)
        told = {"device": "cpu", "precision": "float32", "tasks_at_once": tasks}
        assert {key: b.training.get(key) for key in told} == told
        assert not told.keys() & a.training.keys()


@pytest.mark.parametrize("kind", ["threshold", "top-k"])
@given(
    scores=st_.lists(st_.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=20),
    density=st_.floats(0.05, 1.0),
)
def test_masked_weights_at_once_are_those_of_one_by_one(
    kind: RuleKind, scores: list[float], density: float
) -> None:
    rule, weight = Rule(kind=kind, density=density), torch.linspace(-1, 1, len(scores))
    found = []
    values = torch.tensor([scores, scores[::-1], scores])

    def masked(values: torch.Tensor) -> torch.Tensor:
        return rule.masked(weight, values, density)

    for rows, many in ((list(values), masked), ([values], vmap(masked))):
        given = [row.clone().requires_grad_() for row in rows]
        result = torch.cat([many(each).view(-1, len(scores)) for each in given])
        (result * torch.arange(1.0, len(scores) + 1)).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gradient = torch.cat([each.grad.view(-1, len(scores)) for each in given])  # type: ignore[union-attr]  # there is one
        found.append((result.detach(), gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("layout", ["flat", "image"])
def test_shared_images_are_those_of_each_task(layout: Layout) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=4, layout=layout)
    unit = (3, 1)
    shared, own = _Shared(stream, unit, "cpu"), _Own([stream.task(index) for index in unit])
    assert shared.groups(RECIPE) == own.groups(RECIPE) == [[0, 1]]
    found = []
    for inputs in (shared, own):
        generators = [torch.Generator().manual_seed(n) for n in range(2)]
        draws = [(n, generator, None) for n, generator in enumerate(generators)]
        found.append(list(inputs.batches(draws, RECIPE)))
        assert [data.name for data in inputs.data] == ["permuted-0003", "permuted-0001"]
    assert len(found[0]) == RECIPE.steps
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for number in range(2):
        for one_part, other_part in zip(shared.tested(number), own.tested(number), strict=True):
            for one, other in zip(one_part, other_part, strict=True):
                np.testing.assert_array_equal(one, other)


def test_only_plain_permuted_tasks_share_images() -> None:
    permuted = make_stream("permuted", load_dataset(), num_tasks=2)
    split = make_stream("split", load_dataset(), num_tasks=2)
    two = Device(tasks=2)
    assert shares_images(permuted, RECIPE, two)
    assert not shares_images(permuted, replace(RECIPE, negatives="turned"), two)
    assert not shares_images(permuted, replace(RECIPE, augment="flip"), two)
    assert not shares_images(split, RECIPE, two)
    assert not shares_images(permuted, RECIPE, Device())


def test_tasks_of_few_images_learn_beside_others(tmp_path: Path) -> None:
    """Groups have batches of equal size."""
    stream = make_stream("permuted", load_dataset(), num_tasks=4)
    bank, module = small(tmp_path / "b")
    data = [cut(stream.task(index), count) for index, count in enumerate((100, 7, 100, 7))]
    begun = {n: begin_task(bank.network, module, each, RECIPE) for n, each in enumerate(data)}
    together.fit_together(begun, _Own(data), RECIPE, Device(tasks=4), [Losses(None)] * 4)
    for each, (learning, _) in zip(data, begun.values(), strict=True):
        alone = st.train_task(bank, module, each, recipe=RECIPE)
        task = learning.to_task(each.name, {}, labels=each.labels)
        for key, mask in alone.masks.items():
            assert np.unpackbits(task.masks[key] ^ mask).mean() <= MOST_BITS


def cut(data: TaskData, count: int) -> TaskData:
    return replace(data, train_x=data.train_x[:count], train_y=data.train_y[:count])


class Counted(torch.nn.Module):
    """Its running statistics depend on how many batches it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(64, momentum=None)
        self.layer = torch.nn.Linear(64, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(self.norm(x))
        return y


def test_groups_of_other_sizes_do_not_change_a_module(tmp_path: Path) -> None:
    stream, recipe = make_stream("split", load_dataset(), num_tasks=5), replace(RECIPE, steps=9)
    recipe = replace(recipe, batch_size=400)  # each task has fewer images, not as many as others
    banks = []
    for tasks in (1, 5):
        bank = st.create_bank(tmp_path / str(tasks), Counted(), input_shape=(64,), real_outputs=2)
        st.train_stream(bank, Counted(), stream, recipe=recipe, device=Device(tasks=tasks))
        banks.append(bank)
    for one, many in zip(*banks, strict=True):
        for key, value in one.state.items():
            np.testing.assert_allclose(many.state[key], value, rtol=1e-4, atol=1e-5)


def test_tasks_before_a_failed_write_are_kept_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=4)
    bank, module = small(tmp_path / "b")
    encode, told = bank.encode, list[dict[str, Any]]()

    def full(task: TaskMasks) -> bytes:
        if task.name == "permuted-0002":
            raise FileError("disk: no space left")
        return encode(task)

    monkeypatch.setattr(bank, "encode", full)
    with pytest.raises(FileError, match="no space left"):
        st.train_stream(
            bank, module, stream, recipe=RECIPE, report=told.append, device=Device(tasks=4)
        )
    assert MaskBank.open(bank.path).task_names == ("permuted-0000", "permuted-0001")
    assert [line["task"] for line in told] == ["permuted-0000", "permuted-0001"]


def test_convolutions_do_without_tf32_on_a_gpu_alone() -> None:
    before = torch.backends.cudnn.allow_tf32
    for name in ("cuda", "cpu"):
        with Device(name=name).computing(["t"]):
            assert torch.backends.cudnn.allow_tf32 == (before and name == "cpu")
    assert torch.backends.cudnn.allow_tf32 == before


def test_mixed_precision_learns(tmp_path: Path) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=2)
    recipe = Recipe(steps=150, learning_rate=1e-2)
    device = Device(tasks=2, precision="bfloat16")
    bank = learned(tmp_path / "b", "mlp-32", stream, recipe, device)
    assert min(task.training["accuracy"] for task in bank) > 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "gpu"}, r"device: must be cpu, cuda or cuda:N, got 'gpu'"),
        ({"name": 3}, r"device: must be a name, got 3"),
        ({"tasks": 0}, r"tasks at once: must be an integer in \[1, 10000\], got 0"),
        ({"precision": "int8"}, r"precision: must be .*float32.*, got 'int8'"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Device(**settings)  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    text = r"^device: cuda must be one that PyTorch \S+ can use, found no CUDA device; use cpu, or "
    with pytest.raises(InputError, match=text):
        learned(tmp_path / "a", "mlp-4", stream, RECIPE, Device(name="cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"found cuda:0 to cuda:1; use cpu"):
        Device(name="cuda:2").check()
    Device(name="cuda:1").check()


def test_a_device_lost_half_way_keeps_what_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=4)
    bank, module = small(tmp_path / "b")
    step, calls = together._Group._step, 0

    def lose(group: together._Group, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise torch.OutOfMemoryError("CUDA out of memory.\nMore")
        return step(group, x, y)

    monkeypatch.setattr(together._Group, "_step", lose)
    text = (
        r"^tasks 'permuted-0002' to 'permuted-0003': cannot be learned at once on cpu: CUDA out of "
        r"memory\.; the same command resumes: learn them one by one, without --vectorise and "
        r"--precision$"
    )
    with pytest.raises(InputError, match=text):
        st.train_stream(bank, module, stream, recipe=RECIPE, device=Device(tasks=2))
    assert MaskBank.open(bank.path).task_names == ("permuted-0000", "permuted-0001")


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=1)
    bank, module = small(tmp_path / "b")
    data = cut(stream.task(0), 9)
    data = replace(data, train_x=np.full((9, 64), 3e38, np.float32))
    begun = {0: begin_task(bank.network, module, data, RECIPE)}
    text = (
        "^task 'permuted-0000', step 1: the loss must be finite, got nan; lower the learning rate$"
    )
    with pytest.raises(InputError, match=text):
        together.fit_together(begun, _Own([data]), RECIPE, Device(), [Losses(None)])


class Counting(torch.nn.Linear):
    """Answers otherwise after ten passes in training, which a bank does not store."""

    passes = 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        self.passes += self.training
        return super().forward(input) + float(self.passes > 10)


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_the_bank_does_not_store_is_refused(tmp_path: Path, tasks: int) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=2)
    bank = st.create_bank(tmp_path / "b", Counting(64, 12), input_shape=(64,), real_outputs=10)
    with pytest.raises(InputError, match="training changes what the bank does not store"):
        st.train_stream(bank, Counting(64, 12), stream, recipe=RECIPE, device=Device(tasks=tasks))


def test_a_module_that_fails_is_refused_in_one_line(tmp_path: Path) -> None:
    class Failing(Counting):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
            if self.passes == 5:
                raise ValueError("no\nway")
            return super().forward(input)

    stream = make_stream("permuted", load_dataset(), num_tasks=2)
    bank = st.create_bank(tmp_path / "b", Failing(64, 12), input_shape=(64,), real_outputs=10)
    with pytest.raises(InputError, match=r"^tasks .* cannot be learned at once on cpu: no; the"):
        st.train_stream(bank, Failing(64, 12), stream, recipe=RECIPE, device=Device(tasks=2))


def test_each_task_reports_its_own_losses(tmp_path: Path) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=3)
    lines: dict[int, list[dict[str, Any]]] = {1: [], 3: []}
    for tasks, told in lines.items():
        bank, module = small(tmp_path / str(tasks))
        device, report = Device(tasks=tasks), told.append
        st.train_stream(bank, module, stream, recipe=RECIPE, report=report, device=device)
    for one, many in zip(lines[1], lines[3], strict=True):
        assert [end for end, _ in many["loss"]] == [end for end, _ in one["loss"]]
        np.testing.assert_allclose(
            [x for _, x in many["loss"]], [x for _, x in one["loss"]], atol=1e-3
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("mlp-32", SLOW),
        ("mlp-32", replace(SLOW, rule=Rule(kind="top-k", density=0.3))),
        ("conv-4-4", replace(SLOW, optimizer="adam", negatives="turned,shuffled")),
        ("bnnet-8", SLOW),
    ],
)
@pytest.mark.parametrize("tasks", [1, 3])
def test_masks_of_a_gpu_are_those_of_the_cpu(
    model: str, recipe: Recipe, tasks: int, tmp_path: Path
) -> None:
    stream = make_stream("permuted", load_dataset(), num_tasks=3)
    if model.startswith("conv"):
        stream = pictures(tasks=3, classes=6)
    one = learned(tmp_path / "one", model, stream, recipe, Device())
    many = learned(tmp_path / "many", model, stream, recipe, Device(name="cuda", tasks=tasks))
    for a, b in zip(one, many, strict=True):
        bits = [np.unpackbits(a.masks[key] ^ b.masks[key]).mean() for key in a.masks]
        assert max(bits) <= 0.02
        assert b.training["accuracy"] == pytest.approx(a.training["accuracy"], abs=0.03)
