"""Odd values in every argument of the public functions: an answer, or an error of supsup."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import supsup_runtime as supsup
from banks import make_bank
from stores import images, store_bank
from supsup_export.exporter import export, export_recovery
from supsup_runtime.arrays import Floats, Images
from supsup_runtime.data import Dataset, load_dataset, make_stream
from supsup_runtime.errors import CapacityWarning, InputError, SupSupError
from supsup_runtime.evaluation import (
    auroc,
    calibrate,
    check_same_bank,
    choose_samples,
    evaluate,
    evaluate_task,
    evaluate_tracker,
    evaluate_unnamed,
    measure,
)

Call = Callable[[Any], object]


def deep(levels: int = 5000) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    2**64,
    -(2**70),
    10**5000,
    float("nan"),
    float("inf"),
]
PLAIN += ["", "x", "task-0", "\ud800", "a\0b", "x" * 200, b"", b"task", b"\xff", bytearray(b"x")]
PLAIN += [[], (), {}, set(), [None], ["task-0"], [1.5], [[0]], {"x": 1}, {0}, range(2), deep()]
PLAIN += [object(), Ellipsis, int, 1j, lambda: 1, iter([1]), memoryview(b"ab"), Path(), Path("\0")]
DTYPES = [*"?bBhHiIlLqQefdgFDGSUVOmM"]
ARRAYS: list[Any] = [
    np.zeros(shape, dtype) for dtype in DTYPES for shape in ((), (1,), (2,), (2, 30))
]
ARRAYS += [np.full((2, 30), np.nan, np.float32), np.broadcast_to(np.float32(0), (2**40, 30))]
ARRAYS += [np.ma.array(np.zeros((2, 30), np.float32), mask=True), np.zeros((0, 30), np.float32)]
SCALARS = [array[0] for array in (np.zeros(1, dtype) for dtype in DTYPES)]
ODD = [*PLAIN, *ARRAYS, *SCALARS]


def task_info(index: Any, name: Any) -> supsup.TaskInfo:  # noqa: ANN401 - anything
    return supsup.TaskInfo(index=index, name=name, real_outputs=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> supsup.Model:
    folder = tmp_path_factory.mktemp("model")
    export(make_bank(folder / "b", "mlp-7-9", outputs=4, real_outputs=2, tasks=2), folder / "m")
    threads: Any = np.int8(1)
    return supsup.load(folder / "m", threads=threads)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    folder = tmp_path_factory.mktemp("odd")
    bank = store_bank(folder / "masks", model="bnnet-65-33", tasks=2)
    export(bank, folder / "out.onnx")
    export_recovery(bank, folder / "rec.onnx")
    model, rec = supsup.load(folder / "out.onnx"), supsup.load_hopfield(folder / "rec.onnx")
    x, mask = images(2, 0), np.zeros(rec.info.network.num_masked, np.bool_)
    store = supsup.HopfieldStore(bank.network, bank.digest)
    data = Dataset(
        name="odd",
        train_x=np.zeros((10, 5, 6), np.uint8),
        train_y=np.arange(10) % 5,
        test_x=np.zeros((10, 5, 6), np.uint8),
        test_y=np.arange(10) % 5,
        mean=0.0,
        std=1.0,
        scale=1.0,
    )
    tasks = make_stream("permuted", data, num_tasks=2)
    one = tasks.task(0)
    how = supsup.Inference(method="verified")
    out, other = folder / "out.onnx", folder / "rec.onnx"
    plain = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    inference = [field.name for field in dataclasses.fields(supsup.Inference)]
    recovery: tuple[str, ...] = (
        "step_size",
        "momentum",
        "weight_decay",
        "energy_strength",
        "start",
        "statistics",
    )
    recovery += ("look_every", "restart_every", "max_entropy_ratio")
    streaming = (
        "num_tasks",
        "seed",
        "layout",
        "degrees",
        "classes_per_task",
        "class_seed",
        "labels",
    )
    by_name: dict[str, Call] = {
        "load": supsup.load,
        **{f"load {n}": keyword(supsup.load, n, out) for n in ("cache_bytes", "check_memory")},
        **{f"load {n}": keyword(supsup.load, n, out) for n in ("device", "providers")},
        "load sess_options": lambda v: supsup.load(out, sess_options=v),
        "load threads": lambda v: supsup.load(out, threads=v),
        "load_hopfield": supsup.load_hopfield,
        "load_hopfield memory": lambda v: supsup.load_hopfield(other, check_memory=v),
        "task": model.task,
        "predict x": model.predict,
        "predict task": lambda v: model.predict(x, v),
        "predict per_image": lambda v: model.predict(x, per_image=v),
        "predict timings": lambda v: model.predict(x, timings=v),
        "predict TaskInfo": lambda v: model.predict(x, task_info(v, v)),
        "predict TaskInfo index": lambda v: model.predict(x, task_info(v, "task-0")),
        "top": model.predict(x).top,
        "predict method": lambda v: model.predict(x, method=v),
        "logits x": lambda v: model.logits(v, 0),
        "logits task": lambda v: model.logits(x, v),
        "warmup": model.warmup,
        "warmup size": lambda v: model.warmup(batch_size=v),
        "infer_task": model.infer_task,
        "infer_task method": lambda v: model.infer_task(x, method=v),
        "infer_tasks": model.infer_tasks,
        "infer_tasks method": lambda v: model.infer_tasks(x, method=v),
        "tracker": model.tracker,
        "tracker method": lambda v: model.tracker(method=v),
        "tracker update": model.tracker().update,
        "superpose x": lambda v: model.superpose(v, [0], [1.0]),
        "superpose tasks": lambda v: model.superpose(x, v, [1.0]),
        "superpose alphas": lambda v: model.superpose(x, [0], v),
        **{
            f"Inference {method} {name}": keyword(supsup.Inference, name, method=method)
            for name in inference
            for method in ("verified", "gradient", "one-shot")
        },
        **{f"Recovery {name}": keyword(supsup.Recovery, name) for name in recovery},
        "recover": rec.recover,
        "recover batches": lambda v: rec.recover([v]),
        "recover steps": lambda v: rec.recover([x], steps=v),
        "recover schedule": lambda v: rec.recover([x], schedule=v),
        "recover share": lambda v: rec.recover([x], schedule=lambda *_: (v, v)),
        "recover settings": lambda v: rec.recover([x], settings=v),
        "step": lambda v: rec.step(v, mask.astype(np.float32), 1.0, 1.0),
        "step mask": lambda v: rec.step(x, v, 1.0, 1.0),
        "step strength": lambda v: rec.step(x, mask.astype(np.float32), v, 1.0),
        "step statistics": lambda v: rec.step(x, mask.astype(np.float32), 1.0, 1.0, statistics=v),
        "logits mask": lambda v: rec.logits(x, v),
        "predict recovered": lambda v: rec.predict(x, v),
        "settle": rec.settle,
        "find": rec.find,
        "HopfieldStore": lambda v: supsup.HopfieldStore(v, bank.digest),
        "HopfieldStore rule": lambda v: supsup.HopfieldStore(bank.network, "", rule=v),
        "HopfieldStore dtype": lambda v: supsup.HopfieldStore(bank.network, "", dtype=v),
        "store encode": store.encode,
        "store settle": store.settle,
        "store settle one": lambda v: settle_one(store, v),
        "store find": store.find,
        "store mean": store.mean,
        "bank task": bank.task,
        "bank index": bank.index,
        "bank in": bank.__contains__,
        "bank open": supsup.MaskBank.open,
        "bank rename": lambda v: bank.rename(v, "new"),
        "bank rename to": lambda v: bank.rename("task-0", v),
        "bank remove": lambda v: bank.remove("task-0", v),
        "bank add": bank.add,
        "make_task": lambda v: bank.add(supsup.make_task(v, {})),
        "make_task masks": lambda v: bank.add(supsup.make_task("t", v)),
        "make_task mask": lambda v: bank.add(
            supsup.make_task("t", {p.name: v for p in bank.network.parameters})
        ),
        "make_task state": lambda v: bank.add(supsup.make_task("t", {}, state=v)),
        "make_task labels": lambda v: bank.add(supsup.make_task("t", {}, labels=v)),
        "make_task training": lambda v: bank.add(supsup.make_task("t", {}, training=v)),
        "load_dataset": load_dataset,
        "load_dataset mean": lambda v: load_dataset(folder, mean=v),
        "load_dataset std": lambda v: load_dataset(folder, std=v),
        **{f"Dataset {name}": keyword(Dataset, name, **plain) for name in plain if name != "name"},
        "make_stream kind": lambda v: make_stream(v, data, num_tasks=2),
        "make_stream data": lambda v: make_stream("permuted", v, num_tasks=2),
        **{
            f"make_stream {kind} {name}": keyword(make_stream, name, kind, data, num_tasks=2)
            for kind in ("permuted", "rotated", "split", "mixed")
            for name in streaming
        },
        "stream task": tasks.task,
        "evaluate": lambda v: evaluate(v, tasks),
        "evaluate stream": lambda v: evaluate(model, v),
        **{
            f"evaluate {name}": keyword(evaluate, name, model, tasks, per_task=1)
            for name in ("per_task", "batch_size", "method", "unnamed", "progress")
        },
        "evaluate_tracker": lambda v: evaluate_tracker(v, tasks),
        "evaluate_tracker stream": lambda v: evaluate_tracker(model, v),
        **{
            f"evaluate_tracker {name}": keyword(
                evaluate_tracker, name, model, tasks, **{"per_task": 2, "stay": 1} | {name: 1}
            )
            for name in ("per_task", "stay", "switch", "method")
        },
        "evaluate_task": lambda v: evaluate_task(model, v),
        "evaluate_unnamed": lambda v: evaluate_unnamed(model, v),
        "evaluate_unnamed size": lambda v: evaluate_unnamed(model, one, per_task=v),
        "check_same_bank": lambda v: check_same_bank(model, v),
        "choose_samples": lambda v: choose_samples(model, tasks, per_task=v),
        "measure": lambda v: measure(model, v, how=how, coverage=0.5),
        "measure one": lambda v: measure(model, [v, v], how=how, coverage=0.5),
        "measure how": lambda v: measure(model, [x, x], how=v, coverage=0.5),
        "measure coverage": lambda v: measure(model, [x, x], how=how, coverage=v),
        "measure progress": lambda v: measure(model, [x, x], how=how, coverage=0.5, progress=v),
        "calibrate": lambda v: calibrate(v, 0.5),
        "calibrate coverage": lambda v: calibrate([0.0], v),
        "auroc": lambda v: auroc(v, [0.0]),
        "auroc unknown": lambda v: auroc([0.0], v),
    }
    return by_name


def keyword(function: Callable[..., object], name: str, /, *given: object, **more: object) -> Call:
    """A call with an argument by name, in place of the one in `more`."""
    return lambda value: function(*given, **{**more, name: value})


def settle_one(store: supsup.HopfieldStore, value: Floats) -> object:
    return store.settle(dict.fromkeys(store.matrices, value))


def foreign(call: Call, value: object) -> str:
    """What came out, unless an answer or one line of supsup."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapacityWarning)
        try:
            call(value)
        except SupSupError as error:
            text = str(error)
            return "" if "\n" not in text and len(text) < 1000 else f"not one short line: {text}"
        except Exception as error:  # noqa: BLE001 - what this test looks for
            return f"{type(error).__name__}: {error}"[:200]
    return ""


