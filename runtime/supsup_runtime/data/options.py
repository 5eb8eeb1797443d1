"""Command-line options that describe tasks: a stream, or one's own."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from supsup_runtime.console import Options, Row, add_options, positive, say, whole
from supsup_runtime.data.named import NAMED_STREAMS, unnamed
from supsup_runtime.data.own import OwnTasks, Tasks, read_classes, read_tasks
from supsup_runtime.data.own.classes import are_classes
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import (
    LABEL_KINDS,
    MAX_SEED,
    MAX_TASKS,
    STREAM_KINDS,
    Layout,
    make_stream,
)
from supsup_runtime.errors import InputError
from supsup_runtime.preprocessing import MODES, Mode, Preprocessing

_PICTURED = ("size", "mode", "skip_unreadable")
_GO_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("tasks", "labels"), STREAM_KINDS),
    **dict.fromkeys(_PICTURED, ("own", "split")),
    **dict.fromkeys(("max_classes", "check"), ("own",)),  # of supsup-train
    "classes_per_task": ("split", "mixed"),
    "class_seed": ("split",),
    "degrees": ("rotated", "mixed"),
}
"""Streams of options that do not go with all."""


def add_stream_options(made: Options, *, tasks: str) -> None:
    """Add the options of a stream; `tasks` is the default of ``--tasks`` in the help."""
    text = f"kind of tasks; {', '.join(NAMED_STREAMS)}: split as in the paper; own: your own"
    made.add_argument("stream", choices=(*STREAM_KINDS, *NAMED_STREAMS, "own"), help=text)
    text = (
        "folder of IDX files or of CIFAR, or .npz file (default: scikit-learn digits); split: also "
    )
    text += "a folder of pictures, train/CLASS and test/CLASS; own: tasks.toml, or a folder with a "
    made.add_argument("--data", metavar="PATH", help=text + "folder for each task")
    text = "labels of split tasks: own (from 0 in each task) or shared (as in the data set) "
    rows: list[Row] = [
        ("--tasks", whole(1, MAX_TASKS), None, f"number of tasks (default: {tasks})"),
        ("--labels", LABEL_KINDS, None, text + "(default: own)"),
        ("--classes-per-task", positive, None, "classes of split tasks (default: all, evenly)"),
        (
            "--class-seed",
            whole(0, MAX_SEED),
            None,
            "split: deal classes in random order (default: in that of the data)",
        ),
        ("--degrees", float, None, "step of rotated tasks (default: 10)"),
        ("--seed", whole(0, MAX_SEED), 0, "random seed"),
        (
            "--size",
            _size,
            None,
            "pictures: height and width of inputs, as 32 or 24x32 (default: of all)",
        ),
        ("--mode", MODES, None, "pictures: colours of inputs (default: of all)"),
    ]
    add_options(made, rows)
    text = "leave out pictures that cannot be read, and count them"
    made.add_argument("--skip-unreadable", action="store_true", help=text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be like 32 or 24x32 (height x width), got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def tasks_of(
    arguments: argparse.Namespace,
    *,
    num_tasks: int,
    layout: Layout,
    preprocessing: Preprocessing | None,
) -> Tasks:
    """Make the tasks that the options describe.

    Args:
        arguments: With the options of `add_stream_options`.
        num_tasks: Default of ``--tasks``.
        layout: Of the inputs.
        preprocessing: Of the bank or model; own tasks take what the options do not say from it.

    Raises:
        DataError: See `make_stream` and `read_tasks`.
        InputError: If options do not go together, or own pictures are prepared otherwise.
    """
    arguments = unnamed(arguments)
    stream, source = arguments.stream, arguments.data
    for name, kinds in _GO_WITH.items():
        if stream not in kinds:
            goes = "streams" if kinds == STREAM_KINDS else f"stream {' or '.join(kinds)}"
            _refuse_given(arguments, name, f"goes with {goes}, got {stream}")
    own, dealt = stream == "own", stream == "split" and are_classes(source)
    if own and source is None:
        raise InputError("--data: stream own needs a tasks.toml, or a folder of tasks, got none")
    classes = {name: getattr(arguments, name) for name in ("classes_per_task", "class_seed")}
    classes["num_tasks"] = arguments.tasks or num_tasks
    if own or dealt:
        if dealt:
            _refuse_given(arguments, "labels", "goes with arrays, got a folder of pictures")
        read = partial(read_classes, **classes) if dealt else read_tasks
        given = {name: getattr(arguments, name) for name in _PICTURED}
        return own_tasks(source, preprocessing, read, layout=layout, **given)
    for name in _PICTURED:
        _refuse_given(arguments, name, f"goes with folders of pictures, got {source or 'digits'}")
    return make_stream(
        stream,
        load_dataset(source),
        seed=arguments.seed,
        layout=layout,
        labels=arguments.labels or "own",
        degrees=10.0 if arguments.degrees is None else arguments.degrees,
        **classes,
    )


def _refuse_given(arguments: argparse.Namespace, name: str, why: str) -> None:
    if getattr(arguments, name, None) not in {None, False}:
        raise InputError(f"--{name.replace('_', '-')}: {why}; leave it out")


def own_tasks(
    source: str | Path,
    preprocessing: Preprocessing | None,
    read: Callable[..., OwnTasks] = read_tasks,
    *,
    size: tuple[int, int] | None = None,
    mode: Mode | None = None,
    **options: Any,
) -> OwnTasks:
    """Find own tasks; their pictures are prepared as a bank or model needs them, if given.

    Raises:
        DataError: See `read`, which takes the other options.
        InputError: If an option or the file says otherwise.
    """
    if preprocessing is None:
        return read(source, size=size, mode=mode, **options)
    for name, value in (("size", size), ("mode", mode)):
        if value not in {None, getattr(preprocessing, name)}:
            raise InputError(
                f"--{name}: must be {getattr(preprocessing, name)}, as the bank or model has it, "
                f"got {value}; leave it out"
            )
    tasks = read(source, size=preprocessing.size, mode=preprocessing.mode, **options)
    wanted, got = preprocessing.to_dict(), tasks.preprocessing.to_dict()
    other = [f"{key} must be {wanted[key]}, got {x}" for key, x in got.items() if x != wanted[key]]
    if other:
        raise InputError(
            f"{source}: pictures must be prepared as by the bank or model: {'; '.join(other)}"
        )
    return tasks


def say_skipped(tasks: Tasks) -> None:
    """Print to stderr which pictures were left out."""
    for name, skipped in ((tasks.skipped or {}) if isinstance(tasks, OwnTasks) else {}).items():
        if skipped:
            few = ", ".join(list(skipped)[:3])
            say(f"{name}: {len(skipped)} pictures cannot be read and were left out, such as {few}")
