"""Python arguments: calls of the public names with odd values, each case one expression.

A value that no rule allows, such as a fraction for a task, must be refused: an answer is wrong.
"""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import supsup_runtime as supsup
from fuzz.case import Case
from fuzz.seeds import FEATURES, TASKS
from fuzz.target import Reach, Target, Wrong
from supsup_export import Request, export, export_recovery, export_task
from supsup_runtime import data, evaluation
from supsup_runtime.hopfield.file import delete_masks, encode_into, read_store
from supsup_train import Recipe, Rule, make_model
from supsup_train.nns.learner import NnsSettings

_NEVER = (
    "True 1.5 {} object() b'x' [] () '' '\\ud800' -1 10**30 np.nan ... np.array([0,1]) Path".split()
)
"""No task, name, count or choice."""
_SOMETIMES = (
    "None 0 1 2**63 0.0 1e308 'a'*10**5 np.int64(1) np.float32(.5) range(2) [[0]] 1j len".split()
)
_BATCHES = (
    *("x", "x", "x", "x[:1]", "x[:0]", "x[0]", "x.T", "x.T.copy().T", "x[::-1]", "x[:, ::-1]"),
    *("x.astype('f8')", "x.astype('f2')", "x.astype('>f4')", "x.astype(object)", "x.tolist()"),
    *("x * np.float32(1e38)", "x + np.nan", "x[:, :0]", "x[None]", "np.ma.array(x, mask=x > 0)"),
    *("np.matrix(x)", "memoryview(x)", "x.view('i4')", "np.broadcast_to(x[:1], x.shape)"),
    *(
        "x.astype('U9')",
        "np.zeros((0, 0), 'f4')",
        "np.float32(1)",
        "x.view(np.recarray)",
        "None",
        "'x'",
    ),
)
_GOOD = {
    "x": _BATCHES,
    "task": (f"'{TASKS[0]}'", "0", "1", "np.int64(0)"),
    "tasks": ("[0, 1]", "(0,)", f"['{TASKS[1]}']", "[0] * 4", "np.arange(2)"),
    "alphas": ("[1.0]", "[.5, .5]", "np.ones(2)", "(1, 0)", "[np.nan]", "[1e39]", "['1']", "[[1], [1, 2]]"),
    "count": ("1", "2", "np.int64(3)"),
    "flag": ("True", "False"),
    "method": ("None", "'one-shot'", "'verified'", "'binary'", "supsup.Inference(method='gradient')"),
    "number": ("0.5", "1", "np.float32(.25)"),
    "score": ("None", "'entropy'", "'log-odds'"),
    "name": (f"'{TASKS[0]}'", "'new'", "'a-b'"),
    "shape": ("(2, 3)", "[4]", "(5,)", "(0,)", "(-1, 2)", "(2**40, 2)", "(1.5,)", "('a',)", "3"),
    "path": ("folder / 'full.onnx'", "str(folder / 'full.onnx')", "folder", "folder / 'none'", "'\\0'", "b'x'", "'a' * 9999", "''"),
    "bank": ("folder / 'plain'", "str(folder / 'plain')", "folder", "'\\0'", "b'x'", "1", "'a' * 9999"),
    "mask": ("m", "m.astype('f4')", "m[:-1]", "m.tolist()", "m[None]", "~m", "None", "'m'"),
    "any": ("None", "{}", "[]"),
    "target": ("'cpu'", "'portable'"),
    "outputs": ("None", "('logits',)", "('logits', 'task')", "['logits']", "('none',)", "'logits'", "(1,)"),
    "rule": ("None", "'hebb'", "'storkey'"),
    "names": (f"['{TASKS[0]}']", "()", f"('{TASKS[1]}', '{TASKS[0]}')", "[1]", "1", "None"),
    "labels": ("()", "('a', 'b')", "('\\x1b[31m',)", "('\\ud800',)", "(1,)", "'ab'", "('a',) * 9"),
    "masks": ("{n: b for n, b in bits.items()}", "{}", "bits | {'more': m}", "{1: m}", "None", "{n: b.astype('f4') for n, b in bits.items()}"),
    "training": ("None", "{}", "{'accuracy': .5}", "{'recipe': 5}", "{'a': np.nan}", "{1: object()}", "[]", "'a'"),
    "stream": ("'permuted'", "'split'", "'mixed'", "'rotated'"),
    "device": ("'cpu'", "'cuda'"),
    "model": ("'mlp-4'", "'mlp-'", "'cnn'", "'bnnet-3'", "'mlp-0'", "'mlp--1'", "'mlp-a'", "'mlp-1e9'"),
}  # fmt: skip
_CHECKED = frozenset("task count score name target stream device".split())
"""Kinds for which `_NEVER` is wrong."""
_CALLS = (
    *("model.predict({x}, {task})", "model.predict({x}, {tasks})", "model.logits({x}, {task})"),
    "model.predict({x}, per_image={flag}, method={method})",
    "model.predict({x}, task={task}, per_image={flag}, method={method})",
    *("model.infer_task({x}, method={method})", "model.infer_tasks({x}, method={method})"),
    *("model.superpose({x}, {tasks}, {alphas})", "model.warmup({tasks}, batch_size={count})"),
    *("model.task({task})", "known.predict({x}, {task})", "known.predict({x})"),
    "supsup.Inference(method={method}, score={score}, candidates={count})",
    "supsup.Inference(method='gradient', steps={count}, step_size={number})",
    "supsup.load({path}, cache_bytes={count}, threads={count})",
    *("supsup.load({path}, device={device})", "supsup.load(folder / 'full.onnx', providers={names})"),
    "supsup.load(folder / 'known.onnx', sess_options={any})",
    "supsup.load_hopfield({path}, threads={count})",
    "recovering.recover([{x}] * 2, steps={count}, settings=supsup.Recovery(step_size={number}))",
    "recovering.recover({any}, steps={count})",
    "supsup.Recovery(momentum={number}, look_every={count}, start={mask})",
    "recovering.step({x}, {mask}, {number}, {number})",
    *("recovering.logits({x}, {mask})", "recovering.settle({mask})", "recovering.find({mask})"),
    *("supsup.MaskBank.open({bank})", "bank.task({task})", "bank.index({task})", "{name} in bank"),
    *("bank.rename({task}, {name})", "bank.remove({name})", "bank.replace({any})", "bank.add({any})"),
    "bank.add(supsup.make_task({name}, {masks}, labels={labels}, training={training}))",
    "bank.add(supsup.TaskMasks(name={name}, masks={masks}, labels={labels}))",
    "supsup.make_task({name}, {masks}, state={any})",
    "supsup.MaskedParameter.signed_kaiming({name}, {shape})",
    "supsup.MaskedParameter(name={name}, shape={shape}, constant={number})",
    "supsup.StateTensor(name={name}, shape={shape})",
    "supsup.Network(weight_seed={count}, input_shape={shape}, outputs={count}, real_outputs={count}, parameters=bank.network.parameters, state={any})",
    "supsup.MaskBank.create(folder / {name}, bank.network, forward={any})",
    "export(bank, folder / {name}, request=Request(target={target}, outputs={outputs}))",
    "export(bank, {path}, force={flag}, sample={x}, request=Request(scoring='screened'))",
    "export_task(bank, {task}, folder / {name}, bits={count})",
    "export_recovery(units, folder / {name}, stream={flag})",
    *("encode_into(units, {names}, rule={rule})", "delete_masks(units, {names})"),
    *("read_store(units).encode({any})", "read_store(units).settle({any})"),
    "data.make_stream({stream}, digits, num_tasks={count}, seed={count})",
    "data.make_stream('split', digits, num_tasks={count}, classes_per_task={count})",
    "data.make_stream('rotated', digits, num_tasks={count}, degrees={number})",
    *("data.make_stream('permuted', digits, num_tasks=2).task({count})", "data.load_dataset({path})"),
    "data.load_dataset(folder / 'data.npz', mean={number}, std={number})",
    "evaluation.evaluate(model, stream, per_task={count}, batch_size={count}, method={method})",
    "evaluation.measure(model, evaluation.choose_samples(model, stream, per_task={count}), how={method}, coverage={number})",
    *("evaluation.calibrate({alphas}, {number})", "evaluation.auroc({alphas}, {alphas})"),
    "Recipe(steps={count}, batch_size={count}, learning_rate={number}, seed={count})",
    *("Recipe(optimizer={rule}, schedule={rule})", "Rule(kind='top-k', density={number})"),
    "NnsSettings(threshold={number}, period={count}, max_tasks={count})",
    "make_model({model}, input_shape={shape}, outputs={count}, weight_seed={count})",
)  # fmt: skip
_HOLE = re.compile(r"\{([a-z]+)\}")


