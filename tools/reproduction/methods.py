"""Every way to infer the task, on streams learned with and without negatives."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
from tools.reproduction.experiment import Experiment, Run
from tools.reproduction.learning import Bank, stream_of, tiny_bank
from tools.reproduction.plot import plot_rows
from tools.reproduction.store import Line
from tools.reproduction.tables import Table, compact, once

from supsup_export.exporter import export
from supsup_runtime.arrays import Images
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import Tasks
from supsup_runtime.evaluation.calibration import auroc, choose_samples, measure
from supsup_runtime.evaluation.tracking import evaluate_tracker
from supsup_runtime.model.inference import SCORES, Inference
from supsup_runtime.model.model import Model, load

STAY, BATCH = 30, 16
"""Frames of a run for the tracker; images of a batch."""
CALIBRATED, COVERAGE = 100, 0.95
"""Images of each task, at most, and coverage, of the calibration."""
_BY_SCORE = {s: Inference(method="exhaustive", score=s, adjusted=False) for s in SCORES}
WAYS: dict[str, tuple[Inference | None, int]] = {
    "one-shot": (Inference(method="one-shot"), 1),
    "verified": (Inference(method="verified", adjusted=False), 1),
    **{score: (how, 1) for score, how in _BY_SCORE.items()},
    "calibrated": (None, 1),
    **{f"{score}, {BATCH}": (_BY_SCORE[score], BATCH) for score in SCORES[:2]},
    f"calibrated, {BATCH}": (None, BATCH),
}
"""Method (None: as calibrated) and images of a call; a score is of exhaustive inference."""
TRACKED = {"tracker": _BY_SCORE["log-odds"], "tracker, calibrated": None}
AUROC = ("tasks left out, AUROC", "never seen, AUROC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Tasks learned with some negatives.

    Attributes:
        label: ``stream: negatives``.
        banks: Keys in `Experiment.banks`, of seeds.
        images: Test images per task; at least `STAY`.
        unseen: Also measure how images of the task after the last, in no bank, are told apart.
        at_least: Bars in percent by way, or by a name in `TRACKED` or `AUROC`.
        loses: Points that may be lost with the task known to the first case of the same tasks.
    """

    label: str
    banks: tuple[str, ...]
    images: int = 120
    unseen: bool = False
    at_least: tuple[tuple[str, float], ...] = ()
    loses: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Methods(Experiment):
    """Accuracy and time of all `WAYS`, the tracker, and AUROC.

    Attributes:
        cases: Rows of the tables.
    """

    cases: tuple[Case, ...]
    document: ClassVar[str] = "guide-methods.md"

    def setting(self) -> dict[str, Any]:
        """Return banks and cases, without bars."""
        told = ("at_least", "loses")
        cases = [{k: v for k, v in asdict(c).items() if k not in told} for c in self.cases]
        return {"banks": {key: asdict(bank) for key, bank in self.banks.items()}, "cases": cases}

    def tiny(self) -> Methods:
        """Use few tasks and images, and one seed."""
        small: dict[str, Any] = {"images": STAY, "unseen": False, "at_least": ()}
        cases = tuple(replace(case, banks=case.banks[:1], **small) for case in self.cases)
        banks = {case.banks[0]: tiny_bank(self.banks[case.banks[0]]) for case in cases}
        return replace(self, banks=banks, cases=cases)

    def measure(self, run: Run) -> list[Line]:
        """Return a row per case, with means over seeds; times are those of the first."""
        rows = []
        for case in self.cases:
            lines = [
                run.store.measured(key, key, partial(self._bank, run, case, key))
                for key in case.banks
            ]
            names = [name for name in lines[0] if name not in {"key", "task"}]
            seeds = {name: [line[name] for line in lines] for name in names}
            means = {n: v[0] if n.endswith(" ms") else fmean(v) for n, v in seeds.items()}
            rows.append({"label": case.label, "means": means, "seeds": seeds})
        return rows

    def _bank(self, run: Run, case: Case, key: str) -> Line:
        wanted = self.banks[key]
        bank, stream = run.bank(key, wanted), stream_of(wanted, run.data)
        sys.stderr.write(f"{case.label}\n")
        model, found = _calibrated(bank, stream, case.images, run, key)
        found |= measured(model, stream, case.images)
        if case.unseen:
            after = stream_of(replace(wanted, tasks=wanted.tasks + 1), run.data).task(wanted.tasks)
            known = np.concatenate(_samples(model, stream, case.images))
            scores = [_best(model, x) for x in (known, after.test_x[: len(known)])]
            found[AUROC[1]] = auroc(*scores)
        return found

    def tables(self, rows: Sequence[Line]) -> list[Table]:
        """Return two tables: of single images, and of more."""
        single = [name for name, (_, batch) in WAYS.items() if batch == 1]
        more = [name for name in WAYS if name not in single] + [*TRACKED, *AUROC]
        seeds = len(self.cases[0].banks)
        counted = f"{seeds} seeds, times of one" if seeds > 1 else "1 seed"
        title = f"Tasks inferred right, % (ms per call), {counted}"
        return [
            _table(f"{title}, single images", rows, ["known", *single]),
            _table(f"{title}, batches of {BATCH} and streams of frames", rows, more),
        ]

    def notes(self, rows: Sequence[Line]) -> list[str]:
        """Add the bars, and what negatives cost with the task known."""
        told: list[str] = []
        plain: dict[str, float] = {}
        for row, case in zip(rows, self.cases, strict=True):
            means = {name: 100 * share for name, share in row["means"].items()}
            loss = plain.setdefault(case.label.partition(": ")[0], means["known"]) - means["known"]
            asked = [
                f"{name} at least {least:g} ({_met(means[name] >= least)})"
                for name, least in case.at_least
            ]
            if case.loses is not None:
                met = _met(loss <= case.loses)
                asked.append(f"known at most {case.loses} lower, {loss:+.2f} ({met})")
            if asked:
                told.append(f"{case.label}: {', '.join(asked)}")
        bars = [f"Bars: {'; '.join(told)}."] if told else []
        return [*Experiment.notes(self, rows), *bars]

    def plot(self, rows: Sequence[Line], file: Path) -> str:
        """Draw the task known, and inferred as calibrated."""
        shown = [
            {
                "label": row["label"],
                **{m: row["means"][n] for m, n in _PLOTTED.items()},
                "seeds": {m: row["seeds"][n] for m, n in _PLOTTED.items()},
            }
            for row in rows
        ]
        return plot_rows(self.title, "rows", shown, file)


