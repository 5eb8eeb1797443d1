"""Resume a stream of tasks, with the same recipe and data only."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.data.own.parts import Skipped
from supsup_runtime.errors import InputError
from supsup_runtime.files import exclusive
from supsup_train.workers.learn_units import learn_units
from supsup_train.workers.work import Result, Unit, Workers

Made = TypeVar("Made")
Progress = Callable[[int, float], None]
"""Called after every step with its number, from 1, and the batch's loss."""
Report = Callable[[dict[str, Any]], None]
"""Called with a JSON record per task: ``task``, ``index``, ``accuracy``, ``seconds`` and more, or
``task``, ``index`` and ``kept`` if the task was already in the bank."""
_POINTS = 50


class Settings(Protocol):
    """A recipe, as a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def to_dict(self) -> dict[str, Any]:
        """Return the options as recorded; those left out have their defaults."""


def check_resumed(
    bank: MaskBank,
    names: Sequence[str],
    recipe: Settings,
    origin_of: Callable[[int], Mapping[str, object]],
) -> None:
    """Refuse to resume in a bank whose tasks were learned with another recipe or origin.

    `origin_of` maps the index of a name to the origin. Options missing in a record have their
    defaults. Tasks without a record are accepted.
    """
    defaults = {f.name: None if f.default is MISSING else f.default for f in fields(recipe)}
    options = {**defaults, **json.loads(json.dumps(recipe.to_dict()))}
    for index, name in enumerate(names):
        if name not in bank:
            continue
        training = bank.task(name).training
        if "recipe" not in training:
            continue
        learned = training["recipe"]
        if not isinstance(learned, dict):
            raise InputError(
                f"{bank.path}: the training record of task {name!r} must have an object as recipe, "
                f"got {learned!r:.80}; replace the task, or give another --bank"
            )
        origin = origin_of(index)
        found = {**defaults, **learned, **{key: training.get(key) for key in origin}}
        for key, value in {**options, **origin}.items():
            if found[key] != value:
                if key == "data":
                    raise InputError(
                        f"{bank.path}: the data of task {name!r} changed since it was learned; "
                        "give the same data, or supsup-bank remove it and learn it again"
                    )
                raise InputError(
                    f"{bank.path}: task {name!r} was learned with {key} {found[key]!r:.80}, this "
                    f"run has {value!r}; give the same options, or another --bank"
                )


class Losses:
    """Keeps the losses of a task; passes them on to `progress`."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._values: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        """Keep the loss of a step."""
        self._values.append(loss)
        if self._progress is not None:
            self._progress(step, loss)

    def curve(self) -> list[tuple[int, float]]:
        """Return the last step and the mean loss of at most 50 equal spans of steps."""
        count = len(self._values)
        span = max(1, -(-count // _POINTS))
        ends = [min(start + span, count) for start in range(0, count, span)]
        return [(end, round(fmean(self._values[i * span : end]), 4)) for i, end in enumerate(ends)]


@contextmanager
def training(folder: Path) -> Iterator[None]:
    """Hold a bank's lock of training, so that two commands do not learn the same tasks."""
    with exclusive(folder, ".training", "learning tasks for"):
        yield


def learn_missing(
    tasks: Tasks,
    known: Container[str],
    learn: Callable[[Unit], Sequence[Made]],
    keep: Callable[[Unit, Sequence[Made]], Iterable[dict[str, Any]]],
    report: Report,
    *,
    workers: Workers | None = None,
    together: int = 1,
    first_here: bool = False,
) -> None:
    """Learn the tasks that are not in `known`.

    Args:
        tasks: The tasks.
        known: Names of those that are learned.
        learn: Learns the tasks of these indices, at most `together`; called in workers.
        keep: Keeps what `learn` made of the tasks of these indices; gives the record of each that
            was kept, before any error. It is called in the order of the tasks, unless the run ends
            early.
        report: Gets the records.
        workers: Where to learn; defaults to here.
        together: Tasks that are learned at once by one call.
        first_here: Learn the first of them in this process, before workers get `learn`.
    """
    names = tasks.task_names
    for index, name in enumerate(names):
        if name in known:
            report({"index": index, "task": name, "kept": True})
    left = [index for index, name in enumerate(names) if name not in known]
    units = [tuple(left[i : i + together]) for i in range(0, len(left), together)]
    learner, here = _WithSkipped(learn, tasks), int(first_here)

    def use(done: Result[tuple[Sequence[Made], dict[str, Skipped]]]) -> None:
        all_made, skipped = done.made
        if isinstance(tasks, OwnTasks) and tasks.skipped is not None:
            tasks.skipped.update(skipped)
        seconds = round(done.seconds / len(done.unit), 2)
        # to the end of `keep`, which may raise there
        for told, index in zip(keep(done.unit, all_made), done.unit, strict=False):
            report({"index": index, "task": names[index], "seconds": seconds, **told})

    for some, where in ((units[:here], Workers()), (units[here:], workers or Workers())):
        _use_all(learn_units(learner, some, names, where), use)


def _use_all(results: Generator[Made], use: Callable[[Made], None]) -> None:
    """Use each result; after an interrupt also those that are there."""
    try:
        for result in results:
            use(result)
    except KeyboardInterrupt as interrupt:
        use(results.throw(interrupt))  # comes out again after the last
        for result in results:
            use(result)


@dataclass(frozen=True, slots=True)
class _WithSkipped(Generic[Made]):
    """Learns tasks, and returns which pictures of them were left out, by task."""

    learn: Callable[[Unit], Sequence[Made]]
    tasks: Tasks

    def __call__(self, unit: Unit) -> tuple[Sequence[Made], dict[str, Skipped]]:
        made = self.learn(unit)
        found = (self.tasks.skipped or {}) if isinstance(self.tasks, OwnTasks) else {}
        names = [self.tasks.task_names[index] for index in unit]
        return made, {name: found[name] for name in names if name in found}


def unheard(_told: object) -> None:
    """Ignore a report or progress."""
