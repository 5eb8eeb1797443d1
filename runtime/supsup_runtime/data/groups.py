"""Which classes of a data set each task of a split stream has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supsup_runtime.errors import DataError

Group = Sequence[int]
"""Classes of a task, in the order of its labels."""


def class_groups(
    place: str,
    num_classes: int,
    num_tasks: int,
    classes_per_task: int | None,
    class_seed: int | None = None,
) -> tuple[tuple[str, ...], list[Group]]:
    """Return names and classes of tasks (docs/DATA.md).

    Raises:
        DataError: If there are too few classes, or they do not divide evenly.
    """
    size = _group_size(place, num_classes, num_tasks, classes_per_task)
    firsts = range(0, num_tasks * size, size)
    if class_seed is None:
        groups = [range(first, first + size) for first in firsts]
        width = len(str(num_classes - 1))
        return tuple(f"split-{_span(group, width)}" for group in groups), [*groups]
    order: list[int] = np.random.RandomState(class_seed).permutation(num_classes).tolist()
    # with the size, since groups of another size have other classes by the same number
    names = tuple(f"split-s{class_seed}-c{size}-{index:04}" for index in range(num_tasks))
    return names, [order[first : first + size] for first in firsts]


def _group_size(place: str, num_classes: int, num_tasks: int, classes_per_task: int | None) -> int:
    if num_tasks > num_classes:
        raise DataError(
            f"{place}: a split stream has at most one task for each of the {num_classes} "
            f"classes, got {num_tasks} tasks"
        )
    most = num_classes // num_tasks
    if classes_per_task is None:
        if num_classes % num_tasks:
            raise DataError(
                f"{place}: {num_classes} classes must divide evenly into split tasks, got "
                f"{num_tasks} tasks; choose another number, or give classes_per_task"
            )
        return most
    if classes_per_task > most:
        raise DataError(
            f"{place}: classes_per_task must be in [1, {most}] for {num_tasks} split tasks "
            f"of {num_classes} classes, got {classes_per_task}"
        )
    return classes_per_task


def _span(group: range, width: int) -> str:
    ends = (group[0],) if len(group) == 1 else (group[0], group[-1])
    return "-".join(f"{label:0{width}}" for label in ends)
