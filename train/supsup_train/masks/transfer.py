"""Transfer: the scores of a new task begin where earlier tasks ended (paper, section 3.5).

The paper begins from the running mean of all masks so far, its code from that of the real-valued
scores; both are here. With transfer a task depends on those before it, in their order.

The sum of scores is kept in the bank's folder, ``transfer/NNNN.safetensors`` for the first `NNNN`
tasks: that of the next task is written before the task is added, the one before is removed after,
so that there is always one for the tasks that the bank has. It is not part of the bank.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from supsup_runtime.arrays import Scores
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks, encode_task
from supsup_runtime.errors import InputError
from supsup_runtime.files import inside, write_whole
from supsup_train.masks.learning import Tensors, score_bound
from supsup_train.masks.recipe import Recipe, TransferKind
from supsup_train.masks.rules import Rule


class Transfer:
    """Initial scores for the next task of a bank; one writer at a time.

    Attributes:
        kind: What is transferred.
    """

    def __init__(self, bank: MaskBank, recipe: Recipe) -> None:
        """Look at what the bank's tasks left.

        Raises:
            InputError: If the network has no masked parameters; or the mean of scores is wanted,
                and that of the bank's tasks is missing, damaged, or of other tasks.
        """
        self._bank, self._rule = bank, recipe.rule
        self._counted: list[str] = []
        self._counts: dict[str, Scores] = {}
        self.kind: TransferKind = recipe.transfer
        if self.kind != "none" and not bank.network.parameters:
            raise InputError(
                f"{bank.path}: transfer {self.kind!r} is of masked parameters, the network has "
                "none; take 'none'"
            )
        if self.kind == "scores":
            self._sums()

    def start(self, fresh: Tensors) -> Tensors:
        """Scores to begin the next task with, ``float32 shape`` by parameter.

        Of the scores, their mean; of the masks, `_from_masks` of theirs; `fresh` ones where none
        came before.
        """
        count = len(self._bank)
        if self.kind == "none" or not count:
            return fresh
        if self.kind == "scores":
            return {name: (total / count).float() for name, total in self._sums().items()}
        return {
            name: _from_masks(
                torch.from_numpy(ones / count).float(), fresh[name], self._rule, count
            )
            for name, ones in self._ones().items()
        }

    def remember(self, task: TaskMasks, scores: Tensors) -> None:
        """Take in the scores, as they were learned, of a task that the bank is about to get."""
        if self.kind != "scores":
            return
        sums = self._sums()
        more = {key: sums.get(key, 0.0) + value.double() for key, value in scores.items()}
        data = encode_task(task, self._bank.network, self._bank.digest)
        tasks = _fingerprint(self._bank, hashlib.sha256(data).hexdigest())
        path = self._path(len(self._bank) + 1)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, save(more, metadata={"tasks": tasks}))

    def tidy(self) -> None:
        """Remove what the bank has gone past, once it has the task."""
        kept = self._path(len(self._bank))
        for old in kept.parent.glob("*.safetensors"):
            if old != kept:
                old.unlink()

    def _ones(self) -> dict[str, Scores]:
        """How many of the bank's masks have each weight, ``float64 shape``.

        Only tasks that came since the last time are read; all, if those counted have changed.
        """
        files = [entry.sha256 for entry in self._bank.entries]
        parameters = self._bank.network.parameters
        if self._counted != files[: len(self._counted)] or not self._counted:
            self._counted, self._counts = [], {p.name: np.zeros(p.shape) for p in parameters}
        for index in range(len(self._counted), len(files)):
            task = self._bank.task(index)
            for p in parameters:
                self._counts[p.name] += unpack_mask(task.masks[p.name], p.shape)
            self._counted.append(files[index])
        return self._counts

    def _path(self, count: int) -> Path:
        return inside(self._bank.path, f"transfer/{count:04d}.safetensors")

    def _sums(self) -> Tensors:
        """Sums of the scores of the tasks that the bank has now, ``float64 shape``."""
        if not len(self._bank):
            return {}
        path = self._path(len(self._bank))
        shapes = {p.name: p.shape for p in self._bank.network.parameters}
        remedy = "restore it, or start again in another bank (--transfer masks needs no file)"
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                sums = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read: {error}; {remedy}") from error
        if told.get("tasks") != _fingerprint(self._bank):
            raise InputError(f"{path}: is of other tasks than the bank has now; {remedy}")
        if {key: tuple(value.shape) for key, value in sums.items()} != shapes:
            raise InputError(f"{path}: its tensors must have the shapes {shapes}; {remedy}")
        return sums


def _from_masks(mean: Tensor, fresh: Tensor, rule: Rule, count: int) -> Tensor:
    """Scores to begin with, from the mean of the masks so far; the paper leaves their scale open.

    Magnitudes stay random, within the bound of fresh scores: were they equal for all weights, none
    would be near enough to change in a few hundred steps.

    ``threshold``: ``(2 mean - 1) |fresh| + fresh / (count + 1)``, over its largest factor. So a
    weight begins as most tasks have it; where half of them have it, as fresh scores do.

    ``top-k``: the magnitude ``(mean * bound + |fresh|) / 2``, with the sign of `fresh`. Every
    weight keeps a magnitude: at a score of 0 top-k has no gradient, and no task could take up a
    weight that no task before it had.
    """
    if rule.kind == "threshold":
        drawn = fresh / (count + 1)
        return ((2 * mean - 1) * fresh.abs() + drawn) * ((count + 1) / (count + 2))
    return fresh.sign() * (mean * score_bound(tuple(fresh.shape)) + fresh.abs()) / 2


def _fingerprint(bank: MaskBank, *more: str) -> str:
    """Of the SHA-256 of tasks' files: another task of the same name is another task."""
    files = [entry.sha256 for entry in bank.entries]
    return hashlib.sha256("\n".join([*files, *more]).encode()).hexdigest()
