"""What an NNs learner writes beside its bank, so that it can go on where it stopped.

A folder ``nns`` in the bank's: ``learner.json``, and one safetensors file a task with its scores
and the optimiser's tensors. They are not part of the bank: masks are whole without them, only
learning cannot go on.

A checkpoint writes the task's file under a new name, then the mask into the bank, then
``learner.json``, which names the files that count. A crash in between leaves the checkpoint before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from supsup_runtime.bank import MaskBank
from supsup_runtime.errors import InputError
from supsup_runtime.files import inside, read_file, write_whole
from supsup_train.learning import Learning

__all__ = ["LearnerFiles", "load_learning"]

FORMAT = 1
MAX_JSON_BYTES = 64 << 20
MAX_TENSORS = 8
"""Tensors of the size of the weights that a task's file may hold: scores, and the optimiser's."""


class LearnerFiles:
    """The files of one learner.

    Attributes:
        current: Index of the task that was learning; -1 for none.
    """

    def __init__(self, bank: MaskBank, origin: Mapping[str, Any]) -> None:
        """Look at what is there.

        Args:
            bank: The learner's.
            origin: JSON values that a learner must share with the one that it goes on from.

        Raises:
            InputError: If the bank's tasks are not the learner's, or the origin differs.
        """
        self._bank = bank
        self._folder = bank.path / "nns"
        self._origin = {"digest": bank.digest, **json.loads(json.dumps(origin))}
        self._files: dict[str, str] = {}
        self._state: dict[str, Any] = {"batches": 0, "current": -1, "visits": []}
        path = inside(bank.path, "nns/learner.json")
        if path.exists():
            self._open(json.loads(read_file(path, max_bytes=MAX_JSON_BYTES)))
        elif any("learned-" not in name for name in bank.task_names) or len(bank) > 1:
            raise InputError(
                f"{bank.path}: the bank has tasks, and no nns/learner.json to go on from; give "
                "another bank"
            )
        self.current: int = self._state["current"]

    def _open(self, found: Any) -> None:  # noqa: ANN401 - any JSON
        place = self._folder / "learner.json"
        keys = {"files", "format", "origin", "state"}
        if not isinstance(found, dict) or set(found) != keys or found["format"] != FORMAT:
            raise InputError(
                f"{place}: must be of format {FORMAT} with the fields {sorted(keys)}; remove the "
                "folder nns and the bank's tasks to start again"
            )
        for key, wanted in self._origin.items():
            if found["origin"].get(key) != wanted:
                raise InputError(
                    f"{place}: the learner had {key} {found['origin'].get(key)!r}, this one has "
                    f"{wanted!r}; give the same options, or another bank"
                )
        self._files, self._state = found["files"], found["state"]
        learned = len(self._state["visits"])
        if len(self._bank) < learned:
            raise InputError(
                f"{place}: the learner had {learned} tasks, the bank has {len(self._bank)}; "
                "restore them, or start in another bank"
            )

    def position(self) -> tuple[int, list[list[list[int]]]]:
        """Batches seen, and for each task the ranges of batches that it learned from."""
        return int(self._state["batches"]), list(self._state["visits"])

    def write(
        self, batches: int, visits: list[list[list[int]]], index: int, learning: Learning | None
    ) -> None:
        """Write a checkpoint; the bank has the task's mask already, or `learning` is None."""
        self._folder.mkdir(exist_ok=True)
        if learning is not None:
            file = f"{index:04d}-{batches}.safetensors"
            write_whole(inside(self._bank.path, f"nns/{file}"), save(_tensors(learning)))
            self._files[str(index)] = file
        value = {
            "files": self._files,
            "format": FORMAT,
            "origin": self._origin,
            "state": {"batches": batches, "current": index, "visits": visits},
        }
        text = json.dumps(value, sort_keys=True, indent=1) + "\n"
        write_whole(inside(self._bank.path, "nns/learner.json"), text.encode())
        for old in self._folder.glob("*.safetensors"):
            if old.name not in self._files.values():
                old.unlink()

    def read(self, index: int) -> dict[str, Tensor]:
        """The tensors of one task.

        Raises:
            InputError: If the file is not whole.
        """
        path = inside(self._bank.path, f"nns/{self._files[str(index)]}")
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
