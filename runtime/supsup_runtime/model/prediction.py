"""The result of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Floats
from supsup_runtime.errors import InputError
from supsup_runtime.model.inference import TaskInference
from supsup_runtime.model.metadata import TaskInfo


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Prediction for a batch.

    Attributes:
        logits: ``float32 (batch, outputs)``, superfluous outputs included.
        tasks: Task of each row.
        inferences: One for the batch or one per row; empty if the task was given or the model was
            exported to infer only.
    """

    logits: Floats
    tasks: tuple[TaskInfo, ...]
    inferences: tuple[TaskInference, ...] = ()

    @property
    def label_indices(self) -> npt.NDArray[np.int64]:
        """Index of the largest of the task's own outputs per row, ``int64 (batch,)``."""
        own = np.array([task.real_outputs for task in self.tasks])
        others = np.arange(self.logits.shape[1]) >= own[:, None]
        return np.asarray(np.where(others, -np.inf, self.logits).argmax(axis=1), np.int64)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each row in its task; the index as text if the task has no labels."""
        pairs = zip(self.tasks, self.label_indices.tolist(), strict=True)
        return tuple(_label(task, index) for task, index in pairs)

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


def _label(task: TaskInfo, index: int) -> str:
    return task.labels[index] if index < len(task.labels) else str(index)
