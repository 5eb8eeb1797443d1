"""The paper's settings by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supsup_runtime.errors import InputError
from supsup_train.cli.options import DEFAULTS, take_defaults
from supsup_train.cli.presets import steps_of, with_preset
from supsup_train.cli.train import recipe_of, training_parser
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.rules import Rule
from tiny_streams import pictures

PAPER = Recipe(
    rule=Rule(kind="top-k", density=16, budget="er"),
    steps=1000,
    optimizer="adam",
    learning_rate=1e-3,
    schedule="cosine",
)
"""What both presets share; epochs make the steps."""


def settings(*words: str) -> tuple[Recipe, Any]:
    arguments = with_preset(training_parser, [*words, "--bank", "masks"])
    arguments.steps = arguments.steps or 1000
    take_defaults(arguments, *DEFAULTS)
    return recipe_of(arguments), arguments


def test_splitcifar100() -> None:
    recipe, arguments = settings("splitcifar100", "--preset", "paper")
    assert recipe == replace(
        PAPER,
        batch_size=128,
        weight_decay=1e-4,
        augment="crop,flip",
    )
    assert (arguments.model, arguments.outputs, arguments.epochs) == ("gem-resnet18", 5, 250)


def test_splitimagenet() -> None:
    recipe, arguments = settings("splitimagenet", "--preset", "paper")
    assert recipe == replace(
        PAPER,
        batch_size=256,
        warmup=50,
        augment="resized,flip",
    )
    assert (arguments.model, arguments.outputs, arguments.epochs) == ("resnet-50", 10, 100)


def test_options_that_are_given_win() -> None:
    words = ["--er", "4", "--lr", "0.1", "--steps", "7", "--seed", "3", "--augment", "none"]
    recipe, _ = settings("splitcifar100", "--preset", "paper", *words)
    assert recipe.rule == Rule(kind="top-k", density=4, budget="er")
    assert (recipe.learning_rate, recipe.steps, recipe.seed) == (0.1, 7, 3)
    assert recipe.augment == "none"
    assert recipe.batch_size == 128
    recipe, _ = settings("splitcifar100", "--preset", "paper", "--density", "0.2")
    assert recipe.rule == Rule(kind="top-k", density=0.2)
    recipe, _ = settings("splitcifar100", "--preset", "paper", "--rule", "threshold")
    assert recipe.rule == Rule(kind="threshold")
    with pytest.raises(InputError, match="--density, --er: go with --rule top-k, got --rule thr"):
        settings("splitcifar100", "--preset", "paper", "--rule", "threshold", "--er", "4")
    _, arguments = settings("splitcifar100", "--preset", "paper", "--module", "net.py:make")
    assert arguments.model is None or arguments.module


def test_without_a_preset_all_is_as_ever() -> None:
    recipe, arguments = settings("splitcifar100")
    assert recipe == Recipe()
    assert arguments.epochs is None


@pytest.mark.parametrize("stream", ["permuted", "split", "own"])
def test_other_streams_have_none(stream: str) -> None:
    message = f"--preset: goes with splitcifar100 or splitimagenet, got {stream}; leave it out"
    with pytest.raises(InputError, match=message):
        settings(stream, "--preset", "paper")


@pytest.mark.parametrize("share", ["1", "-0.1", "nan"])
def test_a_warmup_that_is_no_share_is_refused(share: str) -> None:
    with pytest.raises(InputError, match=r"--warmup: must be in \[0, 1\), got"):
        settings("split", f"--warmup={share}")


def test_epochs_become_steps_of_whole_batches() -> None:
    stream = pictures(tasks=2, classes=6, images=72)  # 36 in each
    assert steps_of(250, 8, stream) == 250 * 4
    assert steps_of(3, 100, stream) == 3
