"""What supsup-train does for own tasks alone."""

from __future__ import annotations

import argparse
from typing import cast

from supsup_runtime.bank.network import Network
from supsup_runtime.console import print_result, to_table
from supsup_runtime.data.options import tasks_of
from supsup_runtime.data.own import OwnTasks, Tasks, check
from supsup_runtime.errors import InputError
from supsup_train.cli.options import bank_network

_CLASSES = 10
MAX_CLASSES_HELP = (
    "own: outputs to reserve for the classes of a task when the bank is made (default: "
    f"{_CLASSES}, or the most classes there are)"
)


def print_check(arguments: argparse.Namespace) -> None:
    """Print what there is to say about own tasks (``--check``)."""
    network = bank_network(arguments.bank) if arguments.bank else None
    steps = network.preprocessing if network else None
    made = tasks_of(arguments, num_tasks=1, layout="image", preprocessing=steps)
    tasks = cast(OwnTasks, made)  # it refuses --check with streams
    found, steps = check(tasks), tasks.preprocessing
    inputs = f"inputs: {steps.mode}, {steps.size[0]} x {steps.size[1]}"
    lines = [to_table(*found.table()), inputs, *(found.findings or ["nothing to mend"])]
    print_result(found.to_dict(), as_json=False, text="\n".join(lines))
    unreadable = sum(len(task["unreadable"]) for task in found.tasks)
    if unreadable and not arguments.skip_unreadable:
        raise InputError(
            f"{tasks.place}: pictures that cannot be read: {unreadable}; mend or remove them, or "
            "leave them out with --skip-unreadable"
        )


def reserved_outputs(
    tasks: Tasks, wanted: int | None, network: Network | None, outputs: int | None
) -> int:
    """Return the real outputs of a bank for these tasks.

    Args:
        tasks: The tasks to learn.
        wanted: ``--max-classes``, or None.
        network: Of the bank, if it exists.
        outputs: ``--outputs``, if given.

    Raises:
        InputError: If a task has more classes.
    """
    if not isinstance(tasks, OwnTasks):
        return tasks.real_outputs
    most = tasks.real_outputs
    reserved = wanted or (network.real_outputs if network else max(_CLASSES, most))
    if most > reserved:
        name = tasks.task_names[[*map(len, tasks.task_labels)].index(most)]
        remedy = "give another --bank, and" if network else "give"
        raise InputError(
            f"{tasks.place}: task {name!r} has {most} classes, outputs are reserved for "
            f"{reserved}; {remedy} --max-classes {most}"
        )
    if outputs is not None and outputs < reserved:
        raise InputError(
            f"--outputs: must be at least {reserved}, reserved for classes (--max-classes), got "
            f"{outputs}"
        )
    return reserved
