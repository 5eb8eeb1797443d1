"""Baselines: forward pass against numpy, training, resuming, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from commands import run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import Stream, make_stream
from supsup_runtime.errors import FileError, InputError, OutputExistsError
from supsup_train.baselines import (
    METHODS,
    BaselineMethod,
    BaselineRecipe,
    make_baseline,
    train_baseline,
)
from supsup_train.baselines.base import Baseline
from supsup_train.baselines.psp import orthogonal
from supsup_train.networks.create_bank import tensors_of
from supsup_train.networks.models import Mlp

SIZES = [64, 24, 16, 10]
# Three layers of two float32 sums of up to 64 products: about 200 roundings of 6e-8.
TOLERANCE = 2e-5
RESUMING: tuple[BaselineMethod, ...] = ("batche", "batche-random", "heads", "heads-random", "dense")


@cache
def digits(tasks: int) -> Stream:
    return make_stream("permuted", load_dataset(None), num_tasks=tasks)


def recipe(method: BaselineMethod, steps: int = 3) -> BaselineRecipe:
    return BaselineRecipe.of(method).with_options(steps=steps)


def learn(
    path: Path,
    made: BaselineRecipe,
    tasks: int,
    *,
    matrices: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
) -> MaskBank:
    baseline = make_baseline(made, Mlp(SIZES), input_shape=(64,), matrices=matrices)
    return train_baseline(baseline, digits(tasks), path, report=report)


def relu_layers(x: npt.NDArray[Any], weights: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Compute a perceptron in float64."""
    x = x.astype(np.float64)
    for weight in weights[:-1]:
        x = np.maximum(x @ weight.T, 0)
    logits: npt.NDArray[Any] = x @ weights[-1].T
    return logits


def drawn(method: BaselineMethod, *, matrices: bool = False) -> Baseline:
    """Make a baseline with a started task and random state."""
    made = make_baseline(recipe(method), Mlp(SIZES), input_shape=(64,), matrices=matrices)
    made.begin("a task")
    if method == "batche":
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for key in made.state:
                tensors_of(made.module)[key].normal_(generator=generator)
    return made


def weights_of(baseline: Baseline) -> list[npt.NDArray[Any]]:
    tensors = [
        value for key, value in tensors_of(baseline.module).items() if key.startswith("layers.")
    ]
    return [value.detach().numpy().astype(np.float64) for value in tensors]


X = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)


def test_batche_is_a_dense_network_of_rank_one_products() -> None:
    baseline = drawn("batche", matrices=True)
    own = baseline.own()
    products = [
        w * np.outer(own[f"s.{i}"], own[f"t.{i}"]).astype(np.float64)
        for i, w in enumerate(weights_of(baseline))
    ]
    want = relu_layers(X, products)
    scale = np.abs(want).max()
    with torch.no_grad():
        got = baseline.module(torch.from_numpy(X)).numpy()
        module, names = baseline.in_bank()
        state = {key: torch.from_numpy(v) for key, v in baseline.to_bank(own).items()}
        assert sorted(state) == sorted(names)
        as_matrices = torch.func.functional_call(module, state, (torch.from_numpy(X),)).numpy()
    assert np.abs(got - want).max() <= TOLERANCE * scale
    assert np.abs(as_matrices - want).max() <= TOLERANCE * scale


def test_batche_vectors_begin_with_random_signs() -> None:
    baseline = make_baseline(recipe("batche"), Mlp(SIZES), input_shape=(64,))
    found = {}
    for name in ("one", "two"):
        baseline.begin(name)
        found[name] = np.concatenate(list(baseline.own().values()))
        assert set(np.unique(found[name])) == {-1.0, 1.0}
    assert (found["one"] != found["two"]).mean() > 0.3
    baseline.begin("one")
    np.testing.assert_array_equal(np.concatenate([*baseline.own().values()]), found["one"])


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_contexts_are_orthogonal(size: int) -> None:
    matrix = orthogonal(size, 3).astype(np.float64)
    # entries of rows of norm 1, rounded to float32: 6e-8
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=5e-7)
    np.testing.assert_array_equal(orthogonal(size, 3), orthogonal(size, 3))
    if size > 2:
        assert np.abs(matrix - orthogonal(size, 4)).max() > 0.1


