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

from supsup_runtime.bank import MaskBank
from supsup_runtime.bits import unpack_mask
from supsup_runtime.errors import InputError
from supsup_runtime.files import inside, write_whole
from supsup_train.learning import Tensors
from supsup_train.recipe import Recipe

__all__ = ["Transfer"]


class Transfer:
    """Initial scores for the next task of a bank; one writer at a time."""

    def __init__(self, bank: MaskBank, recipe: Recipe) -> None:
        """Look at what the bank's tasks left.

        Raises:
            InputError: If the mean of scores is wanted, and that of the bank's tasks is missing,
                damaged, or of other tasks.
        """
        self._bank, self._recipe = bank, recipe
        self._sums: Tensors = {}
        if recipe.transfer == "scores" and len(bank):
            self._sums = self._read()

    def start(self, fresh: Tensors) -> Tensors:
        """Scores to begin the next task with, by parameter; fresh ones where none came before.

        Of the scores, their mean. Of the masks, with `m` their mean, ``(2 m - 1) * |fresh|`` where
        the rule is a threshold, so that a weight begins as most tasks have it; ``m * |fresh|`` for
        top-k, which ranks magnitudes. The paper leaves the scale open; at a magnitude equal for all
        weights, none would be near enough to change in a few hundred steps.

        Args:
            fresh: ``float32 shape`` by parameter.
        """
        count = len(self._bank)
        if self._recipe.transfer == "none" or not count:
            return fresh
        if self._recipe.transfer == "scores":
            return {name: (total / count).float() for name, total in self._sums.items()}
        means = {p.name: np.zeros(p.shape) for p in self._bank.network.parameters}
        for task in self._bank:
            for p in self._bank.network.parameters:
                means[p.name] += unpack_mask(task.masks[p.name], p.shape)
        start: Tensors = {}
        for p in self._bank.network.parameters:
            mean = torch.from_numpy(means[p.name] / count).float()
            ranked = mean if self._recipe.rule.kind == "top-k" else 2 * mean - 1
            start[p.name] = ranked * fresh[p.name].abs()
        return start

    def remember(self, name: str, scores: Tensors) -> None:
        """Take in the scores of a task that the bank is about to get.

        Args:
            name: The task's.
            scores: ``float32 shape`` by parameter, as they were learned.
        """
        if self._recipe.transfer != "scores":
            return
        for key, value in scores.items():
            total = self._sums.get(key, torch.zeros(value.shape, dtype=torch.float64))
            self._sums[key] = total + value.double()
        path = self._path(len(self._bank) + 1)
        path.parent.mkdir(exist_ok=True)
        told = {"tasks": _fingerprint(self._bank.digest, [*self._bank.task_names, name])}
        write_whole(path, save(self._sums, metadata=told))

    def tidy(self) -> None:
        """Remove what the bank has gone past, once it has the task."""
        kept = self._path(len(self._bank))
        for old in kept.parent.glob("*.safetensors"):
            if old != kept:
                old.unlink()

    def _path(self, count: int) -> Path:
        return inside(self._bank.path, f"transfer/{count:04d}.safetensors")

    def _read(self) -> Tensors:
        path = self._path(len(self._bank))
        shapes = {p.name: p.shape for p in self._bank.network.parameters}
        remedy = "restore it, give --transfer masks, which needs no file, or another bank"
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                sums = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read: {error}; {remedy}") from error
        if told.get("tasks") != _fingerprint(self._bank.digest, list(self._bank.task_names)):
            raise InputError(f"{path}: is of other tasks than the bank has now; {remedy}")
        if {key: tuple(value.shape) for key, value in sums.items()} != shapes:
            raise InputError(f"{path}: its tensors must have the shapes {shapes}; {remedy}")
        return sums


def _fingerprint(digest: str, names: list[str]) -> str:
    return hashlib.sha256("\n".join([digest, *names]).encode()).hexdigest()
