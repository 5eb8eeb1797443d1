"""The result of a prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Bits, Floats, Scores, about, checked_whole, shown
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import TaskInference
from supsup_runtime.model.metadata import TaskInfo

_SHOWN_ROWS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Prediction for a batch.

    Attributes:
        logits: ``float32 (batch, outputs)``, superfluous outputs included.
        tasks: Task of each row.
        inferences: One for the batch or one per row; empty if the task was given or the model was
            exported to infer only.
        timings: Milliseconds by stage, if `predict` was asked for them: ``prepare``, check and
            preprocess the inputs; ``infer`` the task; ``run`` the network, next to nothing where
            inferring gives the logits.
    """

    logits: Floats
    tasks: tuple[TaskInfo, ...]
    inferences: tuple[TaskInference, ...] = ()
    timings: Mapping[str, float] | None = None

    def __repr__(self) -> str:
        few = self._first(_SHOWN_ROWS)
        rows = [
            f"{shown(task.name)} {shown(label)} {chance:.2f}"
            for task, label, chance in zip(few.tasks, few.labels, few.confidence, strict=True)
        ]
        count = len(self.tasks)
        more = "..." if count > _SHOWN_ROWS else ""
        return about(self, f"of {count} row{'s' * (count != 1)}: {', '.join(rows)}", more)

    def _first(self, rows: int) -> Prediction:
        return replace(self, logits=self.logits[:rows], tasks=self.tasks[:rows])

    @property
    def label_indices(self) -> npt.NDArray[np.int64]:
        """Index of the largest of the task's own outputs per row, ``int64 (batch,)``."""
        counts = {task.real_outputs for task in self.tasks}
        if len(counts) == 1:
            return np.asarray(self.logits[:, : counts.pop()].argmax(axis=1), np.int64)
        return np.asarray(np.where(self._own, self.logits, -np.inf).argmax(axis=1), np.int64)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each row in its task; the index as text if the task has no labels."""
        pairs = zip(self.tasks, self.label_indices.tolist(), strict=True)
        return tuple(_label(task, index) for task, index in pairs)

    @property
    def probabilities(self) -> Scores:
        """Softmax over the outputs that are the row's task's own, ``float64 (batch, outputs)``.

        Others are 0. They say which label is likely if the task is right, and are not calibrated.
        """
        logits = np.where(self._own, self.logits.astype(np.float64), -np.inf)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    @property
    def confidence(self) -> Scores:
        """Probability of each row's label, ``float64 (batch,)`` in ``(0, 1]``."""
        return np.asarray(self.probabilities.max(axis=1))

    def top(self, k: int) -> tuple[tuple[tuple[str, float], ...], ...]:
        """Return the likeliest labels of each row with their probabilities, the first its label.

        Args:
            k: How many, at least 1; all of a task with fewer.

        Raises:
            InputError: If `k` is out of range.
        """
        k = checked_whole("k", k, 1)
        logits = np.where(self._own, self.logits, -np.inf)
        order = np.argsort(-logits, axis=1, kind="stable")  # of equal ones the lower index
        rows = zip(self.tasks, order.tolist(), self.probabilities.tolist(), strict=True)
        return tuple(
            tuple((_label(task, i), chances[i]) for i in best[: min(k, task.real_outputs)])
            for task, best, chances in rows
        )

    @property
    def known(self) -> tuple[bool | None, ...]:
        """`TaskInference.known` of each row; None without inference."""
        if len(self.inferences) == 1:
            return (self.inferences[0].known,) * len(self.tasks)
        return tuple(inference.known for inference in self.inferences) or (None,) * len(self.tasks)

    @property
    def task(self) -> TaskInfo:
        """The task of all rows.

        Raises:
            InputError: If rows have different tasks.
        """
        if len({task.index for task in self.tasks}) != 1:
            raise InputError("task: the rows have different tasks; use `tasks`, one per row")
        return self.tasks[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON, as ``supsup-run --json`` prints it.

        Per row: ``accepted`` (`known`), ``confidence``, ``labels``, ``logits`` of the task's own
        outputs, ``tasks`` (names). Per inference: ``margins`` (null if infinite), ``passes``. For
        all: ``method``, ``timings``, or null.
        """
        return {
            "accepted": list(self.known),
            "confidence": self.confidence.tolist(),
            "labels": list(self.labels),
            "logits": [
                row[: task.real_outputs].tolist()
                for row, task in zip(self.logits, self.tasks, strict=True)
            ],
            "margins": [
                margin if math.isfinite(margin) else None  # infinite for one task
                for margin in (inference.margin for inference in self.inferences)
            ],
            "method": self.inferences[0].method if self.inferences else None,
            "passes": [inference.passes for inference in self.inferences],
            "tasks": [task.name for task in self.tasks],
            "timings": None if self.timings is None else dict(self.timings),
        }

    @property
    def _own(self) -> Bits:
        """Outputs that are the row's task's own, ``bool (batch, outputs)``."""
        own = np.array([task.real_outputs for task in self.tasks])
        return np.asarray(np.arange(self.logits.shape[1]) < own[:, None])


def _label(task: TaskInfo, index: int) -> str:
    return task.labels[index] if index < len(task.labels) else str(index)
