"""The tasks of a model, by what callers name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from supsup_runtime.arrays import check_sequence, checked_index, is_whole, shown
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import TaskInfo

TaskKey: TypeAlias = int | str | TaskInfo
"""A task's index or name, or the task itself."""


class TaskLookup:
    """Finds tasks of a model, given in index order."""

    def __init__(self, tasks: tuple[TaskInfo, ...]) -> None:
        self._tasks = tasks
        self._by_name = {task.name: task for task in tasks}

    def find(self, key: TaskKey) -> TaskInfo:
        """See `Model.task`."""
        if isinstance(key, str):
            if key in self._by_name:
                return self._by_name[key]
            names = [task.name for task in self._tasks[:3]] + ["..."] * (len(self._tasks) > 3)
            raise InputError(
                f"task {shown(key)}: not among the {len(self._tasks)} tasks of the model "
                f"({', '.join(names)})"
            )
        if isinstance(key, TaskInfo):
            found = self._by_name.get(key.name) if isinstance(key.name, str) else None
            if found is None or not is_whole(key.index) or found.index != key.index:
                where = "none" if found is None else f"index {found.index}"
                raise InputError(
                    f"task {shown(key.name)}: must have index {shown(key.index)} in the model, as "
                    f"in the TaskInfo, got {where}; take it from this model's tasks"
                )
            return found
        return self._tasks[checked_index("task index", key, len(self._tasks))]

    def of_rows(self, given: TaskKey | Sequence[TaskKey], rows: int) -> tuple[TaskInfo, ...]:
        """Return the task of each row, given one for all or one for each."""
        if isinstance(given, (str, int, np.generic, TaskInfo)):
            return (self.find(given),) * rows
        check_sequence("task", given, "a name, an index or a list of them")
        if len(given) != rows:
            raise InputError(
                f"task: expected one name or index, or one for each of the {rows} rows, got "
                f"{len(given)}"
            )
        return tuple(self.find(key) for key in given)
