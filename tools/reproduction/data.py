"""Data outside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from supsup_runtime.errors import InputError

Source = Literal["mnist", "cifar10", "digits"]
_PLACES = {"mnist": "mnist", "cifar10": "cifar10-small/cifar10-small.npz"}


class DataFolder:
    """A folder with ``mnist/``, ``cifar10-small/`` and the shared masks."""

    def __init__(self, path: Path | None) -> None:
        """Use `path`, else ``SUPSUP_DATA``."""
        named = os.environ.get("SUPSUP_DATA")
        self._path = path or (Path(named) if named else None)

    def find(self, name: str) -> Path:
        """Return the path of `name` in it.

        Raises:
            InputError: If no folder is given, or it lacks `name`.
        """
        if self._path is None or not (self._path / name).exists():
            raise InputError(
                f"data: this experiment needs {name}, got {self._path or 'no folder'}; give the "
                f"folder that holds {name}/ with --data or SUPSUP_DATA, or use --tiny"
            )
        return self._path / name

    def dataset(self, source: Source) -> str | None:
        """Return the argument of `load_dataset`."""
        return None if source == "digits" else str(self.find(_PLACES[source]))
