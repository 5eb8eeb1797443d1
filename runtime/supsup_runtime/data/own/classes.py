"""One folder of pictures for each class of a data set, such as ImageNet's, dealt to split tasks."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from supsup_runtime.arrays import checked_path, checked_whole
from supsup_runtime.data.dataset import MAX_CLASSES
from supsup_runtime.data.groups import class_groups
from supsup_runtime.data.own.folders import folders_in, picture_folder
from supsup_runtime.data.own.opening import test_folder
from supsup_runtime.data.own.parts import Part, everything
from supsup_runtime.data.own.tasks import OwnTasks, made
from supsup_runtime.data.reading import reading
from supsup_runtime.data.streams import MAX_SEED
from supsup_runtime.errors import DataError
from supsup_runtime.files import mode_of, system_errors

MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet's training pictures: red, green and blue."""
STD = (0.229, 0.224, 0.225)


def are_classes(path: str | Path | None) -> bool:
    """Return whether a path is meant for `read_classes`.

    Raises:
        FileError: If the system refuses, as for a name too long.
    """
    train = Path(str(path)) / "train"
    with system_errors(train, "read"):
        return bool(path) and stat.S_ISDIR(mode_of(train))


def read_classes(
    source: str | Path,
    *,
    num_tasks: int,
    classes_per_task: int | None = None,
    class_seed: int | None = None,
    **options: Any,
) -> OwnTasks:
    """Find the split tasks of a folder of pictures, which are read when asked for.

    Args:
        source: A folder with ``train`` and ``test`` or ``val``, each with a folder for each class.
        num_tasks: As in `make_stream`.
        classes_per_task: As there, of at least two.
        class_seed: As there; classes are in natural order before.
        **options: `size`, `mode`, `layout` and `skip_unreadable`, as in `read_tasks`. Pictures in
            RGB are normalised as ImageNet's are, gray ones each by its own mean and deviation.

    Raises:
        DataError: See `make_stream` and `read_tasks`.
    """
    folder, place = checked_path(source, error=DataError), str(source)
    for name, value, least, most in (
        ("num_tasks", num_tasks, 1, MAX_CLASSES),
        ("classes_per_task", classes_per_task, 1, MAX_CLASSES),
        ("class_seed", class_seed, 0, MAX_SEED),
    ):
        if value is not None:
            checked_whole(f"split stream: {name}", value, least, most, error=DataError)
    with reading(folder):
        test = test_folder(folder)
        if test is None:
            raise DataError(f"{place}: must hold train, and test or val, of pictures by class")
        every = [path.name for path in folders_in(folder / "train", "folders of classes")]
        names, groups = class_groups(place, len(every), num_tasks, classes_per_task, class_seed)
        parts: dict[str, tuple[Part, Part]] = {}
        for name, group in zip(names, groups, strict=True):
            classes = [every[label] for label in group]
            pair = (
                picture_folder(folder / "train", classes, others=every),
                picture_folder(test, classes, others=every, test=True),
            )
            if not len(pair[1].labels):
                raise DataError(f"{test}: task {name!r} needs a test picture, got none")
            parts[name] = everything(pair[0]), everything(pair[1])
    tasks = made(place, parts, {}, **options)
    steps = tasks.preprocessing
    if steps.mode == "rgb":
        steps = replace(steps, mean=MEAN, std=STD)
    return replace(tasks, preprocessing=steps, kind="split")
