"""What an NNs learner writes beside its bank, so that it can go on where it stopped.

A folder ``nns`` in the bank's: ``learner.json``, and one safetensors file a task with its scores
and the optimiser's tensors. They are not part of the bank: masks are whole without them, only
learning cannot go on.

A checkpoint writes the mask into the bank, then the task's file under a new name, then
``learner.json``, which names the files that count. A crash in between leaves the checkpoint before,
and perhaps a mask that is one period ahead of it: the learner writes it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.files import inside, read_file, write_whole
from supsup_train.masks.learning import Learning
from supsup_train.masks.recipe import Recipe

FORMAT = 1
MAX_JSON_BYTES = 64 << 20
MAX_TENSORS = 8
"""Tensors of the size of the weights that a task's file may hold: scores, and the optimiser's."""


class Known(TypedDict):
    """What a learner remembers of a task that it allocated a mask to, as JSON holds it.

    ``allocated`` is the decision to do so; ``visits`` are the batches that it learned from,
    ``[first, one past the last]``, each time it did.
    """

    allocated: dict[str, Any]
    visits: list[list[int]]


class LearnerFiles:
    """The files of one learner.

    Attributes:
        batches: Seen at the last checkpoint.
        known: The tasks then.
        current: Index of the one that was learning; -1 for none.
    """

    def __init__(self, bank: MaskBank, origin: Mapping[str, Any]) -> None:
        """Look at what is there; a learner shares its origin with the one that it goes on from.

        Raises:
            InputError: If the bank's tasks are not the learner's, or the origin differs.
        """
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
                f"{bank.path}: the bank has tasks, and no nns/learner.json to go on from; give "
                "another bank"
            )

    def _open(self, place: Path) -> None:
        data = read_file(place, max_bytes=MAX_JSON_BYTES)
        try:
            told = self._parse(json.loads(data))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{place}: must be what a learner of format {FORMAT} wrote, got {error!r}; restore "
                "it, or start again in another bank"
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
        """Take in all but the origin, which is the result."""
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
        return {**origin, "recipe": {**asdict(Recipe()), **origin["recipe"]}}

    def write(
        self, batches: int, known: list[Known], index: int, learning: Learning | None
    ) -> None:
        """Write a checkpoint; the bank has the task's mask already, or `learning` is None."""
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
        text = json.dumps(value, sort_keys=True, indent=1) + "\n"
        write_whole(inside(self._bank.path, "nns/learner.json"), text.encode())
        kept = {"learner.json", *self._files.values()}
        for old in self._folder.iterdir():
            if old.name not in kept and old.name.endswith((".safetensors", ".part")):
                old.unlink()  # of before, or of a learner that was killed

    def read(self, index: int) -> dict[str, Tensor]:
        """The tensors of one task.

        Raises:
            InputError: If there is no such file, or it is not whole.
        """
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
            raise InputError(f"{path}: damaged: {error}; restore it, or start again") from error


def _tensors(learning: Learning) -> dict[str, Tensor]:
    tensors = {f"scores.{name}": value.detach() for name, value in learning.scores.items()}
    tensors |= {f"state.{name}": value.detach() for name, value in learning.state.items()}
    for number, values in learning.optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                tensors[f"optimizer.{number}.{key}"] = torch.as_tensor(value)
    return {name: value.contiguous().clone() for name, value in tensors.items()}


def load_learning(learning: Learning, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors of `LearnerFiles.read` into a learning that has just begun.

    Raises:
        InputError: If a tensor is missing or has another shape.
    """
    with torch.no_grad():
        for kind, own in (("scores", learning.scores), ("state", learning.state)):
            for name, value in own.items():
                found = tensors.get(f"{kind}.{name}")
                if found is None or found.shape != value.shape:
                    shape = None if found is None else tuple(found.shape)
                    raise InputError(
                        f"nns: {kind} of {name!r} must have shape {tuple(value.shape)}, got {shape}"
                    )
                value.copy_(found)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value
    groups = learning.optimizer.state_dict()["param_groups"]
    learning.optimizer.load_state_dict({"state": state, "param_groups": groups})
