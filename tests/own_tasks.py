"""Tasks of one's own in tests: damaged data, and the prototype's tasks as folders of PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.example_pictures import make_real_tasks

from shared_data import shared_data
from supsup_runtime.errors import DataError


def one_line(use: Callable[[], object]) -> None:
    """Use damaged data: it works, or is refused in one line."""
    try:
        use()
    except DataError as error:
        if "\n" in str(error):
            raise


def from_prototype(folder: Path) -> Path:
    """Make the tasks of digits and photographs from the shared data."""
    cifar = shared_data("cifar10-small") / "cifar10-small.npz"
    return make_real_tasks(folder, shared_data("mnist"), cifar)
