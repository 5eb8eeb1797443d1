"""A stream of tasks through a baseline, into a bank whose tasks are state alone.

Where tasks share nothing that a later one changes, each is written once it is learned, and a run
goes on where it stopped: `dense`, both kinds of heads, both of BatchE. The weights that the first
task learned for all lie beside the bank's own files in ``shared.safetensors``, as the bank has them
only within its programs. PSP and the sequence change all weights with every task, so their bank is
written after the last, whole: under another name first. They do not resume.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import safetensors
import safetensors.numpy
import torch

from supsup_runtime.bank.bank import MaskBank, is_blank
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.data.streams import Stream
from supsup_runtime.errors import InputError, OutputExistsError
from supsup_runtime.files import read_file, write_whole
from supsup_train.baselines.base import Baseline, State, accuracy
from supsup_train.baselines.batche import BatchE, BatchERandom
from supsup_train.baselines.dense import Dense, Sequence
from supsup_train.baselines.heads import Heads, HeadsRandom
from supsup_train.baselines.psp import Psp
from supsup_train.baselines.recipe import BaselineMethod, BaselineRecipe
from supsup_train.masks.train_task import Progress
from supsup_train.networks.create_bank import check_module, create_bank, fixed_copy
from supsup_train.resume import check_resumed

__all__ = ["Run", "make_baseline", "train_stream"]

SHARED = "shared.safetensors"
MAX_SHARED_BYTES = 1 << 30
Report = Callable[[dict[str, Any]], None]
_CLASSES: dict[BaselineMethod, Callable[[BaselineRecipe, list[int]], Baseline]] = {
    "batche": BatchE,
    "batche-random": BatchERandom,
    "psp": Psp,
    "heads": Heads,
    "heads-random": HeadsRandom,
    "dense": Dense,
    "sequence": Sequence,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """Where a stream goes, and who is told.

    Attributes:
        path: Folder of the bank; made if missing.
        origin: What the tasks are learned from, as JSON: it goes into every task's record.
        report: Called with a record of each task: ``task``, ``index``, ``accuracy`` right after it
            was learned, ``seconds``; with ``seen``, the mean accuracy over all tasks so far, from a
            method that learns in sequence; or with ``kept`` alone for a task of an earlier run.
        progress: Makes the callback of a task's steps.
        every: After how many tasks ``seen`` is taken, and after the last; it costs a pass over the
            test images of all tasks so far.
    """

    path: Path
    origin: Mapping[str, Any]
    report: Report
    progress: Callable[[str], Progress | None]
    every: int = 1


def make_baseline(recipe: BaselineRecipe, sizes: list[int], *, matrices: bool = False) -> Baseline:
    """A baseline over fully connected layers.

    Args:
        recipe: Names the method.
        sizes: Of the layers, the input's first.
        matrices: BatchE alone: tasks are rank-one matrices in the bank, so that one-shot inference
            superposes those.

    Raises:
        InputError: If `matrices` is asked of another method.
    """
    if not matrices:
        return _CLASSES[recipe.method](recipe, sizes)
    if recipe.method not in {"batche", "batche-random"}:
        raise InputError(
            f"matrices: is for batche and batche-random, got {recipe.method}; leave it out"
        )
    made = BatchE if recipe.method == "batche" else BatchERandom
    return made(recipe, sizes, matrices=True)


def train_stream(baseline: Baseline, stream: Stream, run: Run) -> MaskBank:
    """Learn all tasks of a stream that the bank does not have.

    Raises:
        InputError: If the bank was made otherwise, the method cannot go on with it, or the loss
            stops being finite.
        OutputExistsError: If the folder has anything in it and is no bank.
    """
    folder = run.path
    there = (folder / "bank.json").exists()
    if not there and not _is_free(folder, baseline):
        raise OutputExistsError(f"{folder}: exists, is not empty and is no bank; choose another")
    if not baseline.in_sequence:
        return _one_by_one(baseline, stream, run, _opened(baseline, stream, run) if there else None)
    if there:
        raise InputError(
            f"{folder}: {baseline.recipe.method} changes the weights of all tasks with every new "
            "one, so it cannot go on with a bank; choose another --bank"
        )
    return _in_sequence(baseline, stream, run)


def _is_free(folder: Path, baseline: Baseline) -> bool:
    """Whether a bank can be made there; one that comes whole replaces nothing but emptiness."""
    if not folder.exists():
        return True
    return is_blank(folder) and not (baseline.in_sequence and any(folder.iterdir()))


def _one_by_one(baseline: Baseline, stream: Stream, run: Run, bank: MaskBank | None) -> MaskBank:
    for index, name in enumerate(stream.task_names):
        if bank is not None and name in bank:
            run.report({"index": index, "kept": True, "task": name})
            continue
        start = time.perf_counter()
        data = stream.task(index)
        state = baseline.learn(data, first=index == 0, progress=run.progress(name))
        if bank is None:
            bank = _created(baseline, stream, run.path)
        if index == 0:
            _save_shared(baseline, bank)
        found = accuracy(baseline.module, data)
        bank.add(_task(baseline, stream, run, index, state, found))
        run.report(_line(index, name, found, start))
    assert bank is not None  # noqa: S101 - a stream has at least one task
    return bank


def _in_sequence(baseline: Baseline, stream: Stream, run: Run) -> MaskBank:
    final: list[float] = []
    for index, name in enumerate(stream.task_names):
        start = time.perf_counter()
        data = stream.task(index)
        baseline.learn(data, first=index == 0, progress=run.progress(name))
        line = _line(index, name, accuracy(baseline.module, data), start)
        last = index + 1 == stream.num_tasks
        if last or (index + 1) % run.every == 0:
            final = [_accuracy_now(baseline, stream, i) for i in range(index + 1)]
            line["seen"] = fmean(final)
        run.report(line)
    folder = run.path.resolve()
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    bank = _created(baseline, stream, part)

    def tasks() -> Iterator[TaskMasks]:
        for index, name in enumerate(stream.task_names):
            baseline.begin(name)
            yield _task(baseline, stream, run, index, baseline.own(), final[index])

    bank.extend(tasks())
    part.replace(folder)
    return MaskBank.open(run.path)


def _accuracy_now(baseline: Baseline, stream: Stream, index: int) -> float:
    baseline.begin(stream.task_names[index])
    return accuracy(baseline.module, stream.task(index, train=False))


def _line(index: int, name: str, found: float, start: float) -> dict[str, Any]:
    seconds = round(time.perf_counter() - start, 2)
    return {"accuracy": found, "index": index, "seconds": seconds, "task": name}


def _task(
    baseline: Baseline, stream: Stream, run: Run, index: int, state: State, found: float
) -> TaskMasks:
    return make_task(
        stream.task_names[index],
        {},
        state=baseline.to_bank(state),
        labels=stream.task_labels[index],
        training={
            "accuracy": found,
            "recipe": asdict(baseline.recipe),
            "stream_index": index,
            **run.origin,
        },
    )


def _created(baseline: Baseline, stream: Stream, path: Path) -> MaskBank:
    module, state = baseline.in_bank()
    return create_bank(
        path,
        module,
        input_shape=stream.input_shape,
        real_outputs=stream.real_outputs,
        masked=[],
        state=state,
    )


def _opened(baseline: Baseline, stream: Stream, run: Run) -> MaskBank:
    """The bank, once it is known that the run can go on with it; shared weights are restored."""
    bank = MaskBank.open(run.path)
    check_resumed(bank, stream.task_names, baseline.recipe, run.origin)
    if baseline.shares and len(bank):
        if stream.task_names[0] not in bank:
            raise InputError(
                f"{bank.path}: task {stream.task_names[0]!r} is missing, which learned the weights "
                "that all share; restore it, or give another --bank"
            )
        _load_shared(baseline, bank)
        check_module(fixed_copy(baseline.in_bank()[0]), bank.network)
    elif not baseline.shares:
        check_module(fixed_copy(baseline.in_bank()[0]), bank.network)
    return bank


def _save_shared(baseline: Baseline, bank: MaskBank) -> None:
    check_module(fixed_copy(baseline.in_bank()[0]), bank.network)
    if baseline.shares:
        weights = {name: value.detach().numpy() for name, value in baseline.shared().items()}
        write_whole(bank.path / SHARED, safetensors.numpy.save(weights))


def _load_shared(baseline: Baseline, bank: MaskBank) -> None:
    path = bank.path / SHARED
    if not path.exists():
        raise InputError(
            f"{path}: is missing, it has the weights that all tasks share; restore it, or give "
            "another --bank"
        )
    try:
        found = safetensors.numpy.load(read_file(path, max_bytes=MAX_SHARED_BYTES))
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}") from error
    wanted = {name: tuple(value.shape) for name, value in baseline.shared().items()}
    if {name: value.shape for name, value in found.items()} != wanted:
        raise InputError(
            f"{path}: must have the tensors {wanted}, got "
            f"{ {name: value.shape for name, value in found.items()} }; give the same options, or "
            "another --bank"
        )
    with torch.no_grad():
        for name, value in baseline.shared().items():
            value.copy_(torch.from_numpy(found[name]))
