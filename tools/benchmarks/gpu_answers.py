"""What `tools/gpu_check.py` asks a model, and by how much two devices' answers differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from supsup_runtime.arrays import Array
from supsup_runtime.model.metadata import ModelInfo

Result = dict[str, Any]
Answers = dict[str, tuple[Array, str]]
"""Numbers and an answer in words, by question."""
LIMITS = {"known": 1e-4, "one-shot": 3e-5, "verified": 1e-4, "step": 1e-5, "recovery": 0.02}
NOT_EXACT = 3e-2
"""What answers may differ by, of the largest number, and what one-shot scores may that are not
exact (docs/CONTRACT.md); of a recovered mask, the fraction of bits."""


def ask(model: Any) -> Iterator[tuple[str, Array, str]]:  # noqa: ANN401 - of either kind
    """All that a loaded model is asked about random inputs: its name, numbers, and an answer."""
    info, rng = model.info, np.random.default_rng(0)
    batches = rng.standard_normal((6, 64, *info.network.input_shape), np.float32)
    x = batches[0, :3]
    if info.mode == "recover":
        mask = rng.random(info.network.num_masked, np.float32)
        yield "step", model.step(x, mask, 1.0, 1e-3).gradient, ""
        recovered = model.recover(list(batches))
        yield "recovery", recovered.mask, recovered.verdict
    if info.mode in {"full", "known"}:
        tasks = sorted({0, len(info.tasks) // 2, len(info.tasks) - 1})
        yield "known", np.concatenate([model.logits(x, task) for task in tasks]), ""
    if info.mode in {"full", "infer"}:
        found = model.predict(x, method="one-shot")
        scores = found.inferences[0].scores if found.inferences else found.logits
        yield "one-shot", scores, found.tasks[0].name
    if info.mode == "full":
        inference = model.infer_task(x, method="verified")
        yield "verified", inference.scores, inference.task.name


def compared(info: ModelInfo, device: str, first: Answers, answers: Answers) -> Iterator[Result]:
    """A row for each question that the first device answered."""
    for name, (one, answer) in first.items():
        other, its_answer = answers[name]
        rough = name == "one-shot" and info.scoring != "exact"
        limit, off = NOT_EXACT if rough else LIMITS[name], difference(one, other)
        row = {"question": name, "device": device, "limit": limit, "ok": off <= limit}
        row |= {"answers": [answer, its_answer]}
        yield row | {"difference": off if math.isfinite(off) else None}


def difference(one: Array, other: Array) -> float:
    """Of two devices' numbers; NaN where one has NaN, infinite where none can be compared."""
    if one.dtype == np.bool_:
        return float(np.mean(one != other))
    both = ~(np.isneginf(one) | np.isneginf(other))  # which a task has that was not tried
    if not both.any():
        return math.inf
    scale = np.abs(one[both]).max() or 1
    return float(np.abs(one[both] - other[both]).max() / scale)
