"""Models that are closed, loaded again, and say what they do."""

from __future__ import annotations

import copy
import gc
import logging
import os
import re
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from stores import images, store_bank
from supsup_export import Request, export, export_recovery
from supsup_runtime.arrays import Images
from supsup_runtime.errors import InputError, ModelError
from supsup_runtime.model.engine import Engine

X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
STAGES = {"prepare", "infer", "run"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    return export(bank, tmp_path / "out.onnx", check=False).path


def export_fewer(path: Path) -> None:
    """Replace a model by one of two of its bank's tasks."""
    bank = supsup.MaskBank.open(path.parent / "masks")
    bank.remove("task-0")
    export(bank, path, check=False, force=True)


CALLS: dict[str, Callable[[supsup.Model], object]] = {
    "predict": lambda model: model.predict(X),
    "predict known": lambda model: model.predict(X, 0),
    "logits": lambda model: model.logits(X, 0),
    "warmup": lambda model: model.warmup([0]),
    "infer_task": lambda model: model.infer_task(X),
    "infer_tasks": lambda model: model.infer_tasks(X),
    "tracker": lambda model: model.tracker(),
    "superpose": lambda model: model.superpose(X, [0], [1.0]),
    "task": lambda model: model.task(0),
    "reload": lambda model: model.reload(),
    "copy": copy.copy,
    "with": lambda model: model.__enter__(),
    "cached_bytes": lambda model: model.cached_bytes,
    "default_method": lambda model: model.default_method,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_model_refuses_calls(path: Path, name: str) -> None:
    with supsup.load(path) as model:
        model.predict(X)
    model.close()
    with pytest.raises(ModelError, match=r"out\.onnx: the model is closed; load it again$"):
        CALLS[name](model)
    assert [task.name for task in model.tasks] == ["task-0", "task-1", "task-2"]
    assert re.fullmatch("<Model '.*, closed>", repr(model))


def test_closing_frees_the_sessions_and_a_call_that_runs_ends(path: Path) -> None:
    model = supsup.load(path)
    want = model.logits(X, 1)
    engine = weakref.ref(model._engine)
    entered, closed, got = threading.Event(), threading.Event(), []
    run = Engine.known_logits

    def slow(self: Engine, x: Images, task: int) -> object:
        entered.set()
        assert closed.wait(60)
        return run(self, x, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "known_logits", slow)
        thread = threading.Thread(target=lambda: got.append(model.predict(X, 1)))
        thread.start()
        assert entered.wait(60)
        model.close()
        closed.set()
        thread.join()
    np.testing.assert_array_equal(got[0].logits, want)
    gc.collect()
    assert engine() is None


def test_an_unchanged_file_is_not_loaded_again(path: Path) -> None:
    model = supsup.load(path)
    engine = model._engine
    assert not model.reload()
    os.utime(path, (1, 1))
    assert not model.reload()  # the same content
    shutil.copy(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)
    assert not model.reload()
    assert model._engine is engine
    copy.copy(model)  # which it may again
    os.utime(path, (2, 2))
    fresh = supsup.load(path)
    os.utime(path, (3, 3))
    assert fresh.reload()  # it did not know the content
    assert fresh._engine is not engine


def test_a_changed_file_is_loaded_with_the_same_settings(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    model = supsup.load(path.name, cache_bytes=10_000, threads=2)
    monkeypatch.chdir("/")
    before, want = model.info, model.logits(X, "task-1")
    export_fewer(path)
    assert model.reload()
    assert model.num_tasks == len(model.tasks) == len(model.labels) == 2
    assert model.revision not in {None, before.revision}
    assert model.cached_bytes == 0
    assert model._engine.max_cached == 10_000 // model._engine.task_bytes
    np.testing.assert_array_equal(model.logits(X, "task-1"), want)
    with pytest.raises(InputError, match="task 'task-0': not among the 2 tasks of the model"):
        model.predict(X, "task-0")
    assert not model.reload()


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "other kind"])
def test_a_damaged_file_leaves_the_model_loaded(path: Path, damage: str) -> None:
    model = supsup.load(path)
    want = model.logits(X, 1)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "text":
        path.write_text("not a model")
    else:
        export_recovery(store_bank(path.parent / "s"), path, check=False, force=True)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"out\.onnx: "):
            model.reload()
        np.testing.assert_array_equal(model.logits(X, 1), want)
    assert model.num_tasks == 3


def test_a_call_ends_with_the_model_it_began_with(path: Path) -> None:
    model = supsup.load(path)
    want = model.predict(X, method="exhaustive")
    run = Engine.task_logits
    reloaded: list[bool] = []

    def replacing(self: Engine, x: Images, task: int) -> object:
        if not reloaded:
            export_fewer(path)
            reloaded.append(model.reload())
        return run(self, x, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "task_logits", replacing)
        got = model.predict(X, method="exhaustive")
    assert reloaded == [True]
    assert got.task == want.task
    assert got.inferences[0].scores.shape == (3,)
    assert model.infer_task(X, method="exhaustive").scores.shape == (2,)


