"""The options of every command that takes a stream of tasks, and the stream they ask for."""

from __future__ import annotations

import argparse

from supsup_runtime.console import Options, Row, add_options, positive
from supsup_runtime.data.sources import Dataset
from supsup_runtime.data.streams import LABEL_KINDS, STREAM_KINDS, Layout, Stream, make_stream


def add_stream_options(made: Options, *, tasks: str) -> None:
    """Add ``stream``, ``--data``, ``--tasks``, ``--labels`` and ``--seed``.

    Args:
        made: A parser, or a group of its options.
        tasks: What ``--tasks`` is if missing, as the help says it.
    """
    made.add_argument("stream", choices=STREAM_KINDS, help="kind of the stream of tasks")
    made.add_argument(
        "--data",
        metavar="PATH",
        help="folder of IDX files, or an .npz (default: the digits of scikit-learn)",
    )
    text = "of split tasks: own, counted from 0 in each task, or shared, the data set's"
    rows: list[Row] = [
        ("--tasks", positive, None, f"number of tasks (default: {tasks})"),
        ("--labels", LABEL_KINDS, "own", text),
        ("--seed", int, 0, "seed of all that is drawn"),
    ]
    add_options(made, rows)


def stream_of(
    arguments: argparse.Namespace, dataset: Dataset, *, num_tasks: int, layout: Layout
) -> Stream:
    """The stream that `add_stream_options` describes.

    Args:
        arguments: Of a command with these options.
        dataset: What ``--data`` names, loaded.
        num_tasks: Tasks where ``--tasks`` is missing.
        layout: Of the inputs.

    Raises:
        DataError: As `make_stream`.
    """
    return make_stream(
        arguments.stream,
        dataset,
        num_tasks=arguments.tasks or num_tasks,
        seed=arguments.seed,
        layout=layout,
        labels=arguments.labels,
    )
