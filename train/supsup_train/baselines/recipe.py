"""What a baseline is, and the settings it is learned with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from supsup_runtime.errors import InputError
from supsup_train.masks.recipe import OptimizerKind, Recipe

BaselineMethod = Literal[
    "batche", "batche-random", "psp", "heads", "heads-random", "dense", "sequence"
]
METHODS: tuple[BaselineMethod, ...] = get_args(BaselineMethod)
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
    """How a baseline is learned; `of` gives each method's own settings.

    Attributes:
        method: One of `METHODS`.
        optimizer: ``rmsprop``, ``adam``, or ``sgd`` with momentum 0.9.
        first_learning_rate: Of the first task, in which weights that tasks share may be learned.
        learning_rate: Of every later task.
        steps: Batches a task.
        batch_size: Inputs a batch; all of them where there are fewer.
        seed: Of everything random, together with a task's name.
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

    @classmethod
    def of(cls, method: BaselineMethod) -> BaselineRecipe:
        """The settings of the paper's code for PermutedMNIST, where it has any.

        BatchE: Adam, 1e-4 for the first task, in which all is learned, then 1e-2 for the vectors;
        1e-2 throughout where the weights stay random. PSP: RMSprop, 1e-4. Separate heads: Adam,
        1e-3 for the first task, then 1e-2. The bounds are learned as masks are: RMSprop, 1e-4.

        Raises:
            InputError: If there is no such method.
        """
        optimizer, first, rate = _settings_of(method)
        return cls(
            method=method, optimizer=optimizer, first_learning_rate=first, learning_rate=rate
        )

    def with_options(self, **options: object) -> BaselineRecipe:
        """The same with other settings; those that are None stay.

        A `learning_rate` alone is the first task's, too, where that had the same one as all others.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if "learning_rate" in given and self.first_learning_rate == self.learning_rate:
            given.setdefault("first_learning_rate", given["learning_rate"])
        return replace(self, **given)  # type: ignore[arg-type]  # checked by the constructor

    def phase(self, *, first: bool) -> Recipe:
        """How the first task, or a later one, is learned."""
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
