"""Data outside the repository."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from tools.example_pictures import make_real_tasks

from supsup_runtime.errors import InputError

Source = Literal["mnist", "cifar10", "digits", "pictures"]
_PLACES = {"mnist": "mnist", "cifar10": "cifar10-small/cifar10-small.npz"}


class DataFolder:
    """A folder with ``mnist/``, ``cifar10-small/`` and the shared masks.

    Args:
        path: The folder; None is ``SUPSUP_DATA``.
        made: Folder for the pictures of own tasks, which are made of them.
    """

    def __init__(self, path: Path | None, made: Path) -> None:
        named = os.environ.get("SUPSUP_DATA")
        self._path = path or (Path(named) if named else None)
        self._made = made

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
        """Return the option ``--data``; None leaves it out."""
        if source == "digits":
            return None
        return str(self._pictures() if source == "pictures" else self.find(_PLACES[source]))

    def _pictures(self) -> Path:
        """Return the folder of the twelve own tasks (docs/REPRODUCIBILITY.md), made once."""
        folder = self._made / "pictures"
        if not folder.exists():
            places = [self.find(_PLACES[source]) for source in ("mnist", "cifar10")]
            self._made.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._made) as unfinished:
                make_real_tasks(Path(unfinished) / "pictures", *places).rename(folder)
        return folder
