"""Settings of the paper by name (``--preset``)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from supsup_runtime.console import CommandParser
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.errors import InputError
from supsup_train.cli.options import parsed

_ALL: dict[str, Any] = {
    "er": 16.0,
    "lr": 1e-3,
    "lr_schedule": "cosine",
    "optimizer": "adam",
    "rule": "top-k",
}
_PAPER: dict[str, dict[str, Any]] = {
    "splitcifar100": {
        "augment": "crop,flip",
        "batch_size": 128,
        "epochs": 250,
        "model": "gem-resnet18",
        "outputs": 5,
        "weight_decay": 1e-4,
    },
    "splitimagenet": {
        "augment": "resized,flip",
        "batch_size": 256,
        "epochs": 100,
        "model": "resnet-50",
        "outputs": 10,
        "warmup": 0.05,
    },
}
"""Settings by stream; the warm-up takes 5 of 100 epochs."""
_INSTEAD = {"module": "model", "density": "er"}
"""Options that replace a setting."""
PRESETS = ("paper",)


def with_preset(
    made: Callable[[], CommandParser], words: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the arguments; settings of the preset take the place of defaults.

    They have ``epochs``, of which `steps_of` makes steps; without a preset these are None.
    """
    arguments, parser = parsed(made(), words), made()
    settings = {"epochs": None}
    if arguments.preset:
        if arguments.stream not in _PAPER:
            raise InputError(
                f"--preset: goes with {' or '.join(_PAPER)}, got {arguments.stream}; leave it out"
            )
        settings |= _ALL | _PAPER[arguments.stream]
        for given, setting in _INSTEAD.items():
            if getattr(arguments, given) is not None:
                del settings[setting]
    parser.set_defaults(**settings)
    found = parsed(parser, words)
    if found.rule != _ALL["rule"]:
        found.er = arguments.er  # the preset's goes with its rule
    return found


def steps_of(epochs: int, batch_size: int, tasks: Tasks) -> int:
    """Return the steps of so many passes over the training images of the first task."""
    if isinstance(tasks, OwnTasks):
        count = len(tasks.parts[0][0].rows)
    else:
        data = tasks.dataset
        count = len(data.train_y) * len(tasks.task_labels[0]) // data.num_classes
    return epochs * max(1, count // batch_size)