def test_psp_turns_every_layer() -> None:
    baseline = drawn("psp")
    own = baseline.own()
    turned = [w @ own[f"context{i}"].astype(np.float64) for i, w in enumerate(weights_of(baseline))]
    want = relu_layers(X, turned)
    with torch.no_grad():
        got = baseline.module(torch.from_numpy(X)).numpy()
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_learned_and_what_stays(method: BaselineMethod) -> None:
    """Shared weights change with the first task, every task, or never."""
    baseline = make_baseline(recipe(method), Mlp(SIZES), input_shape=(64,))
    stream, shared, owned = digits(2), [], []
    shared.append({key: value.detach().clone() for key, value in baseline.shared().items()})
    for index in range(2):
        owned.append(baseline.learn(stream.task(index), first=index == 0))
        shared.append({key: value.detach().clone() for key, value in baseline.shared().items()})

    def same(a: int, b: int) -> bool:
        return all(torch.equal(shared[a][key], shared[b][key]) for key in shared[0])

    changes = {"batche": (False, True), "heads": (False, True), "psp": (False, False)}
    changes["sequence"] = (False, False)
    assert (same(0, 1), same(1, 2)) == changes.get(method, (True, True))
    assert any((owned[0][key] != owned[1][key]).any() for key in baseline.state)
    assert bool(shared[0]) == (method != "dense")


@pytest.mark.parametrize("method", RESUMING)
def test_a_stopped_run_goes_on_as_if_it_had_not(tmp_path: Path, method: BaselineMethod) -> None:
    whole = learn(tmp_path / "whole", recipe(method), 3)
    learn(tmp_path / "parts", recipe(method), 1)
    lines: list[dict[str, Any]] = []
    parts = learn(tmp_path / "parts", recipe(method), 3, report=lines.append)
    assert [line.get("kept", False) for line in lines] == [True, False, False]
    assert [e.sha256 for e in whole.entries] == [e.sha256 for e in parts.entries]
    assert whole.digest == parts.digest


