"""Resume a stream of tasks, with the same recipe and data only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import Tasks
from supsup_runtime.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Report = Callable[[dict[str, Any]], None]
"""Called with a JSON record per task: ``task``, ``index``, ``accuracy``, ``seconds`` and more, or
``task``, ``index`` and ``kept`` if the task was already in the bank."""


def check_resumed(
    bank: MaskBank,
    names: Sequence[str],
    recipe: DataclassInstance,
    origin_of: Callable[[int], Mapping[str, object]],
) -> None:
    """Refuse to resume in a bank whose tasks were learned with another recipe or origin.

    `origin_of` maps the index of a name to the origin. Options missing in a record have their
    defaults. Tasks without a record are accepted.
    """
    options = json.loads(json.dumps(asdict(recipe)))
    defaults = {f.name: None if f.default is MISSING else f.default for f in fields(recipe)}
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


def learn_missing(
    stream: Tasks, known: Container[str], learn: Callable[[int], dict[str, Any]], report: Report
) -> None:
    """Call `learn`, which returns a record, for the tasks that are not in `known`."""
    for index, name in enumerate(stream.task_names):
        line: dict[str, Any] = {"index": index, "task": name}
        if name in known:
            report({**line, "kept": True})
            continue
        start = time.perf_counter()
        told = learn(index)
        report({**line, "seconds": round(time.perf_counter() - start, 2), **told})


def unheard(_told: object) -> None:
    """Ignore a report or progress."""
