from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import supsup_runtime as supsup
import supsup_runtime.model.loading
from patterns import flipped
from stores import flat_mask, images, store_bank, stream, unit_task
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export, export_recovery
from supsup_runtime.arrays import Images
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.layout import cut, join
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.hopfield.file import encode_into, read_store
from supsup_runtime.hopfield.store import to_pattern
from supsup_runtime.recovery.descent import Recovery, constant
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hopfield")
    bank = store_bank(made / "masks", tasks=2, entropy=2.0)  # nats: more than five outputs can have
    export_recovery(bank, made / "recover.onnx")
    export(bank, made / "out.onnx", request=Request(target="portable"))
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> HopfieldModel:
    return load_hopfield(folder / "recover.onnx")


@pytest.fixture(scope="module")
def bank(folder: Path) -> MaskBank:
    return MaskBank.open(folder / "masks")


def near(bank: MaskBank, task: int) -> Recovery:
    """Settings that start near a task's mask and let the energy alone pull, without looks."""
    scores = flipped(to_pattern(flat_mask(bank, task)), 0.05, seed=task)
    return Recovery(start=scores, energy_strength=1.0, step_size=1.0, look_every=0)


def energy_alone(_step: int, _steps: int) -> tuple[float, float]:
    return 0.0, 1.0


@pytest.mark.parametrize("task", [0, 1])
def test_a_mask_is_recovered_from_near_it(model: HopfieldModel, bank: MaskBank, task: int) -> None:
    batches = [images(16, seed) for seed in range(6)]
    found = model.recover(batches, schedule=energy_alone, settings=near(bank, task))
    assert (found.verdict, found.task) == ("stored", model.tasks[task])
    np.testing.assert_array_equal(found.mask, flat_mask(bank, task))
    assert found.steps == 6
    assert found.trace.distance[0] > 0.02  # of the last mask, which is nearer
    assert found.trace.distance[-1] <= 0.02
    assert not found.looked
    assert found.converged_after == found.trace.converged_after
    assert found.trace.energy[-1] < found.trace.energy[0]
    assert found.expected_entropy == 2.0
    prediction = model.predict(images(3), found)
    assert prediction.task == model.tasks[task]
    assert set(prediction.labels) <= {"a", "b", "c", "3", "4"}


def test_no_task_file_is_read(tmp_path: Path, model: HopfieldModel) -> None:
    bank = store_bank(tmp_path / "masks", tasks=2, entropy=2.0)
    for name in bank.task_names:
        bank.remove(name)
    assert len(MaskBank.open(bank.path)) == 0
    export_recovery(MaskBank.open(bank.path), tmp_path / "recover.onnx")
    again = load_hopfield(tmp_path / "recover.onnx")
    assert again.tasks == model.tasks
    batches = [images(8, seed) for seed in range(4)]
    np.testing.assert_array_equal(again.recover(batches).mask, model.recover(batches).mask)