_PLOTTED = {"known": "known", "inferred": "calibrated"}


def _calibrated(
    bank: MaskBank, stream: Tasks, images: int, run: Run, key: str
) -> tuple[Model, Line]:
    """Return a model with a calibration on test images beyond `images`, and what this measured."""
    folder = run.folder / "calibrated" / key
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bank.path, folder / "bank")
    own = MaskBank.open(folder / "bank")
    export(own, folder / "plain.onnx")
    plain = load(folder / "plain.onnx", threads=run.call_threads)
    sizes = [len(stream.task(k, train=False).test_x) for k in range(stream.num_tasks)]
    left = max(2, min(CALIBRATED, min(sizes) - images))
    found = measure(plain, choose_samples(plain, stream, per_task=left), coverage=COVERAGE)
    own.set_calibration(found.calibration)
    export(own, folder / "model.onnx")
    model = load(folder / "model.onnx", threads=run.call_threads)
    left_out = found.calibration.auroc
    return model, {} if left_out is None else {AUROC[0]: left_out}


def measured(model: Model, stream: Tasks, images: int) -> Line:
    """Return fractions by way, and times in milliseconds under ``NAME ms``."""
    data = [stream.task(place, train=False) for place in range(stream.num_tasks)]
    known = [
        np.mean(model.predict(each.test_x, each.name).label_indices == each.test_y) for each in data
    ]
    found: Line = {"known": float(np.mean(known))}
    samples = _samples(model, stream, images)
    for name, (how, batch) in WAYS.items():
        found[name], found[f"{name} ms"] = _inferred(model, samples, how, batch)
    for name, how in TRACKED.items():
        tracked = evaluate_tracker(model, stream, stay=STAY, per_task=images, method=how)
        found[name], found[f"{name} ms"] = tracked["inferred"], tracked["ms"]
    return found


def _samples(model: Model, stream: Tasks, images: int) -> list[Images]:
    """Return test images of each task in the model's order, from the shuffle's beginning."""
    samples = []
    for task in model.tasks:
        x = stream.task(stream.task_names.index(task.name), train=False).test_x
        samples.append(x[np.random.RandomState(task.index).permutation(len(x))[:images]])
    return samples


def _inferred(
    model: Model, samples: Sequence[Images], how: Inference | None, batch: int
) -> tuple[float, float]:
    """Return the share of batches whose task is inferred, mean over tasks, and the median time."""
    shares, times = [], []
    for index, x in enumerate(samples):
        right = []
        for at in range(0, len(x) - len(x) % batch or len(x), batch):
            start = perf_counter()
            found = model.infer_task(x[at : at + batch], method=how)
            times.append(1e3 * (perf_counter() - start))
            right.append(found.task.index == index)
        shares.append(fmean(right))
    return fmean(shares), median(times)


def _best(model: Model, x: Images) -> list[float]:
    return [float(found.scores.max()) for found in model.infer_tasks(x)]


def _met(met: bool) -> str:
    return "met" if met else "**not met**"


