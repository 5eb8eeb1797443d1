"""Command-line options that describe a stream of tasks."""

from __future__ import annotations

import argparse

from supsup_runtime.console import Options, Row, add_options, whole
from supsup_runtime.data.sources import Dataset
from supsup_runtime.data.streams import (
    LABEL_KINDS,
    MAX_SEED,
    MAX_TASKS,
    STREAM_KINDS,
    Layout,
    Stream,
    make_stream,
)


def add_stream_options(made: Options, *, tasks: str) -> None:
    """Add the options of a stream; `tasks` is the default of ``--tasks`` in the help."""
    made.add_argument("stream", choices=STREAM_KINDS, help="kind of task stream")
    made.add_argument(
        "--data",
        metavar="PATH",
        help="folder of IDX files, or .npz file (default: scikit-learn digits)",
    )
    text = "labels of split tasks: own (from 0 in each task) or shared (as in the data set)"
    rows: list[Row] = [
        ("--tasks", whole(1, MAX_TASKS), None, f"number of tasks (default: {tasks})"),
        ("--labels", LABEL_KINDS, "own", text),
        ("--seed", whole(0, MAX_SEED), 0, "random seed"),
    ]
    add_options(made, rows)


def stream_of(
    arguments: argparse.Namespace, dataset: Dataset, *, num_tasks: int, layout: Layout
) -> Stream:
    """Make the stream that the options describe, with `num_tasks` as default of ``--tasks``.

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
