"""Command-line options that describe a stream of tasks."""

from __future__ import annotations

import argparse

from supsup_runtime.console import Options, Row, add_options, positive
from supsup_runtime.data.sources import Dataset
from supsup_runtime.data.streams import LABEL_KINDS, STREAM_KINDS, Layout, Stream, make_stream


def add_stream_options(made: Options, *, tasks: str) -> None:
    """Add ``stream``, ``--data``, ``--tasks``, ``--labels`` and ``--seed``.

    Args:
        made: A parser or option group.
        tasks: Default of ``--tasks``, as the help shows it.
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
    """Make the stream that the options of `add_stream_options` describe.

    Args:
        arguments: Parsed options.
        dataset: Data set loaded from ``--data``.
        num_tasks: Default of ``--tasks``.
        layout: Layout of the inputs.

    Raises:
        DataError: See `make_stream`.
    """
    return make_stream(
        arguments.stream,
        dataset,
        num_tasks=arguments.tasks or num_tasks,
        seed=arguments.seed,
        layout=layout,
        labels=arguments.labels,
    )
