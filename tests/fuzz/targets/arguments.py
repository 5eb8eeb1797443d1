"""Python arguments: calls of the public names with odd values; a case is one expression.

A value that no rule allows, such as a fraction for a task, must be refused: an answer is wrong.
"""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import supsup_export
import supsup_runtime as supsup
import supsup_train
from fuzz.case import Case
from fuzz.seeds import FEATURES, TASKS
from fuzz.target import Reach, Target, Wrong
from supsup_runtime import data, evaluation
from supsup_runtime.hopfield import file as hopfield
from supsup_train.nns.learner import NnsSettings

_NEVER = (
    *("True", "1.5", "{}", "object()", "b'x'", "[]", "()", "''", "'\\ud800'", "-1", "np.nan"),
    *("...", "np.array([0, 1])", "Path"),
)
"""No task, name, count or choice."""
_CHECKED = frozenset(("task", "count", "score", "name", "target", "stream", "device"))
_SOMETIMES = (
    *("None", "0", "1", "10**30", "2**63", "0.0", "1e308", "'a' * 10**5", "np.int64(1)"),
    *("np.float32(.5)", "range(2)", "[[0]]", "1j", "len"),
)
_USUAL = {
    line.partition(": ")[0]: tuple(line.partition(": ")[2].split(" | "))
    for line in f"""
new: folder / 'new' | str(folder / 'new') | folder / 'none' / 'new' | folder / 'plain' | ''
alphas: [.5, .5] | [1.0] | np.ones(2) | (1, 0) | [np.nan] | [1e39] | ['1'] | [[1], [1, 2]]
any: None | {{}} | []
bank: folder / 'plain' | str(folder / 'plain') | folder | '\\0' | b'x' | 1 | 'a' * 9999
count: 1 | 2 | np.int64(3)
device: 'cpu' | 'cuda'
flag: False | True
labels: () | ('a', 'b') | ('\\x1b[31m',) | ('\\ud800',) | (1,) | 'ab' | ('a',) * 9
mask: m | m.astype('f4') | m[:-1] | m.tolist() | m[None] | ~m | None | 'm'
masks: bits | {{}} | dict(bits, more=m) | {{1: m}} | None | {{n: m for n in bits}} | 5
method: None | 'one-shot' | 'verified' | 'binary' | supsup.Inference(method='gradient')
model: 'mlp-4' | 'mlp-' | 'cnn' | 'bnnet-3' | 'mlp-0' | 'mlp--1' | 'mlp-a' | 'mlp-1e9'
name: '{TASKS[0]}' | 'new' | 'a-b'
names: ['{TASKS[0]}'] | () | ('{TASKS[1]}', '{TASKS[0]}') | [1] | 1 | None
number: 0.5 | 1 | np.float32(.25)
outputs: None | ('logits',) | ('logits', 'task') | ['logits'] | ('none',) | 'logits' | (1,)
path: model_file | str(model_file) | folder | folder / 'none' | '\\0' | b'x' | 'a' * 9999 | ''
rule: None | 'hebb' | 'storkey'
score: None | 'entropy' | 'log-odds'
shape: (2, 3) | [4] | (5,) | (0,) | (-1, 2) | (2**40, 2) | (1.5,) | ('a',) | 3
stream: 'permuted' | 'split' | 'mixed' | 'rotated'
target: 'cpu' | 'portable'
task: '{TASKS[0]}' | 0 | 1 | np.int64(0)
tasks: [0, 1] | (0,) | ['{TASKS[1]}'] | [0] * 4 | np.arange(2)
training: None | {{}} | {{'accuracy': .5}} | {{'recipe': 5}} | {{'a': np.nan}} | {{1: len}} | []
x: x | x | x | x[:1] | x[:0] | x[0] | x.T | x.T.copy().T | x[::-1] | x[:, ::-1] | x.astype('f8')
""".strip().splitlines()
}
"""By kind, what is right, and first what mostly is."""
_USUAL["x"] += (
    *("x.astype('f2')", "x.astype('>f4')", "x.astype(object)", "x.astype('U9')", "x.tolist()"),
    *("x * np.float32(1e38)", "x + np.nan", "x[:, :0]", "x[None]", "np.ma.array(x, mask=x > 0)"),
    *("np.matrix(x)", "memoryview(x)", "x.view('i4')", "np.broadcast_to(x[:1], x.shape)"),
    *("x.view('u1')", "[x.view('u1')] * 2", "x.view('u1')[:0]"),
    *("np.zeros((0, 0), 'f4')", "np.float32(1)", "x.view(np.recarray)", "None", "'x'"),
)
_CALLS = """
model.predict({x}, {task})
model.predict({x}, {tasks})
model.predict({x}, per_image={flag}, method={method})
model.predict({x}, task={task}, per_image={flag}, method={method})
model.logits({x}, {task})
model.infer_task({x}, method={method})
model.infer_tasks({x}, method={method})
model.superpose({x}, {tasks}, {alphas})
model.warmup({tasks}, batch_size={count})
model.task({task})
known.predict({x}, {task})
known.predict({x})
supsup.Inference(method={method}, score={score}, candidates={count})
supsup.Inference(method='gradient', steps={count}, step_size={number})
supsup.load({path}, cache_bytes={count}, threads={count})
supsup.load({path}, device={device})
supsup.load(model_file, providers={names})
supsup.load(model_file, sess_options={any})
supsup.load_hopfield({path}, threads={count})
recovering.recover([{x}] * 2, steps={count}, settings=supsup.Recovery(step_size={number}))
recovering.recover({any}, steps={count})
supsup.Recovery(momentum={number}, look_every={count}, start={mask})
recovering.step({x}, {mask}, {number}, {number})
recovering.logits({x}, {mask})
recovering.settle({mask})
recovering.find({mask})
supsup.MaskBank.open({bank})
supsup.MaskBank.create({new}, bank.network, forward={any})
bank.task({task})
bank.index({task})
bank.rename({name}, {name})
bank.remove({name})
bank.replace({any})
bank.add({any})
bank.add(supsup.make_task({name}, {masks}, labels={labels}, training={training}))
bank.add(supsup.TaskMasks(name={name}, masks={masks}, labels={labels}))
supsup.make_task('new', {masks}, state={any})
supsup.MaskedParameter.signed_kaiming({name}, {shape})
supsup.MaskedParameter(name={name}, shape={shape}, constant={number})
supsup.StateTensor(name={name}, shape={shape})
replace(bank.network, weight_seed={count}, input_shape={shape})
replace(bank.network, outputs={count}, real_outputs={count}, state={any})
export.export(bank, {new}, request=export.Request(target={target}, outputs={outputs}))
export.export(bank, {path}, force={flag}, sample={x}, request=export.Request(scoring='screened'))
export.export_task(bank, {task}, {new}, bits={count})
export.export_recovery(units, {new}, stream={flag})
hopfield.encode_into(units, {names}, rule={rule})
hopfield.delete_masks(units, {names})
hopfield.read_store(units).encode({any})
hopfield.read_store(units).settle({any})
data.load_dataset({path})
data.load_dataset(folder / 'data.npz', mean={number}, std={number})
data.make_stream({stream}, digits, num_tasks={count}, seed={count})
data.make_stream('split', digits, num_tasks={count}, classes_per_task={count})
data.make_stream('rotated', digits, num_tasks={count}, degrees={number})
data.make_stream('permuted', digits, num_tasks=4).task({count})
evaluation.evaluate(model, stream, per_task={count}, batch_size={count}, method={method})
evaluation.evaluate_tracker(model, stream, stay={count}, switch={number})
model.tracker({number}, method={method}).update({x})
evaluation.choose_samples(model, stream, per_task={count})
evaluation.measure(model, samples, how={method}, coverage={number})
evaluation.calibrate({alphas}, {number})
evaluation.auroc({alphas}, {alphas})
train.Recipe(steps={count}, batch_size={count}, learning_rate={number}, seed=-1)
train.Recipe(optimizer={rule}, schedule={rule})
train.Recipe(steps={count}, warmup={count}, augment={rule})
train.Rule(kind='top-k', density={number})
train.make_model({model}, input_shape={shape}, outputs={count}, weight_seed={count})
NnsSettings(threshold={number}, period={count}, max_tasks={count})
""".strip().splitlines()
_HOLE = re.compile(r"\{([a-z]+)\}")