def test_the_recovered_mask_runs_as_the_explicit_one(folder: Path, bank: MaskBank) -> None:
    """With one task, whose statistics are the mean of all."""
    one = store_bank(folder / "one", tasks=1)
    export_recovery(one, folder / "one.onnx")
    export(one, folder / "plain.onnx", request=Request(target="portable"))
    x = images(7)
    plain = supsup.load(folder / "plain.onnx").predict(x, 0).logits
    logits = load_hopfield(folder / "one.onnx").logits(x, flat_mask(bank, 0))
    np.testing.assert_allclose(logits, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_rows_hang_together_with_batch_statistics_alone(
    model: HopfieldModel, bank: MaskBank
) -> None:
    x, mask = images(9), flat_mask(bank, 0)
    whole = model.logits(x, mask)
    of_batch = model.logits(x, mask, statistics="batch")
    alone = np.concatenate([model.logits(x[row : row + 1], mask) for row in range(9)])
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
    assert np.abs(of_batch - whole).max() > 1e-2 * np.abs(whole).max()
    one = model.logits(x[:1], mask, statistics="batch")  # one row has no statistics
    np.testing.assert_array_equal(one, alone[:1])


def test_a_spurious_end(model: HopfieldModel, bank: MaskBank) -> None:
    """One task's mask in one layer, the other's in the other: a fixed point, and no task's."""
    first, second = flat_mask(bank, 0), flat_mask(bank, 1)
    cut = bank.network.parameters[0].size
    mixed = np.concatenate([first[:cut], second[cut:]])
    settings = Recovery(start=to_pattern(mixed), energy_strength=1.0, step_size=1e-3)
    found = model.recover([images(64)], schedule=energy_alone, settings=settings)
    assert (found.verdict, found.task) == ("spurious", None)
    np.testing.assert_array_equal(found.mask, mixed)
    assert found.expected_entropy == 2.0  # the largest of all tasks
    assert model.find(mixed) == ()
    prediction = model.predict(images(2), found)
    assert (prediction.task.index, prediction.task.name) == (-1, "")
    assert prediction.task.labels == ("a", "b", "c")  # which all tasks share


def test_an_end_far_from_any_fixed_point(model: HopfieldModel) -> None:
    start = np.random.default_rng(9).standard_normal(98).astype(np.float32)
    still = Recovery(start=start, step_size=1e-6, look_every=0)
    found = model.recover([images(8)], settings=still)
    assert (found.verdict, found.task) == ("not-converged", None)
    assert "% of the bits from the nearest fixed point, allowed 2%" in found.reason
    np.testing.assert_array_equal(found.mask, start >= 0)  # where the descent ended
    assert found.converged_after is None
    logits = model.logits(images(8), found.mask, statistics="batch")
    assert found.entropy == pytest.approx(entropy_of(logits).mean(), rel=1e-9)


def test_a_few_inputs_tell_nothing(model: HopfieldModel, bank: MaskBank) -> None:
    batches = [images(9, seed) for seed in range(7)]
    found = model.recover(batches, schedule=energy_alone, settings=near(bank, 0))
    assert (found.verdict, found.task) == ("not-converged", None)
    assert "63 inputs are too few to rule out" in found.reason
    np.testing.assert_array_equal(found.mask, flat_mask(bank, 0))


def test_inputs_of_no_stored_task(tmp_path: Path) -> None:
    """A mask is found, but its entropy is not that of the task: the stream is another's."""
    bank = store_bank(tmp_path / "masks", tasks=2, entropy=1e-3)
    export_recovery(bank, tmp_path / "recover.onnx")
    model = load_hopfield(tmp_path / "recover.onnx")
    batches = [images(16, seed) for seed in range(6)]
    found = model.recover(batches, schedule=energy_alone, settings=near(bank, 0))
    assert (found.verdict, found.task) == ("not-converged", None)
    assert "at the mask of 'task-0', but the last inputs have an entropy of" in found.reason
    assert found.expected_entropy == 1e-3
    assert found.entropy > 1.8e-3
    careless = replace(near(bank, 0), max_entropy_ratio=1e6)
    assert model.recover(batches, schedule=energy_alone, settings=careless).verdict == "stored"


def test_where_no_entropy_was_recorded_a_fixed_point_is_all_there_is(tmp_path: Path) -> None:
    bank = store_bank(tmp_path / "masks", tasks=2, entropy=None)
    export_recovery(bank, tmp_path / "recover.onnx")
    model = load_hopfield(tmp_path / "recover.onnx")
    batches = [images(8, seed) for seed in range(6)]
    found = model.recover(batches, schedule=energy_alone, settings=near(bank, 1))
    assert (found.verdict, found.expected_entropy) == ("stored", None)


def test_the_descent_stops_where_numbers_end(model: HopfieldModel) -> None:
    batches = [images(8, seed) for seed in range(5)]
    far = Recovery(step_size=1e38, weight_decay=0, energy_strength=1e3)
    found = model.recover(batches, schedule=constant, settings=far)
    assert found.verdict == "diverged"
    assert found.reason.startswith("a score is not finite after step 0: step_size, weight_decay")
    assert (found.steps, found.task, found.converged_after) == (1, None, None)
    huge = images(8) * np.float32(1e38) / np.float32(4)
    running = Recovery(statistics="running")
    found = model.recover([batches[0], huge, batches[1]], settings=running)
    assert found.verdict == "diverged"
    assert found.reason == "entropy is nan in step 1: the inputs are too large"
    assert found.steps == 2
    with pytest.raises(
        InputError, match=r"recover\.onnx: logits are not finite in row 0: x is too"
    ):
        model.logits(huge, found.mask)


def test_the_last_inputs_are_those_of_the_stream(model: HopfieldModel) -> None:
    """The last 320, whatever the batches; through the mask that was found."""
    x = images(700)
    batches = [x[row : row + 50] for row in range(0, 700, 50)]
    found = model.recover(batches, settings=Recovery(look_every=0))
    logits = model.logits(x[-320:], found.mask, statistics="batch")
    assert found.entropy == pytest.approx(entropy_of(logits).mean(), rel=1e-9)


def test_a_stream_may_use_its_array_again(model: HopfieldModel) -> None:
    """The last inputs are what they were, not what the array holds in the end."""
    x, buffer = images(64), np.empty((8, 30), np.float32)

    def reused() -> Iterator[Images]:
        for row in range(0, 64, 8):
            buffer[:] = x[row : row + 8]
            yield buffer

    plain = model.recover([x[row : row + 8] for row in range(0, 64, 8)])
    assert model.recover(reused(), steps=8).entropy == plain.entropy


def test_single_images_are_a_stream_too(model: HopfieldModel) -> None:
    found = model.recover([images(1, seed) for seed in range(9)])  # too few for a look to end it
    assert found.steps == 9
    assert np.isfinite(found.trace.entropy).all()
    assert found.trace.entropy.max() > 0


def entropy_of(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    result: npt.NDArray[np.float64] = -(p * np.log(p)).sum(1)
    return result


def test_a_stream_without_a_length_takes_steps(model: HopfieldModel) -> None:
    left = stream(9)
    assert model.recover(left, steps=5, settings=Recovery(look_every=0)).steps == 5
    assert len(list(left)) == 4  # no batch is taken that no step needs
    with pytest.raises(InputError, match="steps: required because batches has no length"):
        model.recover(stream(9))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.recover([]), "batches: must have at least one, got none"),
        (
            lambda m: m.recover([images(4)], steps=0),
            "steps: must be an integer of at least 1, got 0",
        ),
        (lambda m: m.recover([images(4)], steps=1.5), "steps: must be an integer .*, got 1.5"),
        (lambda m: m.recover([images(4)], steps=True), "steps: must be an integer .*, got True"),
        (
            lambda m: m.recover([images(4)], schedule="linear"),
            "schedule: must return two finite numbers, of entropy and energy, got 'linear'",
        ),
        (
            lambda m: m.recover([images(4)], schedule=lambda _, __: 1.0),
            "schedule: must return two finite numbers, .*, got 1.0 in step 0",
        ),
        (
            lambda m: m.recover([images(4)], schedule=lambda _, __: (np.nan, 1.0)),
            r"schedule: must return two finite numbers, .*, got \(nan, 1.0\) in step 0",
        ),
        (
            lambda m: m.recover(stream(2), steps=3),
            "batches: must have at least 3, one per step, got 2; give more, or take",
        ),
        (
            lambda m: m.recover([images(4), images(4).astype(np.float64)]),
            "batch 1: x must be a float32 array, got float64",
        ),
        (lambda m: m.recover([images(4)[:, :7]]), r"batch 0: x must have shape \(batch, 30\)"),
        (lambda m: m.recover([images(0)]), "batch 0: x must have shape .* with batch >= 1"),
        (lambda m: m.recover([images(4) * np.nan]), "batch 0: x must be finite, got NaN"),
        (
            lambda m: m.recover([images(4)], settings=Recovery(start=np.zeros(7, np.float32))),
            r"start: must be finite float32 \(98,\), got float32 \(7,\)",
        ),
        (
            lambda m: m.recover([images(4)], settings=Recovery(start=np.zeros(98))),  # type: ignore[arg-type]  # float64
            r"start: must be finite float32 \(98,\), got float64 \(98,\)",
        ),
        (
            lambda m: m.recover(
                [images(4)], settings=Recovery(start=np.full(98, np.nan, np.float32))
            ),
            "start: must be finite float32",
        ),
        (
            lambda m: m.logits(images(4), [True] * 98),
            r"mask: must be bool \(98,\), got \[",
        ),
        (lambda m: m.settle(np.ones(5, np.bool_)), r"mask: must be bool \(98,\), got bool \(5,\)"),
        (lambda m: m.find(np.ones(5, np.bool_)), r"mask: must be bool \(98,\), got bool \(5,\)"),
        (
            lambda m: m.step(images(4), np.ones(98), 1, 1),
            r"mask: must be float32 \(98,\), got float64",
        ),
        (
            lambda m: m.step(images(4), np.full(98, np.nan, np.float32), 1, 1),
            "mask: must be finite, got NaN or infinity",
        ),
        (lambda m: m.step(images(4)[:, :7], np.ones(98, np.float32), 1, 1), "x must have shape"),
        (
            lambda m: m.step(images(4), np.ones(98, np.float32), 1, 1, statistics="Batch"),
            "statistics: must be one of batch, running, got 'Batch'",
        ),
        (
            lambda m: m.logits(images(4), np.ones(98, np.bool_), statistics="foo"),
            "statistics: must be one of batch, running, got 'foo'",
        ),
        (lambda m: m.logits(images(4), np.ones(98)), r"mask: must be bool \(98,\), got float64"),
        (lambda m: m.logits(images(4), np.ones(97, np.bool_)), r"mask: must be bool .* \(97,\)"),
        (lambda m: m.logits(images(4) * np.inf, np.ones(98, np.bool_)), "x must be finite"),
    ],
)
def test_arguments_are_checked(
    model: HopfieldModel, call: Callable[[HopfieldModel], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(model)


def test_each_kind_of_model_has_its_own_way_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"recovers masks from a Hopfield store.*load_hopfield"):
        supsup.load(folder / "recover.onnx")
    with pytest.raises(ModelError, match=r"mode must be 'recover', got 'full'.* with --hopfield"):
        load_hopfield(folder / "out.onnx")
    with pytest.raises(ModelError, match=r"none.onnx: no such file"):
        load_hopfield(tmp_path / "none.onnx")
    monkeypatch.setattr(supsup_runtime.model.loading, "available_bytes", lambda: 3000)
    with pytest.raises(ModelError, match=r"takes about .* are available; encode the bank's tasks"):
        load_hopfield(folder / "recover.onnx")
    assert load_hopfield(folder / "recover.onnx", check_memory=False).tasks


def test_the_models_store_is_the_banks(model: HopfieldModel, bank: MaskBank) -> None:
    store = read_store(bank)
    for p, start in zip(bank.network.parameters, (0, 65), strict=True):
        part = slice(start, start + p.size)
        np.testing.assert_array_equal(model.store.mean[part], store.mean(p.name))
    for index in range(2):
        mask = flat_mask(bank, index)
        assert model.find(mask) == (model.tasks[index],)
        off = to_pattern(mask)
        off[:3] *= -1
        settled, fixed = model.settle(off > 0)
        assert fixed
        np.testing.assert_array_equal(settled, mask)
        in_store, _ = store.settle(cut(bank.network.parameters, off))
        np.testing.assert_array_equal(join(in_store.values()) > 0, settled)


def test_equal_masks_of_two_tasks(tmp_path: Path, bank: MaskBank) -> None:
    """No input tells them apart: both are named, and labels that differ are left out."""
    made = store_bank(tmp_path / "masks", tasks=2, entropy=2.0)
    twin = made.task(0)
    made.add(replace(twin, name="twin", labels=("x", "y")))
    encode_into(made, ["twin"])
    export_recovery(made, tmp_path / "recover.onnx")
    model = load_hopfield(tmp_path / "recover.onnx")
    start = to_pattern(flat_mask(bank, 0))
    found = model.recover([images(64)], settings=Recovery(start=start, step_size=1e-6))
    assert (found.verdict, found.task) == ("stored", model.tasks[0])
    assert [task.name for task in found.tasks] == ["task-0", "twin"]
    assert found.reason.startswith("at the mask of 'task-0' and 'twin', ")
    prediction = model.predict(images(2), found)
    assert (prediction.task.name, prediction.task.labels) == ("task-0", ())


def test_tasks_with_labels_of_their_own_have_none_in_common(tmp_path: Path) -> None:
    bank = store_bank(tmp_path / "masks", tasks=1)
    bank.add(replace(unit_task(bank.network, "other", seed=5), labels=("x", "y")))
    encode_into(bank, ["other"])
    export_recovery(bank, tmp_path / "recover.onnx")
    model = load_hopfield(tmp_path / "recover.onnx")
    start = np.random.default_rng(9).standard_normal(98).astype(np.float32)
    found = model.recover([images(8)], settings=Recovery(start=start, step_size=1e-6))
    assert model.predict(images(2), found).task.labels == ()
    assert set(model.predict(images(2), found).labels) <= set("01234")
