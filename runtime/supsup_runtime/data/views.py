"""How each kind of task sees a data set: names of the tasks, and a function that makes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from supsup_runtime.arrays import Floats, Labels, Values
from supsup_runtime.data.dataset import MAX_CLASSES, Dataset
from supsup_runtime.data.groups import Group, class_groups
from supsup_runtime.errors import DataError

View: TypeAlias = Callable[[int, Values, Labels], tuple[Values, Labels]]
"""Makes inputs and labels of the task of an index from those of the data set."""
NO_CLASS = -1
"""Label of pictures that are of every task."""


def require_images(dataset: Dataset, what: str, remedy: str) -> None:
    """Refuse features, which are no pictures."""
    if dataset.train_x.ndim == 2:
        raise DataError(
            f"{dataset.name}: {what} needs images (height, width) or (height, width, channels), "
            f"got {dataset.train_x.shape[1]} features; {remedy}"
        )


def permuted(num_tasks: int, seed: int) -> tuple[tuple[str, ...], View]:
    """Permute the flat values of every input."""
    # fixed width, so that longer streams keep the names of shorter ones
    names = tuple(f"permuted-{index:04}" for index in range(num_tasks))
    return names, partial(_view_permuted, seed=seed)


def order_of(index: int, values: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the order in which a permuted task sees flat values, ``int64 (values,)``."""
    # RandomState's stream is frozen; the paper's code and the shared masks use it
    return np.random.RandomState(seed + index).permutation(values)


def _view_permuted(index: int, x: Values, y: Labels, *, seed: int) -> tuple[Values, Labels]:
    flat = x.reshape(len(x), -1)
    return np.take(flat, order_of(index, flat.shape[1], seed), axis=1), y


def view_flat(_index: int, x: Values, y: Labels) -> tuple[Values, Labels]:
    """Return flat inputs as they are."""
    return x.reshape(len(x), -1), y


def rotated(dataset: Dataset, num_tasks: int, degrees: float) -> tuple[tuple[str, ...], View]:
    """Turn every image counter-clockwise, by `degrees` more for each task."""
    require_images(dataset, "a rotated stream", "use permuted or split")
    if num_tasks * degrees > 360 * (1 + 1e-12):  # allow 7 * (360 / 7)
        raise DataError(
            f"rotated stream: num_tasks * degrees must be at most 360, or tasks would repeat, "
            f"got {num_tasks} * {degrees} = {num_tasks * degrees}; take at most "
            f"{int(360 / degrees)} tasks or {360 / num_tasks:g} degrees"
        )
    angles = [index * degrees for index in range(num_tasks)]
    decimals = _decimals(angles)
    width = 3 + (decimals + 1 if decimals else 0)  # point and decimals
    names = tuple(f"rotated-{angle:0{width}.{decimals}f}" for angle in angles)
    return names, partial(_view_rotated, degrees=degrees)


def _decimals(angles: list[float]) -> int:
    """Return the fewest decimals, up to three, that write every angle exactly."""
    for decimals in range(3):
        if all(abs(round(angle, decimals) - angle) < 1e-9 for angle in angles):
            return decimals
    return 3


def _view_rotated(index: int, x: Values, y: Labels, *, degrees: float) -> tuple[Values, Labels]:
    try:
        from scipy import ndimage
    except ImportError as error:
        raise DataError(
            "rotated stream: needs scipy, which is not installed; pip install 'supsup[train]'"
        ) from error
    turned: Floats = ndimage.rotate(
        x,  # (images, channels, height, width)
        index * degrees,
        axes=(2, 3),
        reshape=False,
        output=np.float32,
        order=1,
        mode="constant",
        cval=0.0,
    )
    return turned, y


def split(
    dataset: Dataset,
    num_tasks: int,
    classes_per_task: int | None,
    *,
    shared: bool,
    class_seed: int | None = None,
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...], View]:
    """Return names, the tasks' own labels (empty if shared) and view."""
    names, groups = class_groups(
        dataset.name, dataset.num_classes, num_tasks, classes_per_task, class_seed
    )
    counts = np.bincount(dataset.test_y, minlength=dataset.num_classes)
    for group in groups:
        if not counts[group].any():
            raise DataError(
                f"{dataset.name}: each split task needs a test image, got none for classes "
                f"{group[0]} to {group[-1]}"
            )
    called = dataset.class_names
    labels = () if shared else tuple(tuple(called[label] for label in group) for group in groups)
    return names, labels, partial(_view_split, groups=groups, shared=shared)


def _view_split(
    index: int, x: Values, y: Labels, *, groups: list[Group], shared: bool
) -> tuple[Values, Labels]:
    group = groups[index]
    own = np.full(MAX_CLASSES + 1, -1)
    own[NO_CLASS] = 0
    own[group] = group if shared else np.arange(len(group))
    labels = own[y]
    return x[labels >= 0], labels[labels >= 0]


def mixed(
    dataset: Dataset, num_tasks: int, seed: int, degrees: float, classes_per_task: int | None
) -> tuple[tuple[str, ...], View]:
    """Deal tasks of each kind in turn; permuted ones never run out."""
    size = min(2, dataset.num_classes) if classes_per_task is None else classes_per_task
    groups = max(1, dataset.num_classes // size)
    turns = max(1, int(360 / degrees * (1 + 1e-12)))
    split_names, _, split_view = split(dataset, groups, size, shared=True)
    kinds = {
        "permuted": permuted(num_tasks, seed),
        "rotated": rotated(dataset, turns, degrees),
        "split": (split_names, split_view),
    }
    # skip the rotation by 0, whose images are those of the split tasks
    left = {kind: iter(range(kind == "rotated", len(names))) for kind, (names, _) in kinds.items()}
    dealt: list[tuple[str, int]] = []
    while len(dealt) < num_tasks:
        for kind, indices in left.items():
            dealt += ((kind, index) for index in islice(indices, 1))
    dealt = dealt[:num_tasks]
    views = [(kinds[kind][1], index) for kind, index in dealt]
    return tuple(kinds[kind][0][index] for kind, index in dealt), partial(_view_mixed, views=views)


def _view_mixed(
    index: int, x: Values, y: Labels, *, views: list[tuple[View, int]]
) -> tuple[Values, Labels]:
    view, of_kind = views[index]
    return view(of_kind, x, y)