@pytest.mark.slow
def test_odd_arguments_are_refused_in_a_line(calls: dict[str, Call]) -> None:
    found = {}
    for name, call in calls.items():
        ours = "schedule" not in name and "progress" not in name
        for number, value in enumerate(ODD):
            if ours or not callable(value):  # what a caller's function raises is the caller's
                problem = foreign(call, value)
                if problem:
                    found[f"{name} {number} {type(value).__name__}"] = problem
    assert not found, "\n".join(f"{where}: {what}" for where, what in found.items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.predict(x, task=1.5), "task must be a name, an index or a list of them"),
        (lambda m, x: m.predict(x, task={}), "task must be a name, an index or a list of them"),
        (lambda m, x: m.predict(x, task=b"a"), "task must be a name, an index or a list of them"),
        (lambda m, x: m.predict(x, task=True), r"task index must be an integer in .*, got True"),
        (lambda m, x: m.predict(x, task=[True] * len(x)), "task index must be an integer in"),
        (lambda m, x: m.predict(x, per_image=1.5), "per_image must be True or False, got 1.5"),
        (lambda m, x: m.predict(x, method=""), "method must be one of one-shot, .*, got ''"),
        (lambda m, _: m.task(True), r"task index must be an integer in \[0, \d+\), got True"),
        (lambda m, _: m.task(np.bool_(1)), "task index must be an integer in"),
        (lambda m, _: m.warmup(1.5), "tasks must be a sequence, such as a list, got 1.5"),
        (lambda m, _: m.warmup("abc"), "tasks must be a sequence, such as a list, got 'abc'"),
        (lambda m, _: m.warmup(batch_size=2**50), "rows do not fit in memory; take fewer"),
        (lambda m, x: m.superpose(x, 0, [1.0]), "tasks must be a sequence, such as a list, got 0"),
    ],
)
def test_arguments_of_another_type_are_a_line(
    model: supsup.Model, call: Callable[[supsup.Model, Images], object], message: str
) -> None:
    x = np.zeros((2, *model.info.network.input_shape), np.float32)
    with pytest.raises(InputError, match=message):
        call(model, x)


def test_integers_of_numpy_are_indices(model: supsup.Model) -> None:
    x = np.zeros((2, *model.info.network.input_shape), np.float32)
    indices: tuple[Any, ...] = (np.int8(1), np.uint64(1), np.intp(1))
    for index in indices:
        assert model.task(index) == model.tasks[1]
        assert model.predict(x, task=index).task == model.tasks[1]
    rows: Any = np.array([1, 0])
    assert model.predict(x, task=rows).tasks == (model.tasks[1], model.tasks[0])
