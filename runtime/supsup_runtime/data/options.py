"""Command-line options that describe tasks: a stream, or one's own."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from supsup_runtime.console import Options, Row, add_options, say, whole
from supsup_runtime.data.named import NAMED_STREAMS, unnamed
from supsup_runtime.data.own import OwnTasks, Tasks, read_tasks
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
from supsup_runtime.preprocessing import MODES, Preprocessing

_STREAMS_ONLY = ("tasks", "labels")
_OWN_ONLY = ("size", "mode", "skip_unreadable")


def add_stream_options(made: Options, *, tasks: str) -> None:
    """Add the options of a stream; `tasks` is the default of ``--tasks`` in the help."""
    text = f"kind of tasks; {', '.join(NAMED_STREAMS)}: split as in the paper; own: your own"
    made.add_argument("stream", choices=(*STREAM_KINDS, *NAMED_STREAMS, "own"), help=text)
    text = "folder of IDX files or .npz file (default: scikit-learn digits); own: tasks.toml, or "
    made.add_argument("--data", metavar="PATH", help=text + "a folder with a folder for each task")
    text = "labels of split tasks: own (from 0 in each task) or shared (as in the data set) "
    rows: list[Row] = [
        ("--tasks", whole(1, MAX_TASKS), None, f"number of tasks (default: {tasks})"),
        ("--labels", LABEL_KINDS, None, text + "(default: own)"),
        ("--seed", whole(0, MAX_SEED), 0, "random seed"),
        (
            "--size",
            _size,
            None,
            "own: height and width of inputs, as 32 or 24x32 (default: of all)",
        ),
        ("--mode", MODES, None, "own: colours of inputs (default: of all)"),
    ]
    add_options(made, rows)
    text = "own: leave out pictures that cannot be read, and count them"
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
    own = arguments.stream == "own"
    for name in _STREAMS_ONLY if own else _OWN_ONLY:
        if getattr(arguments, name):
            option, goes = "--" + name.replace("_", "-"), "streams" if own else "stream own"
            raise InputError(f"{option}: goes with {goes}, got {arguments.stream}; leave it out")
    if own:
        return _own_tasks(arguments, layout, preprocessing)
    return make_stream(
        arguments.stream,
        load_dataset(arguments.data),
        num_tasks=arguments.tasks or num_tasks,
        seed=arguments.seed,
        layout=layout,
        labels=arguments.labels or "own",
    )


def _own_tasks(
    arguments: argparse.Namespace, layout: Layout, preprocessing: Preprocessing | None
) -> OwnTasks:
    if arguments.data is None:
        raise InputError("--data: stream own needs a tasks.toml, or a folder of tasks, got none")
    size, mode, skip = arguments.size, arguments.mode, arguments.skip_unreadable
    if preprocessing is None:
        return read_tasks(arguments.data, size=size, mode=mode, layout=layout, skip_unreadable=skip)
    for name, given in (("size", size), ("mode", mode)):
        if given not in {None, getattr(preprocessing, name)}:
            raise InputError(
                f"--{name}: must be {getattr(preprocessing, name)}, as the bank or model has it, "
                f"got {given}; leave it out"
            )
    return prepared_alike(arguments.data, preprocessing, layout=layout, skip_unreadable=skip)


def prepared_alike(
    source: str | Path,
    preprocessing: Preprocessing,
    *,
    layout: Layout = "image",
    skip_unreadable: bool = False,
) -> OwnTasks:
    """Find own tasks whose pictures are prepared as a bank or model needs them.

    Raises:
        DataError: See `read_tasks`.
        InputError: If the file says otherwise.
    """
    tasks = read_tasks(
        source,
        size=preprocessing.size,
        mode=preprocessing.mode,
        layout=layout,
        skip_unreadable=skip_unreadable,
    )
    wanted, got = preprocessing.to_dict(), tasks.preprocessing.to_dict()
    other = [
        f"{name} must be {wanted[name]}, got {got[name]}"
        for name in got
        if got[name] != wanted[name]
    ]
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
