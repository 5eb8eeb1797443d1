"""Going on where training stopped: with the same data, stream and recipe, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import Dataset
from supsup_runtime.errors import InputError
from supsup_train.masks.recipe import Recipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Record", "check_resumed", "fingerprint", "with_defaults"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a run writes down of every task.

    Attributes:
        recipe: How tasks are learned.
        origin: What they are learned from: ``data``, a `fingerprint`, and ``stream``.
    """

    recipe: Recipe
    origin: Mapping[str, str]


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, in hexadecimal, of a data set's arrays and its normalisation."""
    digest = hashlib.sha256(f"{dataset.scale} {dataset.mean} {dataset.std}".encode())
    for array in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def with_defaults(recipe: Mapping[str, object]) -> dict[str, object]:
    """A recorded recipe, whole: one of before an option was there had the option's default."""
    return {**asdict(Recipe()), **recipe}


def check_resumed(
    bank: MaskBank, names: Sequence[str], recipe: DataclassInstance, origin: Mapping[str, object]
) -> None:
    """Refuse to go on in a bank whose tasks of these names were learned otherwise.

    Args:
        bank: Open.
        names: Of the tasks to come.
        recipe: A `Recipe`, or a baseline's.
        origin: As of a `Record`.

    Raises:
        InputError: At the first task whose record differs; the message names what. Tasks without
            a record, which did not come from `supsup-train`, are taken as they are.
    """
    wanted = {**json.loads(json.dumps(asdict(recipe))), **origin}
    for name in names:
        if name not in bank:
            continue
        training = bank.task(name).training
        if "recipe" not in training:
            continue
        found = with_defaults(training["recipe"])
        found |= {key: training.get(key) for key in origin}
        for key, value in wanted.items():
            if found.get(key) != value:
                raise InputError(
                    f"{bank.path}: task {name!r} was learned with {key} {found.get(key)!r}, this "
                    f"run wants {value!r}; give the same options, or another --bank"
                )
