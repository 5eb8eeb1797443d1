"""Split streams of the paper by name."""

from __future__ import annotations

import argparse

NAMED_STREAMS: dict[str, dict[str, int]] = {
    "splitcifar100": {"classes_per_task": 5, "class_seed": 0},
    "splitimagenet": {"classes_per_task": 10, "class_seed": 1},
}
"""With the defaults of their options."""


def unnamed(arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the options of a named stream as those of a split one; others as they are."""
    if arguments.stream not in NAMED_STREAMS:
        return arguments
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    options = {**vars(arguments), **NAMED_STREAMS[arguments.stream], **given}
    return argparse.Namespace(**{**options, "stream": "split"})
