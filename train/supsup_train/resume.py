"""A stream learned task by task, going on where it stopped: with the same recipe, or not at all."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import TYPE_CHECKING, Any

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import Dataset
from supsup_runtime.data.streams import Stream
from supsup_runtime.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Report = Callable[[dict[str, Any]], None]
"""Called with a record of each task, as JSON holds it: ``task``, its ``index``, ``accuracy``,
``seconds`` that it took, and what else is told of it; or ``kept``, if the bank had it already."""


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, in hexadecimal, of a data set's arrays and its normalisation."""
    digest = hashlib.sha256(f"{dataset.scale} {dataset.mean} {dataset.std}".encode())
    for array in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def origin_of(stream: Stream) -> dict[str, str]:
    """What tasks are learned from, for their records: ``data``, a `fingerprint`, and ``stream``."""
    return {"data": fingerprint(stream.dataset), "stream": stream.kind}


def check_resumed(
    bank: MaskBank, names: Sequence[str], recipe: DataclassInstance, origin: Mapping[str, object]
) -> None:
    """Refuse to go on in a bank whose tasks of these names were learned otherwise.

    Args:
        bank: Open.
        names: Of the tasks to come.
        recipe: A `Recipe`, or a baseline's. A recorded one of before an option was there had the
            option's default.
        origin: As `origin_of` has it.

    Raises:
        InputError: At the first task whose record differs; the message names what. Tasks without
            a record, which did not come from `supsup-train`, are taken as they are.
    """
    wanted = {**json.loads(json.dumps(asdict(recipe))), **origin}
    defaults = {f.name: None if f.default is MISSING else f.default for f in fields(recipe)}
    for name in names:
        if name not in bank:
            continue
        training = bank.task(name).training
        if "recipe" not in training:
            continue
        found = {**defaults, **training["recipe"], **{key: training.get(key) for key in origin}}
        for key, value in wanted.items():
            if found[key] != value:
                raise InputError(
                    f"{bank.path}: task {name!r} was learned with {key} {found[key]!r}, this "
                    f"run wants {value!r}; give the same options, or another --bank"
                )


def learn_missing(
    stream: Stream, known: Container[str], learn: Callable[[int], dict[str, Any]], report: Report
) -> None:
    """Learn the tasks of a stream whose names are not known, in their order.

    `learn` learns the task of an index, puts it where it belongs, and tells of it; `report` gets
    that, with the task's name, its index and the seconds it took.
    """
    for index, name in enumerate(stream.task_names):
        line: dict[str, Any] = {"index": index, "task": name}
        if name in known:
            report({**line, "kept": True})
            continue
        start = time.perf_counter()
        told = learn(index)
        report({**line, "seconds": round(time.perf_counter() - start, 2), **told})


def unheard(_told: object) -> None:
    """A report, or the progress of a task, that nobody asked for."""