class Arguments(Target):
    """One call with one or two odd values."""

    room = 512 << 20

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        # no call changes these; the banks are copied for each case
        self._names = _names(seeds)

    def make(self, rng: Random) -> Case:
        call = rng.choice(_CALLS)
        kinds = _HOLE.findall(call)
        odd = rng.choices(range(len(kinds)), k=rng.choice((0, 0, 1, 1, 2))) if kinds else []
        values, never = [], ""
        for index, kind in enumerate(kinds):
            value = _USUAL[kind][0] if rng.random() < 0.6 else rng.choice(_USUAL[kind])
            if index in odd:
                value = rng.choice(_NEVER if rng.random() < 0.6 else _SOMETIMES)
                if kind in _CHECKED and value in _NEVER:
                    never = f"{kind}={value}"
            values.append(value)
        left = iter(values)
        text = _HOLE.sub(lambda _: next(left), call)
        return Case(files={}, words={"call": text, "of": call, "never": never})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        names = dict(self._names, folder=folder, model_file=folder / "full.onnx")
        for name in ("plain", "units"):
            shutil.copytree(self.seeds / name, folder / name)
        for name in ("full.onnx", "data.npz"):
            (folder / name).symlink_to(self.seeds / name)
        names["bank"] = supsup.MaskBank.open(folder / "plain")
        names["units"] = supsup.MaskBank.open(folder / "units")
        reach("header")
        reach("load")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            eval(case.words["call"], names)  # noqa: S307 - one of those above
        reach("call")
        if case.words["never"]:
            raise Wrong(f"{case.words['of']} accepts {case.words['never']}")


def _names(seeds: Path) -> dict[str, Any]:
    """What the expressions speak of."""
    digits = data.load_dataset(seeds / "data.npz")
    model = supsup.load(seeds / "full.onnx")
    recovering = supsup.load_hopfield(seeds / "recover.onnx")
    stream = data.make_stream("permuted", digits, num_tasks=2)
    return {
        "Path": Path,
        "NnsSettings": NnsSettings,
        "bits": {p.name: np.ones(p.shape, np.bool_) for p in model.info.network.parameters},
        "data": data,
        "digits": digits,
        "evaluation": evaluation,
        "export": supsup_export,
        "hopfield": hopfield,
        "known": supsup.load(seeds / "known.onnx"),
        "m": np.arange(recovering.info.network.num_masked) % 3 == 0,
        "model": model,
        "np": np,
        "recovering": recovering,
        "replace": replace,
        "samples": evaluation.choose_samples(model, stream, per_task=4),
        "stream": stream,
        "supsup": supsup,
        "train": supsup_train,
        "x": np.linspace(-1, 1, 4 * FEATURES, dtype=np.float32).reshape(4, FEATURES),
    }
