"""Learn the masks of a stream of tasks, one after another or side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.data.own import Tasks
from supsup_runtime.data.streams import Stream
from supsup_runtime.errors import InputError
from supsup_train.masks.device import Device
from supsup_train.masks.gathering import Negatives
from supsup_train.masks.inputs import Inputs, inputs_of
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.together import Begun, fit_together
from supsup_train.masks.train_task import begin_task, check_task, end_task, fit, measured
from supsup_train.masks.transfer import Transfer
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


def train_stream(
    bank: MaskBank,
    module: nn.Module,
    stream: Tasks,
    *,
    recipe: Recipe | None = None,
    report: Report = unheard,
    progress: Callable[[str], Progress | None] = unheard,
    workers: Workers | None = None,
    device: Device | None = None,
) -> None:
    """Learn the tasks of a stream that are missing in a bank, and add each to it.

    With workers, masks are those of one task after another with as many threads, to the bit. Tasks
    are added in the same order, unless the run ends early or one takes far longer than others.

    Args:
        bank: Bank of the module, from `create_bank` or `open_bank`.
        module: The network; its masked weights are neither used nor changed.
        stream: The tasks: a `Stream` or `OwnTasks`.
        recipe: Training settings; defaults to ``Recipe()``.
        report: Called with a JSON record per task: ``task``, ``index``, ``accuracy``,
            ``train_accuracy``, ``density``, ``seconds`` and ``loss`` (last step and mean of spans
            of steps), or ``task``, ``index`` and ``kept`` if the bank had it already.
        progress: Returns the progress callback of a task, given its name; see `train_task`. Not
            called for workers.
        workers: Where tasks are learned; defaults to this process. What they get is pickled.
        device: What computes, and how many tasks at once; defaults to the CPU and one.

    Raises:
        InputError: If the bank's tasks were learned with another recipe or data, or for the
            reasons of `train_task`, `Transfer`, `Negatives`, `Workers` and `Device`.
        BankLockedError: If the bank cannot be locked, or another process learns tasks for it.
    """
    recipe, workers, device = recipe or Recipe(), workers or Workers(), device or Device()
    if recipe.depends_on_earlier and (workers.elsewhere or device.tasks > 1):
        raise InputError(
            f"{recipe.depends_on_earlier} makes each task depend on those before it, so they are "
            "learned in order; leave out workers and tasks at once"
        )
    if workers.elsewhere and device.name != "cpu":
        raise InputError(
            f"device: {device.name} is one for all workers; learn tasks at once on it "
            "(--vectorise), without --workers and --cluster"
        )
    device.check()
    with training(bank.path):
        bank.check_lock()  # before the first task is learned; it reads the index again
        transfer, negatives = Transfer(bank, recipe), Negatives(bank, stream, recipe)
        origin = negatives.origin
        check_resumed(bank, stream.task_names, recipe, lambda k: {**stream.origin(k), **origin})
        learner = _Learner(bank.network, module, stream, recipe, device, negatives)
        if not workers.elsewhere:
            learner = replace(learner, transfer=transfer, progress=progress)

        def keep(_: Unit, made: Sequence[_Made]) -> Iterator[dict[str, Any]]:
            try:
                bank.extend([task for task, _ in made])
                transfer.tidy()
            finally:  # those before a failure are kept
                for task, told in made:
                    if task.name in bank:
                        yield {"index": bank.index(task.name), **told}

        known = set(bank.task_names)
        if not known.issuperset(stream.task_names):
            negatives.gather()
        if isinstance(stream, Stream):
            stream.origin(0)  # keeps a digest of the data, which workers then need not compute
        learn_missing(stream, known, learner, keep, report, workers=workers, together=device.tasks)


_Made = tuple[TaskMasks, dict[str, Any]]
"""A task, and its record."""


@dataclass(frozen=True, slots=True)
class _Learner:
    """Learns tasks of a stream by their indices; without progress, in any process."""

    network: Network
    module: nn.Module
    stream: Tasks
    recipe: Recipe
    device: Device
    negatives: Negatives
    transfer: Transfer | None = None
    progress: Callable[[str], Progress | None] = unheard

    def __call__(self, unit: Unit) -> list[_Made]:
        names = [self.stream.task_names[index] for index in unit]
        losses = [Losses(self.progress(names[0])), *(Losses(None) for _ in unit[1:])]
        if self.device.is_plain:
            return self._learned(unit, losses)
        with self.device.computing(names):
            return self._learned(unit, losses)

    def _learned(self, unit: Unit, losses: Sequence[Losses]) -> list[_Made]:
        recipe, device = self.recipe, self.device
        more = (self.transfer, self.negatives)
        inputs = inputs_of(self.stream, unit, recipe, device)
        for each in inputs.checked:
            check_task(self.network, each, recipe, *more)
        begun = self._begun(inputs)
        if device.is_plain:
            (data,), (learning, generator) = inputs.data, begun[0]
            fit(learning.step, data, recipe, generator, losses[0], learning.negatives)
        else:
            fit_together(begun, inputs, recipe, device, losses)
        made = []
        for number, index in enumerate(unit):
            (learning, _), data = begun[number], inputs.data[number]
            record = {**self.stream.origin(index), "stream_index": index, **device.record()}
            record |= measured(learning, data, inputs.tested(number), device.name)
            task = end_task(learning, data, recipe, record, *more)
            told = {
                "accuracy": task.training["accuracy"],
                "density": round(task.density(self.network), 4),
                "loss": losses[number].curve(),
                "train_accuracy": task.training["train_accuracy"],
            }
            made.append((task, told))
        return made

    def _begun(self, inputs: Inputs) -> dict[int, Begun]:
        """Return training states; those of a group share a module, which learning may change."""
        begun: dict[int, Begun] = {}
        more = (self.recipe, self.transfer, self.negatives)
        for numbers in inputs.groups(self.recipe):
            beside = None
            for number in numbers:
                data = inputs.data[number]
                begun[number] = begin_task(self.network, self.module, data, *more, beside)
                beside = begun[numbers[0]][0]
        return begun
