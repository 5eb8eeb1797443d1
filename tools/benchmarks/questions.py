"""Questions of `gpu_check` and `soak` to a model, and the difference of two answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.arrays import Array, Images
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.model import Model, load
from supsup_runtime.model.protobuf import read_metadata
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield

LIMITS = {"known": 1e-4, "one-shot": 3e-5, "rows": 3e-5, "verified": 1e-4}
LIMITS |= {"step": 1e-5, "recovery": 0.02}
"""How far answers on two devices may differ."""
NOT_EXACT = 3e-2
"""Limit for one-shot scores that are not exact (docs/CONTRACT.md)."""
Answer = tuple[Array, str]
"""Numbers, and a task or verdict."""
Question = Callable[[Any], Answer]
"""Takes a loaded `Model` or `HopfieldModel`."""


def opened(file: Path, **options: Any) -> Any:  # noqa: ANN401 - either class
    """Load a `Model` or `HopfieldModel`."""
    info = ModelInfo.from_metadata(read_metadata(file), place=str(file))
    return (load_hopfield if info.mode == "recover" else load)(file, **options)


def images(info: ModelInfo, *rows: int) -> Images:
    """Return the same standard normal inputs every time."""
    return np.random.default_rng(0).standard_normal((*rows, *info.network.input_shape), np.float32)


def questions(info: ModelInfo) -> dict[str, Question]:
    """Return by name the questions that suit a model; inputs are random."""
    x, batches = images(info, 3), list(images(info, 6, 64))
    mask = np.random.default_rng(1).random(info.network.num_masked, np.float32)
    tasks = sorted({0, len(info.tasks) // 2, len(info.tasks) - 1})

    def known(model: Model) -> Answer:
        return np.concatenate([model.logits(x, task) for task in tasks]), ""

    def one_shot(model: Model) -> Answer:
        found = model.predict(x, method="one-shot")
        scores = found.inferences[0].scores if found.inferences else found.logits
        return scores, found.tasks[0].name

    def rows(model: Model) -> Answer:
        found = model.infer_tasks(x, method="one-shot")
        return np.stack([each.scores for each in found]), found[0].task.name

    def verified(model: Model) -> Answer:
        inference = model.infer_task(x, method="verified")
        return inference.scores, inference.task.name

    def recovery(model: HopfieldModel) -> Answer:
        recovered = model.recover(batches)
        return recovered.mask, recovered.verdict

    if info.mode == "recover":
        return {
            "known": lambda model: (model.logits(x, mask < 0.5), ""),
            "step": lambda model: (model.step(x, mask, 1.0, 1e-3).gradient, ""),
            "recovery": recovery,
        }
    asked: dict[str, Question] = {"known": known, "one-shot": one_shot, "rows": rows}
    asked["verified"] = verified
    some = {"known": ["known"], "infer": ["one-shot"]}.get(info.mode, asked)
    return {name: asked[name] for name in some}


def difference(one: Array, other: Array) -> float:
    """Return the largest difference relative to the largest number, of bits the fraction.

    It is NaN if either has NaN, and infinite if nothing can be compared: scores of tasks that were
    not tried are -inf.
    """
    if one.dtype == np.bool_:
        return float(np.mean(one != other))
    both = ~(np.isneginf(one) | np.isneginf(other))
    if not both.any():
        return math.inf
    scale = np.abs(one[both]).max() or 1
    return float(np.abs(one[both] - other[both]).max() / scale)
