"""Where the data lie that experiments need and the repository does not hold."""

from __future__ import annotations

import os
from pathlib import Path

from supsup_runtime.errors import InputError


class DataFolder:
    """The folder that holds ``mnist/`` and, for the shared masks, theirs."""

    def __init__(self, path: Path | None) -> None:
        """Take `path`, else what ``SUPSUP_DATA`` names."""
        named = os.environ.get("SUPSUP_DATA")
        self._path = path or (Path(named) if named else None)

    def find(self, name: str) -> Path:
        """The path of one thing in it.

        Raises:
            InputError: If no folder was named, or it does not hold it.
        """
        if self._path is None or not (self._path / name).exists():
            raise InputError(
                f"data: this experiment needs {name}, got {self._path or 'no folder'}; give the "
                f"folder that holds {name}/ with --data or SUPSUP_DATA (or try it with --tiny, on "
                "the bundled digits)"
            )
        return self._path / name

    def dataset(self, source: str) -> str | None:
        """What `load_dataset` takes for a bank's source."""
        return None if source == "digits" else str(self.find(source))
