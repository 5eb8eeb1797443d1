"""Checkpoints of an NNs learner, in the folder ``nns`` beside the bank's files.

A checkpoint writes the mask to the bank, then scores and optimizer tensors to a new file, then
``learner.json``, which lists the valid files. After a crash the previous checkpoint is valid, and a
mask that is one period ahead is rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.files import inside, read_file, remove_parts, write_whole
from supsup_train.masks.learning import Learning
from supsup_train.masks.recipe import Recipe

FORMAT = 1
MAX_JSON_BYTES = 64 << 20
MAX_TENSORS = 8
"""Limit on weight-sized tensors in a task's file: scores and optimizer tensors."""

_UNFIT = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)


class Known(TypedDict):
    """JSON record of an allocated task.

    ``allocated`` is the `Decision`; ``visits`` are the ranges ``[first, last + 1]`` of its batches.
    """

    allocated: dict[str, Any]
    visits: list[list[int]]


class LearnerFiles:
    """The files of one learner.

    Attributes:
        batches: Batches seen at the last checkpoint.
        known: Its tasks.
        current: Index of its current task; -1 for none.
    """

    def __init__(self, bank: MaskBank, origin: Mapping[str, Any]) -> None:
        """Read the last checkpoint, if any; refuse one of another origin."""
        self._bank = bank
        self._folder = bank.path / "nns"
        self._origin = {"digest": bank.digest, **json.loads(json.dumps(origin))}
        self._files: dict[str, str] = {}
        self.batches, self.current = 0, -1
        self.known: list[Known] = []
        path = inside(bank.path, "nns/learner.json")
        if path.exists():
            self._open(path)
        elif len(bank):
            raise InputError(
                f"{bank.path}: the bank has tasks, and no nns/learner.json to resume from; give "
                "another bank"
            )

    def _open(self, place: Path) -> None:
        data = read_file(place, max_bytes=MAX_JSON_BYTES)
        try:
            told = self._parse(json.loads(data))
        except _UNFIT as error:
            raise InputError(
                f"{place}: must be a checkpoint of format {FORMAT}, got {error!r}; restore it, or "
                "start again in another bank"
            ) from error
        for key, wanted in self._origin.items():
            if told.get(key) != wanted:
                raise InputError(
                    f"{place}: the learner had {key} {told.get(key)!r}, this one has "
                    f"{wanted!r}; give the same options, or another bank"
                )
        if len(self._bank) < len(self.known):
            raise InputError(
                f"{place}: the learner had {len(self.known)} tasks, the bank has "
                f"{len(self._bank)}; restore them, or start in another bank"
            )

    def _parse(self, found: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r}")
        self.batches, self.current = int(found["batches"]), int(found["current"])
        self._files = {str(key): str(file) for key, file in found["files"].items()}
        self.known = [
            Known(
                allocated=dict(task["allocated"]),
                visits=[[int(first), int(end)] for first, end in task["visits"]],
            )
            for task in found["tasks"]
        ]
        if not (-1 <= self.current < len(self.known) and all(t["visits"] for t in self.known)):
            raise ValueError(f"current {self.current} of {len(self.known)} tasks")
        origin = dict(found["origin"])
        return {**origin, "recipe": {**Recipe().to_dict(), **origin["recipe"]}}

    def write(
        self, batches: int, known: list[Known], index: int, learning: Learning | None
    ) -> None:
        """Write a checkpoint; the bank must already have the mask of `learning`."""
        self._folder.mkdir(exist_ok=True)
        if learning is not None:
            file = f"{index:04d}-{batches}.safetensors"
            write_whole(inside(self._bank.path, f"nns/{file}"), save(_tensors(learning)))
            self._files[str(index)] = file
        value = {
            "batches": batches,
            "current": index,
            "files": self._files,
            "format": FORMAT,
            "origin": self._origin,
            "tasks": known,
        }
        text = json.dumps(value, sort_keys=True) + "\n"  # json is slow with an indent
        write_whole(inside(self._bank.path, "nns/learner.json"), text.encode())
        remove_parts(self._folder)
        kept = set(self._files.values())
        for old in self._folder.glob("*.safetensors"):
            if old.name not in kept and old.is_file():
                old.unlink()  # outdated

    def read(self, index: int) -> dict[str, Tensor]:
        """Read the tensors of one task."""
        file = self._files.get(str(index))
        if file is None or not (self._folder / file).is_file():
            raise InputError(
                f"{self._folder}: the scores of task {index} must be in "
                f"{file or 'a file of learner.json'}, which is missing; restore it, or start again "
                "in another bank"
            )
        path = inside(self._bank.path, f"nns/{file}")
        network = self._bank.network
        limit = MAX_TENSORS * 4 * (network.num_masked + network.num_state) + MAX_JSON_BYTES
        try:
            return load(read_file(path, max_bytes=limit))
        except SafetensorError as error:
            raise InputError(
                f"{path}: damaged: {error}; restore it, or start again in another bank"
            ) from error


def _tensors(learning: Learning) -> dict[str, Tensor]:
    tensors = {f"scores.{name}": value.detach() for name, value in learning.scores.items()}
    tensors |= {f"state.{name}": value.detach() for name, value in learning.state.items()}
    for number, values in learning.optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
    return {name: value.contiguous().clone() for name, value in tensors.items()}


def load_learning(learning: Learning, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors of `LearnerFiles.read` into a new `Learning`."""
    with torch.no_grad():
        for kind, own in (("scores", learning.scores), ("state", learning.state)):
            for name, value in own.items():
                found = tensors.get(f"{kind}.{name}")
                if found is None or found.shape != value.shape:
                    shape = None if found is None else tuple(found.shape)
                    raise InputError(
                        f"nns: {kind} of {name!r} must have shape {tuple(value.shape)}, got "
                        f"{shape}; restore the checkpoint"
                    )
                value.copy_(found)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    groups = learning.optimizer.state_dict()["param_groups"]
    learning.optimizer.load_state_dict({"state": state, "param_groups": groups})