def test_a_run_that_stopped_before_its_first_task_goes_on(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", recipe("batche"), 2)
    cut = learn(tmp_path / "cut", recipe("batche"), 1)
    cut.remove("permuted-0000")
    (tmp_path / "cut" / "shared.safetensors").unlink()
    again = learn(tmp_path / "cut", recipe("batche"), 2)
    assert [e.sha256 for e in whole.entries] == [e.sha256 for e in again.entries]


@pytest.mark.parametrize("method", ["psp", "sequence"])
def test_in_sequence_tells_of_all_tasks_so_far(tmp_path: Path, method: BaselineMethod) -> None:
    lines: list[dict[str, Any]] = []
    bank = learn(tmp_path / "bank", recipe(method, 60), 3, report=lines.append)
    final = [task.training["accuracy"] for task in bank]
    assert lines[-1]["seen"] == pytest.approx(np.mean(final))
    assert lines[0]["seen"] == pytest.approx(lines[0]["accuracy"])
    assert lines[-1]["accuracy"] == pytest.approx(final[-1])
    # fewer tasks give the first part of a longer run
    short: list[dict[str, Any]] = []
    learn(tmp_path / "short", recipe(method, 60), 2, report=short.append)
    assert short[-1]["seen"] == lines[1]["seen"]
    if method == "sequence":
        last = [task.state["layers.2.weight"] for task in bank]
        np.testing.assert_array_equal(last[0], last[2])
    with pytest.raises(InputError, match=f"{method} changes the weights of all .* another --bank"):
        learn(tmp_path / "bank", recipe(method, 60), 3)


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    learn(path, recipe("batche"), 1)
    with pytest.raises(InputError, match="learned with steps 3, this run has 4"):
        learn(path, recipe("batche", 4), 2)
    with pytest.raises(InputError, match="learned with method 'batche', this run has 'heads'"):
        learn(path, recipe("heads"), 2)
    with pytest.raises(InputError, match=r"module: 'matrices.0' must have shape|such tensor"):
        learn(path, recipe("batche"), 2, matrices=True)
    shared = path / "shared.safetensors"
    whole = shared.read_bytes()
    shared.write_bytes(whole[:-4])
    with pytest.raises(InputError, match=r"shared.safetensors: not a whole safetensors file"):
        learn(path, recipe("batche"), 2)
    changed = bytearray(whole)
    changed[-1] ^= 1
    shared.write_bytes(bytes(changed))
    with pytest.raises(InputError, match=r"module: its constants .* must have the values"):
        learn(path, recipe("batche"), 2)
    learn(tmp_path / "other", recipe("heads"), 1)
    shared.write_bytes((tmp_path / "other" / "shared.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"shared.safetensors: must have the tensors"):
        learn(path, recipe("batche"), 2)
    shared.unlink()
    with pytest.raises(InputError, match=r"shared.safetensors: is missing, .* restore it"):
        learn(path, recipe("batche"), 2)
    shared.write_bytes(whole)
    bank = learn(path, recipe("batche"), 2)
    bank.remove("permuted-0000")
    with pytest.raises(InputError, match=r"task 'permuted-0000' is missing, .* restore it"):
        learn(path, recipe("batche"), 2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not empty and is no bank"):
        learn(tmp_path / "notes", recipe("dense"), 1)


def test_a_bank_of_sequence_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill during writing leaves no bank that would block a rerun."""
    path = tmp_path / "bank"
    with monkeypatch.context() as patched:
        patched.setattr(MaskBank, "extend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learn(path, recipe("psp"), 2)
    assert not path.exists()
    path.mkdir()
    bank = learn(path, recipe("psp"), 2)
    assert (bank.path, bank.task_names) == (path, ("permuted-0000", "permuted-0001"))
    assert [file.name for file in tmp_path.iterdir()] == ["bank"]


@pytest.mark.parametrize("method", ["psp", "heads"])
def test_a_link_that_leads_nowhere_is_refused_before_the_first_task(
    tmp_path: Path, method: BaselineMethod
) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "gone", tmp_path / "loop"):
        with pytest.raises(OutputExistsError, match="is no bank; choose another"):
            learn(path, recipe(method), 2, report=lambda _line: pytest.fail("it learned"))
    with pytest.raises(FileError, match=r"cannot be created: .*; check the disk, and the path"):
        learn(tmp_path / "loop" / "bank", recipe(method), 2)
    assert {path.name for path in tmp_path.iterdir()} == {"gone", "loop"}


def interrupted(_bank: MaskBank, tasks: Iterable[TaskMasks]) -> None:
    next(iter(tasks))
    raise KeyboardInterrupt


def test_a_creation_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", recipe("heads"), 1)
    cut = learn(tmp_path / "cut", recipe("heads"), 1).path
    for file in ("bank.json", "shared.safetensors", ".lock", whole.entries[0].file):
        (cut / file).unlink()
    assert learn(cut, recipe("heads"), 1).entries == whole.entries
    (cut / "bank.json").unlink()
    with pytest.raises(OutputExistsError, match="not empty and is no bank"):
        learn(cut, recipe("heads"), 1)


def test_a_rate_alone_is_of_all_tasks_that_are_learned_alike() -> None:
    for method in METHODS:
        own = BaselineRecipe.of(method)
        made = own.with_options(learning_rate=0.5)
        alike = method not in {"batche", "heads"}
        assert made.learning_rate == 0.5
        assert made.first_learning_rate == (0.5 if alike else own.first_learning_rate)
        both = own.with_options(learning_rate=0.5, first_learning_rate=0.25)
        assert (both.learning_rate, both.first_learning_rate) == (0.5, 0.25)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"method: must be one of .* got 'ewc'"):
        BaselineRecipe.of("ewc")  # type: ignore[arg-type]  # refused
    with pytest.raises(InputError, match="steps: must be an integer of at least 1, got 0"):
        recipe("dense", 0)
    with pytest.raises(InputError, match="learning_rate: must be positive and finite, got -1"):
        recipe("dense").with_options(first_learning_rate=-1.0)
    with pytest.raises(InputError, match="matrices: is for batche and batche-random, got heads"):
        make_baseline(recipe("heads"), Mlp(SIZES), input_shape=(64,), matrices=True)


def test_a_rate_that_is_too_high_keeps_what_was_there(tmp_path: Path) -> None:
    wild = recipe("dense", 30).with_options(learning_rate=1e30)
    calm = wild.with_options(first_learning_rate=1e-4)
    with pytest.raises(
        InputError, match=r"task 'permuted-0001', step 2 of 30: the loss must .* low"
    ):
        learn(tmp_path / "dense", calm, 2)
    assert MaskBank.open(tmp_path / "dense").task_names == ("permuted-0000",)
    last = wild.with_options(steps=1, first_learning_rate=1e38)  # no later step shows it
    with pytest.raises(
        InputError, match=r"'permuted-0000': .* must be finite.* lower the learning"
    ):
        learn(tmp_path / "last", last, 1)
    for method in ("psp", "sequence"):
        made = recipe(method, 30).with_options(learning_rate=1e30, first_learning_rate=1e-4)
        with pytest.raises(InputError, match=r"task 'permuted-0001', step \d of 30: the loss must"):
            learn(tmp_path / method, made, 2)
    assert [each.parent.name for each in tmp_path.rglob("bank.json")] == ["dense"]
    assert not (tmp_path / ".psp.part").exists()


def test_a_place_that_cannot_be_written_is_refused_before_any_task(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[dict[str, Any]] = []
    for method in ("psp", "heads"):
        with pytest.raises(OSError, match="file"):
            learn(tmp_path / "file" / "bank", recipe(method), 2, report=told.append)
    assert told == []


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (
            "psp permuted --model bnnet-9",
            1,
            "got 'norms.0.weight', a scale in BatchBlend; use heads, dense or sequence\n",
        ),
        ("heads permuted --pictures", 1, "--pictures: goes with --module; leave it out"),
        ("heads permuted --max-classes 3", 1, "--max-classes: goes with stream own, got permuted"),
        ("heads permuted --outputs 9", 1, "--outputs: must be at least 10"),
        ("ewc permuted", 2, "invalid choice: 'ewc'"),
        ("psp permuted --matrices", 1, "matrices: is for batche"),
        ("dense permuted --every 2", 1, "--every: goes with psp and sequence, got dense"),
        ("psp permuted --log no-such/x.jsonl", 1, "--log: no-such must be a folder"),
        ("psp permuted --log .", 1, "--log: . cannot be written"),
    ],
)
def test_the_command_refuses(tmp_path: Path, options: str, status: int, message: str) -> None:
    bank = tmp_path / "bank"
    done = run("supsup-baseline", *options.split(), "--bank", bank, status=status)
    assert message in done.stderr
    assert not bank.exists()


@pytest.mark.parametrize("method", ["heads", "sequence"])
def test_the_command_logs(tmp_path: Path, method: str) -> None:
    bank, log = tmp_path / "bank", tmp_path / "log.jsonl"
    options = ["--tasks", "2", "--steps", "4", "--model", "mlp-16", "--quiet", "--bank", bank]
    log.write_text('{"task": "of another run"}\n{"task": "cut sh')
    run("supsup-baseline", method, "permuted", *options, "--log", log)
    first, *lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert first["task"] == "of another run"
    assert [line["task"] for line in lines] == list(MaskBank.open(bank).task_names)
    keys = {"accuracy", "index", "loss", "seconds", "task", "train_accuracy"}
    assert set(lines[1]) == (keys if method == "heads" else keys | {"seen"})
