"""What a model says of a batch."""

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
    """What a model says of a batch; labels are looked up when they are asked for.

    Attributes:
        logits: ``float32 (batch, outputs)``, superfluous outputs included.
        real_outputs: Leading outputs that are labels.
        tasks: The task of each row.
        inferences: One for the batch, or one a row; empty where the task was given, or the model
            was exported to infer only.
    """

    logits: Floats
    real_outputs: int
    tasks: tuple[TaskInfo, ...]
    inferences: tuple[TaskInference, ...] = ()

    @property
    def label_indices(self) -> npt.NDArray[np.int64]:
        """``int64 (batch,)``, the largest real output."""
        return np.asarray(self.logits[:, : self.real_outputs].argmax(axis=1), np.int64)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of `label_indices` in each row's task; the index as text where it has no names."""
        pairs = zip(self.tasks, self.label_indices.tolist(), strict=True)
        return tuple(_label(task, index) for task, index in pairs)

    @property
    def known(self) -> tuple[bool | None, ...]:
        """Whether each row is of a known task, as `TaskInference.known`; None where not asked."""
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
            raise InputError("task: the rows have different tasks; read `tasks`, one a row")
        return self.tasks[0]


def _label(task: TaskInfo, index: int) -> str:
    return task.labels[index] if index < len(task.labels) else str(index)
