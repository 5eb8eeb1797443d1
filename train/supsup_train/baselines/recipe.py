"""The training settings of baselines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from supsup_runtime.errors import InputError
from supsup_train.masks.recipe import OptimizerKind, Recipe

BaselineMethod = Literal[
    "batche", "batche-random", "psp", "heads", "heads-random", "dense", "sequence"
]
"""A baseline: BatchE, PSP, separate heads, ``dense`` (upper bound) or ``sequence`` (lower bound).

The shared weights of ``-random`` methods stay random; docs/BASELINES.md has a table.
"""

METHODS: tuple[BaselineMethod, ...] = get_args(BaselineMethod)
"""All baseline methods."""

_SETTINGS: dict[BaselineMethod, tuple[OptimizerKind, float, float]] = {
    "batche": ("adam", 1e-4, 1e-2),
    "batche-random": ("adam", 1e-2, 1e-2),
    "psp": ("rmsprop", 1e-4, 1e-4),
    "heads": ("adam", 1e-3, 1e-2),
    "heads-random": ("adam", 1e-2, 1e-2),
    "dense": ("rmsprop", 1e-4, 1e-4),
    "sequence": ("rmsprop", 1e-4, 1e-4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecipe:
    """Training settings of a baseline; `of` has the defaults of each method.

    Attributes:
        method: One of `METHODS`.
        optimizer: ``rmsprop``, ``adam``, or ``sgd`` with momentum 0.9.
        first_learning_rate: Learning rate of the first task, positive and finite.
        learning_rate: Learning rate of later tasks, positive and finite.
        steps: Batches per task, at least 1.
        batch_size: Inputs per batch, at least 1; smaller tasks use all their inputs.
        seed: Seed of all random values, combined with the task's name.

    Raises:
        InputError: If a setting is out of range.
    """

    method: BaselineMethod
    optimizer: OptimizerKind
    first_learning_rate: float
    learning_rate: float
    steps: int = 1000
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        _settings_of(self.method)
        for first in (True, False):
            self.phase(first=first)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as recorded with a task."""
        return asdict(self)

    @classmethod
    def of(cls, method: BaselineMethod) -> BaselineRecipe:
        """Return a method's settings, for PermutedMNIST and where possible from the paper's code.

        BatchE: Adam, 1e-4 for the first task, then 1e-2; separate heads: 1e-3, then 1e-2; with
        random shared weights: 1e-2. PSP and the bounds: RMSprop, 1e-4, as for masks.

        Args:
            method: One of `METHODS`.

        Returns:
            A recipe with the default steps, batch size and seed.

        Raises:
            InputError: If the method is unknown.
        """
        optimizer, first, rate = _settings_of(method)
        return cls(
            method=method, optimizer=optimizer, first_learning_rate=first, learning_rate=rate
        )

    def with_options(self, **options: object) -> BaselineRecipe:
        """Return a copy with the options that are not None replaced.

        Args:
            **options: Attributes of the recipe. A `learning_rate` alone also replaces an equal
                `first_learning_rate`.

        Returns:
            The changed recipe.

        Raises:
            InputError: If a setting is out of range.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "learning_rate" in given and self.first_learning_rate == self.learning_rate:
            given.setdefault("first_learning_rate", given["learning_rate"])
        return replace(self, **given)  # type: ignore[arg-type]  # checked by the constructor

    def phase(self, *, first: bool) -> Recipe:
        """Return the recipe of the first or a later task.

        Args:
            first: Whether the task is the first.

        Returns:
            A `Recipe` with the learning rate of that task.
        """
        return Recipe(
            steps=self.steps,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.first_learning_rate if first else self.learning_rate,
            seed=self.seed,
        )


def _settings_of(method: BaselineMethod) -> tuple[OptimizerKind, float, float]:
    if method not in METHODS:
        raise InputError(f"method: must be one of {list(METHODS)}, got {method!r}")
    return _SETTINGS[method]