def test_threads_may_call_reload_and_close(path: Path) -> None:
    model = supsup.load(path)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            for _ in range(2000):
                model.predict(X, 1)
                model.reload()
        except ModelError as error:
            if "is closed" not in str(error):
                errors.append(error)
        except BaseException as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    export_fewer(path)
    model.close()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_task_may_be_given_as_it_is(path: Path) -> None:
    model = supsup.load(path)
    one, two = model.tasks[1], model.tasks[2]
    np.testing.assert_array_equal(model.predict(X, one).logits, model.predict(X, 1).logits)
    assert model.predict(X, [one, "task-2", 0]).tasks == (one, two, model.tasks[0])
    np.testing.assert_array_equal(model.logits(X, two), model.logits(X, "task-2"))
    np.testing.assert_array_equal(
        model.superpose(X, [one, two], [0.5, 0.5]), model.superpose(X, [1, 2], [0.5, 0.5])
    )
    model.warmup([one, two])
    assert model.task(one) is one
    assert model.task(copy.deepcopy(one)) is one
    other = supsup.TaskInfo(index=2, name="task-1", real_outputs=2)
    message = (
        r"^task 'task-1': must have index 2 in the model, as in the TaskInfo, got index 1; take it "
        r"from this model's tasks$"
    )
    for keys in (other, [other] * 3):
        with pytest.raises(InputError, match=message):
            model.predict(X, keys)
    with pytest.raises(
        InputError, match=r"^task '': must have index -1 in the model, .* got none;"
    ):
        model.logits(X, supsup.TaskInfo(index=-1, name="", real_outputs=2))


def test_labels_and_revision(path: Path) -> None:
    model = supsup.load(path)
    assert model.labels == {f"task-{i}": ("no", "yes") for i in range(3)}
    with pytest.raises(TypeError):
        model.labels["task-0"] = ()  # type: ignore[index]
    bank = supsup.MaskBank.open(path.parent / "masks")
    assert model.revision == bank.revision
    bank.rename("task-1", "other")
    assert model.revision != bank.revision
    bank.rename("other", "task-1")
    assert model.revision == bank.revision
    bank.replace(bank.task("task-0").renamed("task-2"))
    assert model.revision != bank.revision


@pytest.mark.parametrize("outputs", [None, ("logits", "task"), ("logits",)])
def test_timings_on_request(path: Path, outputs: tuple[str, ...] | None) -> None:
    bank = supsup.MaskBank.open(path.parent / "masks")
    export(bank, path, request=Request(outputs=outputs), check=False, force=True)
    model = supsup.load(path)
    assert model.predict(X).timings is None
    for per_image in (False, True):
        times = model.predict(X, per_image=per_image, timings=True).timings
        assert times is not None
        assert set(times) == STAGES
        assert min(times.values()) >= 0
        assert times["infer"] > 0
    if outputs != ("logits", "task"):
        times = model.predict(X, 1, timings=True).timings
        assert times is not None
        assert times["infer"] == 0
        assert times["run"] > 0
    with pytest.raises(InputError, match=r"^timings must be True or False, got 1$"):
        model.predict(X, timings=1)  # type: ignore[arg-type]


def test_models_and_banks_say_what_they_are(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # long paths are cut
    model, bank = supsup.load(path.relative_to(tmp_path)), supsup.MaskBank.open("masks")
    assert repr(model) == (f"<Model {path.name!r}, 3 tasks: 'task-0', 'task-1', 'task-2', full>")
    network = "<Network from (5,) to 6 outputs (4 real), 152 masked weights in 3 parameters>"
    tasks = "3 tasks: 'task-0', 'task-1', 'task-2'"
    assert repr(bank.network) == network
    assert repr(bank) == f"<MaskBank 'masks', {tasks}, {network}>"
    assert repr(model.info) == f"<ModelInfo {tasks}, full, cpu, superfluous, {network}>"
    assert repr(bank.task(1)) == (
        "<TaskMasks 'task-1', 3 masks, 0 tensors of state, labels 'no', 'yes'>"
    )
    stored = store_bank(Path("s"))
    recovering = supsup.load_hopfield(export_recovery(stored, Path("r"), check=False).path)
    assert repr(recovering) == "<HopfieldModel 'r', 2 tasks: 'task-0', 'task-1'>"
    found = recovering.recover([images(64, i) for i in range(2)])
    assert repr(found).startswith(f"<Recovered {found.verdict}, ")
    texts = [repr(each) for each in (found, recovering.store, stored.network)]
    assert all(text.isprintable() and len(text) < 200 for text in texts)
    assert recovering.info.revision is None


def test_the_log_says_what_is_loaded_kept_and_dropped(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [type(handler) for handler in logging.getLogger("supsup").handlers] == [
        logging.NullHandler
    ]
    caplog.set_level(logging.DEBUG, logger="supsup")
    model = supsup.load(path, cache_bytes=700)  # of one task
    name, size, task_bytes = str(path), path.stat().st_size, model._engine.task_bytes
    (loaded,) = caplog.messages
    start = f"{name}: loaded 3 tasks, mode full, by CPUExecutionProvider, {size} bytes, in "
    assert loaded.startswith(start)
    caplog.clear()
    for task in (0, 0, 1, 1):
        model.predict(X, task)
    assert caplog.messages == [
        f"{name}: fetched {task_bytes} bytes of task 0",
        f"{name}: evicted the weights of task 0",
        f"{name}: fetched {task_bytes} bytes of task 1",
    ]
    assert {record.name for record in caplog.records} == {"supsup.model.engine"}
    caplog.clear()
    os.truncate(path, 10)
    with pytest.raises(ModelError):
        model.reload()
    model.close()
    assert caplog.messages == [f"{name}: has changed", f"{name}: closed"]


def test_the_log_says_what_falls_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="supsup")
    supsup.load(path, cache_bytes=0)
    want = f"{path}: keeps no task's weights, so calls run the whole graph"
    assert caplog.messages[1:] == [want]