def _table(title: str, rows: Sequence[Line], names: Sequence[str]) -> Table:
    labels = [row["label"].partition(": ") for row in rows]
    columns = {"tasks": once([stream for stream, _, _ in labels])}
    columns["negatives"] = [negatives for _, _, negatives in labels]
    return compact(title, columns | {n: [_cell(row["means"], n) for row in rows] for n in names})


def _cell(means: Mapping[str, float], name: str) -> str:
    if name not in means:
        return "-"
    if name in AUROC:
        return f"{means[name]:.3f}"
    time = f" ({means[f'{name} ms']:.1f})" if f"{name} ms" in means else ""
    return f"{100 * means[name]:.1f}{time}"


SEEDS = (0, 1, 2)
_SPLIT = Bank(stream="split", tasks=5, model="lenet-300-100", outputs=100)
_ADAM: tuple[tuple[str, str | float], ...] = (("optimizer", "adam"), ("lr-schedule", "cosine"))
_CIFAR = replace(
    _SPLIT,
    model="vgg-32-48-64-64",
    source="cifar10",
    steps=300,
    lr=3e-3,
    options=(*_ADAM, ("batch-size", 96)),
)
_OWN = replace(
    _CIFAR,
    stream="own",
    tasks=12,
    model="conv",
    source="pictures",
    steps=200,
    options=(*_ADAM, ("size", 32), ("mode", "rgb")),
)
_ROTATED = replace(_SPLIT, stream="rotated", tasks=36)
_Bars = dict[str, float]


def _cases(
    label: str,
    bank: Bank,
    negatives: Mapping[str, _Bars],
    *,
    loses: float | None = None,
    **more: Any,
) -> list[tuple[Case, dict[str, Bank]]]:
    """Return a case for each of some negatives, with its bars and banks of all `SEEDS`."""
    made = []
    for kind, bars in negatives.items():
        banks = {
            re.sub(r"\W+", "-", f"{label} {kind} {seed}").lower(): replace(
                bank,
                seed=seed,
                options=(*bank.options, ("negatives", kind), ("weight-seed", seed)),
            )
            for seed in SEEDS
        }
        lost = None if kind == "none" else loses
        about: dict[str, Any] = {
            "banks": tuple(banks),
            "at_least": tuple(bars.items()),
            "loses": lost,
        }
        made.append((Case(label=f"{label}: {kind}", **about, **more), banks))
    return made


_CALIBRATED, _TOGETHER = "calibrated", f"calibrated, {BATCH}"
_ALL = (
    *_cases(
        "SplitMNIST",
        _SPLIT,
        {
            "none": {},
            "turned,shuffled": {},
            "memory": {_CALIBRATED: 88},
            "others": {_CALIBRATED: 95},
        },
        images=500,
        loses=0.5,
    ),
    *_cases(
        "SplitMNIST, 8 and 9 never seen",
        replace(_SPLIT, tasks=4, options=(("classes-per-task", 2),)),
        {"none": {}, "others": {AUROC[1]: 90}},
        images=500,
        unseen=True,
    ),
    *_cases(
        "SplitCIFAR10",
        _CIFAR,
        {
            "none": {},
            "memory": {_CALIBRATED: 48, "tracker, calibrated": 90},
            "others": {_CALIBRATED: 58},
        },
        images=120,
        loses=1.5,
    ),
    *_cases(
        "own pictures",
        _OWN,
        {
            "none": {},
            "turned,shuffled": {_CALIBRATED: 60},
            "memory": {_CALIBRATED: 68},
            "others": {AUROC[0]: 90},
        },
        images=60,
        loses=1.5,
    ),
    *_cases(
        "RotatedMNIST, 36 degrees",
        replace(_ROTATED, tasks=10, options=(("degrees", 36),)),
        {"none": {}, "others": {_TOGETHER: 95}},
        images=96,
        loses=0.5,
    ),
    *_cases(
        "RotatedMNIST, 10 degrees",
        _ROTATED,
        {"none": {}, "others": {_TOGETHER: 90}},
        images=48,
        loses=0.5,
    ),
    *_cases(
        "PermutedMNIST",
        replace(_ROTATED, stream="permuted", tasks=10),
        {"none": {"verified": 99.99}},
        images=500,
    ),
    *_cases(
        "own pictures, vgg",
        replace(_OWN, model="vgg-32-48-64-64", steps=400),
        {"others": {_CALIBRATED: 87, AUROC[0]: 90}},
        images=60,
    ),
)
METHODS = Methods(
    name="methods",
    title="Ways to infer the task, by the negatives that masks were learned with",
    banks={key: bank for _, banks in _ALL for key, bank in banks.items()},
    cases=tuple(case for case, _ in _ALL),
    seconds=2 * 3600,
)
