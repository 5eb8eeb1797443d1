"""Initial scores from earlier tasks (paper, section 3.5).

``transfer/NNNN.safetensors`` beside the bank's files has the sum of scores of the first `NNNN`
tasks. The new file is written before a task is added, the old one removed after, so one always
matches the bank.
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
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import BankError, InputError
from supsup_runtime.files import inside, regular_file, remove_parts, write_whole
from supsup_train.masks.learning import Tensors, score_bound
from supsup_train.masks.recipe import Recipe, TransferKind
from supsup_train.masks.rules import Rule


class Transfer:
    """Initial scores from the running mean of earlier masks or scores (paper, section 3.5).

    The paper uses the mean of masks, its code that of scores. Each task depends on those before it
    and their order. Only one process at a time may write.

    Args:
        bank: Bank of the tasks.
        recipe: Training settings with the kind of transfer.

    Attributes:
        kind: ``none``, ``masks`` or ``scores``.

    Raises:
        InputError: If the network has no masked parameters, or the file with the sum of ``scores``
            is missing, damaged, or of other tasks.
    """

    def __init__(self, bank: MaskBank, recipe: Recipe) -> None:
        self._bank, self._rule = bank, recipe.rule
        self._counted: list[str] = []
        self._counts: dict[str, Scores] = {}
        self.kind: TransferKind = recipe.transfer
        if self.kind != "none" and not bank.network.parameters:
            raise InputError(
                f"{bank.path}: transfer {self.kind!r} needs masked parameters, the network has "
                "none; use 'none'"
            )
        if self.kind == "scores":
            self._sums()

    def start(self, fresh: Tensors) -> Tensors:
        """Return the initial scores of the next task.

        Args:
            fresh: Random scores, ``float32 shape`` by parameter.

        Returns:
            ``float32 shape`` by parameter: the mean of earlier scores, or `fresh` scaled by the
            mean of earlier masks. An empty bank, or ``none``, gives `fresh`.

        Raises:
            InputError: As the constructor.
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
        """Store the scores of a task; call this before you add the task to the bank.

        Args:
            task: The task.
            scores: Its learned scores, ``float32 shape`` by parameter.

        Raises:
            InputError: As the constructor.
        """
        if self.kind != "scores":
            return
        sums = self._sums()
        more = {key: sums.get(key, 0.0) + value.double() for key, value in scores.items()}
        own = hashlib.sha256(self._bank.encode(task)).hexdigest()
        tasks = _fingerprint(self._bank, own)
        path = self._path(len(self._bank) + 1)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, save(more, metadata={"tasks": tasks}))

    def tidy(self) -> None:
        """Remove outdated files; call this after you add a task to the bank."""
        kept = self._path(len(self._bank))
        remove_parts(kept.parent)
        for old in kept.parent.glob("*.safetensors"):
            if old != kept:
                old.unlink()

    def _ones(self) -> dict[str, Scores]:
        """Count the masks that keep each weight; read only new tasks unless others changed."""
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
        if not len(self._bank):
            return {}
        path = self._path(len(self._bank))
        shapes = {p.name: p.shape for p in self._bank.network.parameters}
        remedy = "restore it, or start again in another bank (--transfer masks needs no file)"
        try:
            with regular_file(path), safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                sums = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (BankError, OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read: {error}; {remedy}") from error
        if told.get("tasks") != _fingerprint(self._bank):
            raise InputError(f"{path}: must be of the bank's tasks, is of others; {remedy}")
        if {key: tuple(value.shape) for key, value in sums.items()} != shapes:
            raise InputError(f"{path}: its tensors must have the shapes {shapes}; {remedy}")
        return sums


def _from_masks(mean: Tensor, fresh: Tensor, rule: Rule, count: int) -> Tensor:
    """Return initial scores from the mean of `count` masks; the paper leaves their scale open.

    Magnitudes stay random: with equal ones no score would change sign within a few hundred steps.

    ``threshold``: ``(2 mean - 1) |fresh| + fresh / (count + 1)`` over its largest factor, so a
    weight starts as in most tasks. ``top-k``: ``(mean * bound + |fresh|) / 2`` with the sign of
    `fresh`. It is never 0, where top-k has no gradient.
    """
    if rule.kind == "threshold":
        drawn = fresh / (count + 1)
        return ((2 * mean - 1) * fresh.abs() + drawn) * ((count + 1) / (count + 2))
    return fresh.sign() * (mean * score_bound(tuple(fresh.shape)) + fresh.abs()) / 2


def _fingerprint(bank: MaskBank, *more: str) -> str:
    files = [entry.sha256 for entry in bank.entries]
    return hashlib.sha256("\n".join([*files, *more]).encode()).hexdigest()
