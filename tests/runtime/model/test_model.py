"""A loaded model, on a real export: what it predicts and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

import supsup_runtime as supsup
import supsup_runtime.model.engine
import supsup_runtime.model.model
from banks import make_bank
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.engine import Engine
from supsup_runtime.model.inference import METHODS, Method

Images = npt.NDArray[np.float32]
INFER = ("task", "logits")


@pytest.fixture(scope="module", params=["mlp-7-9", "cnn"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    bank = make_bank(folder / "masks", request.param, outputs=6, real_outputs=4, tasks=6)
    export(bank, folder / "full.onnx")
    export(bank, folder / "known.onnx", request=Request(outputs=("logits",)))
    for name, outputs in (
        ("infer", INFER),
        ("scored", (*INFER, "task_scores")),
        ("task", INFER[:1]),
    ):
        export(bank, folder / f"{name}.onnx", request=Request(outputs=outputs))
    return folder


@pytest.fixture
def model(folder: Path) -> supsup.Model:
    return supsup.load(folder / "full.onnx")


def images(model: supsup.Model, batch: int) -> Images:
    rng = np.random.default_rng(batch)
    return rng.standard_normal((batch, *model.info.network.input_shape)).astype(np.float32)


def test_tasks_have_index_name_and_labels(model: supsup.Model) -> None:
    assert [task.index for task in model.tasks] == list(range(6))
    assert model.task("task-4").index == 4
    assert model.task(4).labels == ("no", "yes")


@pytest.mark.parametrize("batch", [1, 7, 8, 9])
def test_known_tasks_by_cache_and_by_graph_agree(folder: Path, batch: int) -> None:
    cached = supsup.load(folder / "full.onnx")
    uncached = supsup.load(folder / "full.onnx", cache_bytes=0)
    x = images(cached, batch)
    for task in range(6):
        one, two = cached.predict(x, task), uncached.predict(x, task)
        # the same float32 program on the same weights, perhaps other kernels: some roundings
        np.testing.assert_allclose(one.logits, two.logits, rtol=0, atol=1e-5)
        assert {t.index for t in one.tasks} == {task}
        np.testing.assert_array_equal(one.label_indices, one.logits[:, :2].argmax(axis=1))
        assert one.labels == tuple(("no", "yes")[index] for index in one.label_indices)
        assert one.inferences == ()


def test_logits_are_those_of_predict_and_the_callers_own(model: supsup.Model) -> None:
    small, large = images(model, 2), images(model, 20_000)  # copied to a buffer, and bound
    for x in (small, large, small):
        got = model.logits(x, "task-3")
        kept = got.copy()
        np.testing.assert_array_equal(got, model.predict(x, 3).logits)
        model.logits(x[::-1].copy(), 3)
        np.testing.assert_array_equal(got, kept)


def test_rows_may_name_their_tasks(model: supsup.Model) -> None:
    x = images(model, 5)
    keys: list[int | str] = [3, "task-0", 3, 5, "task-0"]
    mixed = model.predict(x, keys)
    assert [task.index for task in mixed.tasks] == [3, 0, 3, 5, 0]
    for row, key in enumerate(keys):
        alone = model.predict(x[row : row + 1], key).logits[0]
        # other batch sizes may take other kernels
        np.testing.assert_allclose(mixed.logits[row], alone, rtol=0, atol=1e-5)
    for more in ({"method": "verified"}, {"method": "one-shot"}, {"per_image": True}):
        for task in (3, keys):
            with pytest.raises(InputError, match=r"^\w+: applies only if the task is inferred,"):
                model.predict(x, task, **more)
    with pytest.raises(InputError, match="one for each of the 5 rows, got 2"):
        model.predict(x, [0, 1])
    with pytest.raises(InputError, match=r"'nobody': not among the 6 .*task-2, \.\.\.\)$"):
        model.predict(x, [0, 1, 2, 3, "nobody"])


def test_many_rows_are_scored_in_one_pass(model: supsup.Model) -> None:
    x = images(model, 40)
    rows = model.infer_tasks(x, method="one-shot")
    for row, inference in enumerate(rows):
        alone = model.infer_task(x[row : row + 1], method="one-shot")
        scale = np.abs(alone.scores).max()
        # float32 sums against those of int8 rows: the bar of scores, 3e-5
        np.testing.assert_allclose(inference.scores, alone.scores, rtol=0, atol=4e-5 * scale)


def test_without_the_outputs_a_cache_needs_the_graph_answers(folder: Path) -> None:
    """A network with state cannot be kept by its parameters alone."""
    bank = supsup.MaskBank.open(folder / "masks")
    some = ("logits", "parameters")
    path = folder / "some.onnx"
    model = supsup.load(export(bank, path, request=Request(outputs=some), force=True).path)
    x = images(model, 3)
    want = supsup.load(folder / "full.onnx").predict(x, 2).logits
    np.testing.assert_allclose(model.predict(x, 2).logits, want, rtol=0, atol=1e-5)
    assert (model.cached_bytes == 0) == bool(model.info.network.state)


def test_many_rows_take_several_passes(
    model: supsup.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = images(model, 70)
    whole = [inference.scores for inference in model.infer_tasks(x, method="one-shot")]
    one = 4 * model.info.network.num_masked
    for limit in (30 * one, one):  # three passes; and too few rows a pass, so one by one
        monkeypatch.setattr(supsup_runtime.model.engine, "_PASS_BYTES", limit)
        parts = [inference.scores for inference in model.infer_tasks(x, method="one-shot")]
        scale = np.abs(whole).max(axis=1, keepdims=True)
        assert (np.abs(np.array(parts) - np.array(whole)) <= 4e-5 * scale).all()


def test_warming_up_keeps_the_tasks_asked_for(folder: Path) -> None:
    model = supsup.load(folder / "full.onnx")
    model.warmup(["task-1", 4, "task-1"], batch_size=3)
    network = model.info.network
    one = 4 * (network.num_masked + network.num_state)
    assert model.cached_bytes == 2 * one
    model.warmup()  # exhaustive takes all
    assert model.cached_bytes == 6 * one
    known = supsup.load(folder / "known.onnx")
    known.warmup()
    with pytest.raises(InputError, match=r"outputs \['logits'\] cannot keep a task's weights"):
        known.warmup([0])
    supsup.load(folder / "infer.onnx").warmup(batch_size=2)
    with pytest.raises(InputError, match="batch_size must be an integer of at least 1, got 0"):
        model.warmup(batch_size=0)
    with pytest.raises(InputError, match=r"task index must be in \[0, 6\), got 6"):
        model.warmup([6])
    small = supsup.load(folder / "full.onnx", cache_bytes=one)
    with pytest.raises(InputError, match=f"2 tasks need {2 * one} bytes of cache, got {one}"):
        small.warmup([0, 1])


def test_a_model_too_large_for_the_memory_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supsup_runtime.model.loading, "available_bytes", lambda: 3000)
    message = (
        r"full.onnx: loading it takes about \d+ MiB of memory, 0 MiB are available; export fewer"
    )
    with pytest.raises(ModelError, match=message):
        supsup.load(folder / "full.onnx")
    assert supsup.load(folder / "full.onnx", check_memory=False).num_tasks == 6
    monkeypatch.setattr(supsup_runtime.model.loading, "available_bytes", lambda: None)
    assert supsup.load(folder / "full.onnx").num_tasks == 6


@pytest.mark.parametrize("method", ["one-shot", "verified", "exhaustive", None])
def test_inferring_and_predicting(model: supsup.Model, method: Any) -> None:  # noqa: ANN401 - a literal
    x = images(model, 5)
    batch = model.predict(x, method=method)
    inferred = model.infer_task(x, method=method)
    assert batch.task == inferred.task
    assert inferred.method == (method or "exhaustive")
    assert inferred.scores.shape == (6,)
    assert inferred.margin >= 0
    np.testing.assert_array_equal(batch.logits, model.predict(x, batch.task.index).logits)
    rows = model.predict(x, per_image=True, method=method)
    assert len(rows.inferences) == 5
    for row in range(5):
        alone = model.predict(x[row : row + 1], method=method)
        assert rows.tasks[row] == alone.task
        # other batch sizes may take other kernels
        np.testing.assert_allclose(rows.logits[row], alone.logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["verified", "exhaustive"])
@pytest.mark.parametrize("per_image", [False, True])
def test_the_task_that_judging_found_is_not_run_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, method: Method, per_image: bool
) -> None:
    model = supsup.load(folder / "full.onnx")
    x = images(model, 9)
    want = model.predict(x, [task.task.name for task in model.infer_tasks(x, method=method)])
    if not per_image:
        want = model.predict(x, model.infer_task(x, method=method).task.name)
    five = 5 * model._engine.task_bytes  # of six tasks
    fresh = supsup.load(folder / "full.onnx", cache_bytes=five)
    monkeypatch.setattr(Engine, "known_logits", None)
    got = fresh.predict(x, method=method, per_image=per_image)
    assert got.tasks == want.tasks
    # other batch sizes may take other kernels
    np.testing.assert_allclose(got.logits, want.logits, rtol=0, atol=1e-5)
    assert fresh.cached_bytes == 0
    fresh.predict(x, method=method, per_image=per_image)
    tasks = {task.index for task in want.tasks}
    assert fresh.cached_bytes == len(tasks) * fresh._engine.task_bytes


def test_many_tasks_are_not_all_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supsup_runtime.model.loaded.MAX_TRIED", 5)
    assert supsup.load(folder / "full.onnx").default_method == "verified"
    assert supsup.load(folder / "known.onnx").default_method == "exhaustive"
    assert supsup.load(folder / "infer.onnx").default_method == "one-shot"


def test_trying_every_task_keeps_them_if_all_fit(model: supsup.Model) -> None:
    x = images(model, 3)
    first = model.infer_task(x, method="exhaustive")
    assert model.cached_bytes == 6 * model._engine.task_bytes
    np.testing.assert_allclose(
        first.scores, model.infer_task(x, method="exhaustive").scores, rtol=0, atol=1e-5
    )


def test_rows_of_different_tasks_have_no_single_task(model: supsup.Model) -> None:
    rows = model.predict(images(model, 64), per_image=True)
    if len({task.index for task in rows.tasks}) > 1:
        with pytest.raises(InputError, match="the rows have different tasks"):
            _ = rows.task


def test_superposing_one_task_is_predicting_with_it(model: supsup.Model) -> None:
    x = images(model, 3)
    logits = model.superpose(x, ["task-2"], [1.0])
    np.testing.assert_allclose(logits, model.predict(x, 2).logits, rtol=0, atol=1e-5)


def test_a_model_of_known_tasks_tries_every_mask(folder: Path) -> None:
    known, full = supsup.load(folder / "known.onnx"), supsup.load(folder / "full.onnx")
    x = images(full, 2)
    assert known.default_method == "exhaustive"
    assert known.predict(x).task == full.infer_task(x, method="exhaustive").task
    with pytest.raises(InputError, match="exported without task_scores"):
        known.infer_task(x, method="one-shot")


@pytest.mark.parametrize("name", ["infer", "scored"])
def test_a_model_that_always_infers(folder: Path, name: str) -> None:
    infer, full = supsup.load(folder / f"{name}.onnx"), supsup.load(folder / "full.onnx")
    x = images(full, 2)
    want = full.predict(x, method="one-shot")
    assert infer.predict(x).task == want.task
    np.testing.assert_allclose(infer.predict(x).logits, want.logits, rtol=0, atol=1e-5)
    rows = full.predict(x, method="one-shot", per_image=True)
    assert infer.predict(x, per_image=True).tasks == rows.tasks
    with pytest.raises(InputError, match="exported to infer only, so it cannot run a given task"):
        infer.predict(x, 0)
    with pytest.raises(InputError, match="one-shot is the only method"):
        infer.predict(x, method="verified")


def test_what_an_inferring_model_was_exported_without(folder: Path) -> None:
    scored, task = supsup.load(folder / "scored.onnx"), supsup.load(folder / "task.onnx")
    x = images(scored, 2)
    assert scored.infer_task(x).method == "one-shot"
    with pytest.raises(InputError, match=r"without task_scores.*export with all outputs"):
        task.infer_task(x)
    with pytest.raises(InputError, match=r"with outputs \['task'\]: predict needs logits"):
        task.predict(x)


BAD_X = [
    (lambda x: x.astype(np.float64), "must be a float32 array, got float64; use x.astype"),
    (lambda x: x.tolist(), "must be a float32 array, got list"),
    (lambda x: x[0], r"must have shape \(batch, .*\) with batch >= 1, got \("),
    (lambda x: x[:0], "batch >= 1"),
    (lambda x: x[..., :-1], "must have shape"),
    (lambda x: np.full_like(x, np.nan), "must be finite, got NaN or infinity in row 0"),
    (lambda x: np.concatenate([x, x * np.float32(np.inf)]), "in row 2"),
]


@pytest.mark.parametrize(("change", "message"), BAD_X)
def test_x_is_checked(model: supsup.Model, change: Any, message: str) -> None:  # noqa: ANN401 - a lambda
    x = change(np.abs(images(model, 2)) + 1)
    for call in (model.predict, model.infer_task, lambda v: model.predict(v, 0)):
        with pytest.raises(InputError, match=message):
            call(x)


NOT_FINITE = r"\.onnx: (logits|one-shot scores) are not finite .*x is too large; normalise"


def with_a_large_row(model: supsup.Model) -> Images:
    """Three rows, of which row 1 is too large for the masks of all tasks."""
    x = images(model, 3)
    x[1] = 3e38 * np.random.default_rng(5).choice([-1, 1], x.shape[1:])
    return x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_image", [False, True])
def test_answers_that_are_not_finite_are_refused(
    model: supsup.Model, method: Method, per_image: bool
) -> None:
    x = with_a_large_row(model)
    infer = model.infer_tasks if per_image else model.infer_task
    with pytest.raises(InputError, match=NOT_FINITE) as error:
        infer(x, method=method)
    assert not per_image or "in row 1:" in str(error.value)
    with pytest.raises(InputError, match=NOT_FINITE):
        model.predict(x, method=method, per_image=per_image)


def test_logits_that_are_not_finite_are_refused(folder: Path, model: supsup.Model) -> None:
    x = with_a_large_row(model)
    infer, known = supsup.load(folder / "infer.onnx"), supsup.load(folder / "known.onnx")
    for call in (
        lambda: model.predict(x, 2),
        lambda: model.predict(x, [0, 1, 2]),
        lambda: model.logits(x, "task-2"),
        lambda: model.superpose(x, [0, 1], [0.5, 0.5]),
        lambda: infer.predict(x),
        lambda: infer.predict(x, per_image=True),
        lambda: known.predict(x),
        lambda: known.infer_tasks(x),
    ):
        with pytest.raises(InputError, match=r"\.onnx: logits are not finite in row 1: x is too"):
            call()


@pytest.mark.parametrize("task", [-1, 6, 10**9])
def test_indices_are_checked(model: supsup.Model, task: int) -> None:
    with pytest.raises(InputError, match=rf"task index must be in \[0, 6\), got {task}"):
        model.predict(images(model, 1), task)
    with pytest.raises(InputError, match="task index must be in"):
        model.superpose(images(model, 1), [task], [1.0])


def test_other_arguments_are_checked(folder: Path, model: supsup.Model) -> None:
    x = images(model, 1)
    with pytest.raises(InputError, match=r"task 'nope': not among the 6 .*\(task-0, task-1"):
        model.predict(x, "nope")
    with pytest.raises(InputError, match=r"expected shape \(2,\), got \(1,\)"):
        model.superpose(x, [0, 1], [1.0])
    with pytest.raises(InputError, match="at least one task"):
        model.superpose(x, [], [])
    for alpha in (np.nan, 1e300, -1e39):
        with pytest.raises(InputError, match="alphas must be finite"):
            model.superpose(x, [0], [alpha])
    for alphas in ([1j], ["1"], [None], [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match="alphas must be real numbers"):
            model.superpose(x, [0], alphas)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match="method must be one of"):
        model.infer_task(x, method="magic")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(InputError, match=r"cache_bytes must be an integer in \[0, \d+\], got -1"):
        supsup.load(folder / "full.onnx", cache_bytes=-1)
    with pytest.raises(InputError, match="threads must be an integer in"):
        supsup.load(folder / "full.onnx", threads=0)


def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file; make it with supsup-export"):
        supsup.load(tmp_path / "missing.onnx")
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"\x00garbage")
    with pytest.raises(ModelError, match="not an ONNX model, or cut short"):
        supsup.load(path)
    loaded = onnx.load(folder / "full.onnx")
    for entry in loaded.metadata_props:
        if entry.key == "org.supsup.contract":
            entry.value = "99"
    onnx.save(loaded, path)
    with pytest.raises(
        ModelError, match="contract must be 1 or 2, got '99'; export the bank again"
    ):
        supsup.load(path)
    del loaded.metadata_props[:]
    onnx.save(loaded, path)
    with pytest.raises(ModelError, match="not a supsup model"):
        supsup.load(path)
    whole = (folder / "full.onnx").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not an ONNX model, or cut short"):
        supsup.load(path)


def test_one_task_alone(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=1)
    model = supsup.load(export(bank, tmp_path / "one.onnx").path)
    for method in ("one-shot", "verified", "exhaustive"):
        inferred = model.infer_task(images(model, 3), method=method)
        assert inferred.task.index == 0
        assert inferred.margin == np.inf