class Arguments(Target):
    """One call with one or two odd values."""

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        # one of each: a call changes none of them but the banks, which each case copies
        self._names: dict[str, Any] = {
            **{"np": np, "Path": Path, "supsup": supsup, "data": data, "evaluation": evaluation},
            **{"export": export, "export_task": export_task, "export_recovery": export_recovery},
            **{"Request": Request, "Recipe": Recipe, "Rule": Rule, "NnsSettings": NnsSettings},
            **{"encode_into": encode_into, "delete_masks": delete_masks, "read_store": read_store},
            "make_model": make_model,
            "model": supsup.load(seeds / "full.onnx"),
            "known": supsup.load(seeds / "known.onnx"),
            "recovering": supsup.load_hopfield(seeds / "recover.onnx"),
            "x": np.linspace(-1, 1, 4 * FEATURES, dtype=np.float32).reshape(4, FEATURES),
            "digits": data.load_dataset(seeds / "data.npz"),
        }
        self._names["stream"] = data.make_stream("permuted", self._names["digits"], num_tasks=2)
        self._names["m"] = np.arange(self._names["recovering"].info.network.num_masked) % 3 == 0
        parameters = self._names["model"].info.network.parameters
        self._names["bits"] = {p.name: np.ones(p.shape, np.bool_) for p in parameters}

    def make(self, rng: Random) -> Case:
        call = rng.choice(_CALLS)
        kinds = _HOLE.findall(call)
        odd = set(rng.choices(range(len(kinds)), k=rng.choice((0, 1, 1, 1, 2)))) if kinds else set()
        values, never = [], ""
        for index, kind in enumerate(kinds):
            value = rng.choice(_GOOD[kind])
            if index in odd:
                value = rng.choice(_NEVER if rng.random() < 0.6 else _SOMETIMES)
                if kind in _CHECKED and value in _NEVER and not _is_allowed(kind, value):
                    never = f"{kind}={value}"
            values.append(value)
        left = iter(values)
        text = _HOLE.sub(lambda _: next(left), call)
        return Case(files={}, words={"call": text, "of": call, "never": never})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        for name in ("plain", "units"):
            shutil.copytree(self.seeds / name, folder / name)
        for name in ("full.onnx", "known.onnx", "recover.onnx", "data.npz"):
            (folder / name).symlink_to(self.seeds / name)
        banks = {name: supsup.MaskBank.open(folder / name) for name in ("plain", "units")}
        names = {**self._names, "folder": folder, "bank": banks["plain"], "units": banks["units"]}
        reach("header")
        reach("load")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eval(case.words["call"], names)  # noqa: S307 - written above
        reach("call")
        if case.words["never"]:
            raise Wrong(f"{case.words['of']} accepts {case.words['never']}")

    def memory(self, case: Case) -> int:
        return 512 << 20


def _is_allowed(kind: str, value: str) -> bool:
    """What `_NEVER` has that a kind takes: a tuple is a shape, a name may look like a method."""
    return kind == "count" and value == "10**30"
