"""Training of a baseline on a stream of tasks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import safetensors
import safetensors.numpy
import torch
from torch import nn

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.folder import is_blank
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError, OutputExistsError
from supsup_runtime.files import exclusive, read_file, system_errors, write_whole
from supsup_train.baselines.base import Baseline, State
from supsup_train.baselines.batche import BatchE
from supsup_train.baselines.heads import Heads
from supsup_train.baselines.layers import Parts
from supsup_train.baselines.psp import Psp
from supsup_train.baselines.recipe import BaselineRecipe
from supsup_train.masks.train_task import seen
from supsup_train.networks.create_bank import check_module, check_same, copy_for, create_bank
from supsup_train.resume import (
    Losses,
    Progress,
    Report,
    check_resumed,
    learn_missing,
    training,
    unheard,
)
from supsup_train.workers.work import Unit, Workers

SHARED = "shared.safetensors"  # shared weights, to resume; the bank has them in its programs only
MAX_SHARED_BYTES = 1 << 30


def make_baseline(
    recipe: BaselineRecipe,
    module: nn.Module,
    *,
    input_shape: tuple[int, ...],
    matrices: bool = False,
) -> Baseline:
    """Make a baseline of a network.

    Args:
        recipe: Method and training settings.
        module: The network, not changed. What masks would select is what the method learns; the
            rest is as in `create_bank`: state is per task, biases are zero, others are constants.
        input_shape: Shape of one input.
        matrices: For BatchE, store rank-one matrices instead of vectors, for one-shot inference as
            in the paper; one float per weight and task.

    Returns:
        The baseline, for `train_baseline`.

    Raises:
        InputError: If `matrices` is set for another method, or the method cannot change a layer of
            the module; BatchE and PSP need linear layers and convolutions.
        ProgramError: See `create_bank`.
    """
    in_pairs = recipe.method in {"batche", "batche-random"}
    if matrices and not in_pairs:
        raise InputError(
            f"matrices: is for batche and batche-random, got {recipe.method}; leave it out"
        )
    parts = Parts.of(module, input_shape)
    if in_pairs:
        return BatchE(recipe, parts, matrices=matrices)
    return Psp(recipe, parts) if recipe.method == "psp" else Heads(recipe, parts)


def train_baseline(
    baseline: Baseline,
    stream: Tasks,
    path: Path,
    *,
    report: Report = unheard,
    progress: Callable[[str], Progress | None] = unheard,
    every: int = 1,
    real_outputs: int | None = None,
    workers: Workers | None = None,
) -> MaskBank:
    """Learn the tasks of a stream that are missing in a bank.

    ``psp`` and ``sequence`` train shared weights with every task: their bank is written after the
    last one, and they cannot resume.

    Args:
        baseline: Baseline with the stream's inputs and outputs, from `make_baseline`.
        stream: The tasks.
        path: Folder of the bank, created if missing.
        report: Called with a JSON record per task, as in `train_stream` without ``density``. For
            ``psp`` and ``sequence`` it has ``seen``, the mean accuracy over all tasks so far.
        progress: Returns the progress callback of a task, given its name.
        every: Measure ``seen`` after every so many tasks and the last; each time takes a pass over
            the test images of all tasks so far.
        real_outputs: Of a new bank, and of one that is there; by default, classes of the tasks.
        workers: Where tasks are learned, after the first if it learns the shared weights; defaults
            to this process.

    Returns:
        The bank.

    Raises:
        InputError: If the bank is of another recipe, data or network, the method cannot resume, or
            a loss or learned tensor is not finite; other than with ``psp`` and ``sequence``,
            finished tasks stay in the bank.
        OutputExistsError: If the folder is not empty and has no bank.
    """
    real, outputs = real_outputs or stream.real_outputs, baseline.parts.outputs
    if outputs < real:
        raise InputError(
            f"--outputs: must be at least {real}, the classes of a task, got {outputs}"
        )
    workers = workers or Workers()
    if baseline.in_sequence and workers.elsewhere:
        raise InputError(
            f"--workers: {baseline.recipe.method} changes the weights of all tasks with every new "
            "one, so tasks are learned in order; leave it out"
        )
    run = _Run(baseline, stream, path, report, progress, real, workers)
    there, whole = (path / "bank.json").exists(), baseline.in_sequence
    # a bank written whole replaces only an empty or missing folder
    blank = not os.path.lexists(path) or (is_blank(path) and not (whole and any(path.iterdir())))
    if not (there or blank):
        raise OutputExistsError(f"{path}: exists, is not empty and is no bank; choose another")
    if not whole:
        return run.one_by_one()
    if there:
        raise InputError(
            f"{path}: {baseline.recipe.method} changes the weights of all tasks with every new "
            "one, so it cannot resume; choose another --bank"
        )
    return run.in_sequence(every)


_Made = tuple[State, dict[str, Any]]
"""State of a task, and its record."""


@dataclass(frozen=True, slots=True)
class _Learner:
    """Learns tasks of a stream by their indices; without progress, in any process."""

    baseline: Baseline
    stream: Tasks
    progress: Callable[[str], Progress | None]

    def __call__(self, unit: Unit) -> list[_Made]:
        return list(map(self._learned, unit))

    def _learned(self, index: int) -> _Made:
        data = self.stream.task(index)
        losses = Losses(self.progress(data.name))
        state = self.baseline.learn(data, first=index == 0, progress=losses)
        sample, test = seen(data)
        parts = {"accuracy": test, "train_accuracy": sample}
        classes = len(data.labels)
        told: dict[str, Any] = {
            key: self.baseline.accuracy(classes, images) for key, images in parts.items()
        }
        return state, {**told, "loss": losses.curve()}


@dataclass(frozen=True, slots=True)
class _Run:
    baseline: Baseline
    stream: Tasks
    path: Path
    report: Report
    progress: Callable[[str], Progress | None]
    real_outputs: int
    workers: Workers

    def one_by_one(self) -> MaskBank:
        _make_lockable(self.path, exist_ok=True)  # fail before the first task, if at all
        with training(self.path):
            return self.locked(self.opened() if (self.path / "bank.json").exists() else None)

    def locked(self, made: MaskBank | None) -> MaskBank:
        def keep(unit: Unit, found: Sequence[_Made]) -> list[dict[str, Any]]:
            nonlocal made
            (index,) = unit
            ((state, record),) = found
            if made is None:
                made = self.created(self.path)
            self.check(made)
            if index == 0:
                _save_shared(self.baseline, made)
            made.add(self.task(index, state, record["accuracy"]))
            return [record]

        known = set(made.task_names) if made else set()
        first = self.baseline.shares and self.stream.task_names[0] not in known
        learn_missing(
            self.stream,
            known,
            self.learner(),
            keep,
            self.report,
            workers=self.workers,
            first_here=first,
        )
        assert made is not None  # noqa: S101 - a stream has at least one task
        return made

    def in_sequence(self, every: int) -> MaskBank:
        folder = Path(os.path.realpath(self.path))
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # left by a killed run
        _make_lockable(part, exist_ok=False)  # fail before the first task, if at all
        try:
            self.learn_all(part, every)
            with system_errors(folder, "written"):
                part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return MaskBank.open(self.path)

    def learn_all(self, part: Path, every: int) -> None:
        baseline, stream = self.baseline, self.stream
        final: list[float] = []

        def accuracy_now(index: int) -> float:
            baseline.begin(stream.task_names[index])
            data = stream.task(index, train=False)
            return baseline.accuracy(len(data.labels), (data.test_x, data.test_y))

        def report(line: dict[str, Any]) -> None:
            count = line["index"] + 1
            if count == stream.num_tasks or count % every == 0:
                final[:] = map(accuracy_now, range(count))
                line["seen"] = fmean(final)
            self.report(line)

        learn_missing(stream, (), self.learner(), lambda _, made: [made[0][1]], report)

        def tasks() -> Iterator[TaskMasks]:
            for index, name in enumerate(stream.task_names):
                baseline.begin(name)
                yield self.task(index, baseline.own(), final[index])

        self.created(part).extend(tasks())

    def opened(self) -> MaskBank:
        baseline, names = self.baseline, self.stream.task_names
        bank = MaskBank.open(self.path)
        wanted = {
            "real_outputs": self.real_outputs,
            "preprocessing": self.stream.preprocessing,
        }
        check_same(self.path, wanted, {name: getattr(bank.network, name) for name in wanted})
        check_resumed(bank, names, baseline.recipe, self.stream.origin)
        if baseline.shares and len(bank):
            if names[0] not in bank:
                raise InputError(
                    f"{bank.path}: task {names[0]!r} is missing, which learned the shared weights; "
                    "restore it, or give another --bank"
                )
            _load_shared(baseline, bank)
        if len(bank) or not baseline.shares:
            self.check(bank)
        return bank

    def check(self, bank: MaskBank) -> None:
        check_module(copy_for(bank.network, self.baseline.in_bank()[0]), bank.network)

    def learner(self) -> _Learner:
        progress = unheard if self.workers.elsewhere else self.progress
        return _Learner(self.baseline, self.stream, progress)

    def task(self, index: int, state: State, accuracy: float) -> TaskMasks:
        return make_task(
            self.stream.task_names[index],
            {},
            state=self.baseline.to_bank(state),
            labels=self.stream.task_labels[index],
            training={
                "accuracy": accuracy,
                "recipe": self.baseline.recipe.to_dict(),
                "stream_index": index,
                **self.stream.origin(index),
            },
        )

    def created(self, path: Path) -> MaskBank:
        module, state = self.baseline.in_bank()
        return create_bank(
            path,
            module,
            input_shape=self.stream.input_shape,
            real_outputs=self.real_outputs,
            masked=[],
            state=state,
            preprocessing=self.stream.preprocessing,
        )


def _make_lockable(folder: Path, *, exist_ok: bool) -> None:
    with system_errors(folder, "created"):
        folder.mkdir(parents=True, exist_ok=exist_ok)
    with exclusive(folder):
        pass


def _save_shared(baseline: Baseline, bank: MaskBank) -> None:
    if baseline.shares:
        weights = {name: value.detach().numpy() for name, value in baseline.shared().items()}
        write_whole(bank.path / SHARED, safetensors.numpy.save(weights))


def _load_shared(baseline: Baseline, bank: MaskBank) -> None:
    path = bank.path / SHARED
    if not path.exists():
        raise InputError(
            f"{path}: is missing, it has the shared weights; restore it, or give another --bank"
        )
    try:
        found = safetensors.numpy.load(read_file(path, max_bytes=MAX_SHARED_BYTES))
    except safetensors.SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file: {error}; restore it") from error
    shared = baseline.shared()
    wanted = {name: tuple(value.shape) for name, value in shared.items()}
    shapes = {name: value.shape for name, value in found.items()}
    if shapes != wanted:
        raise InputError(
            f"{path}: must have the tensors {wanted}, got {shapes}; give the same options, or "
            "another --bank"
        )
    with torch.no_grad():
        for name, value in shared.items():
            value.copy_(torch.from_numpy(found[name]))
