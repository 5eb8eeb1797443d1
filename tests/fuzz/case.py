"""A case: the files that a target reads and what it does with them; it can be kept as one zip."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WORDS = "words.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Input of a target.

    Attributes:
        files: Content by path, below the case's folder.
        words: What else the target is told, as JSON.
        odd: What else lies there, by path: ``folder``, ``fifo``, or ``link:`` and where it leads.
    """

    files: Mapping[str, bytes]
    words: Mapping[str, Any] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> None:
        """Lay the files out in an empty folder."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for name, kind in self.odd.items():
            _make_odd(folder / name, kind)

    def keep(self, path: Path) -> None:
        """Write the case to a zip; equal cases give equal bytes."""
        told = json.dumps({"odd": dict(self.odd), "words": dict(self.words)}, sort_keys=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted({**self.files, _WORDS: told.encode()}.items()):
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 9)


def read_case(path: Path) -> Case:
    """Read what `Case.keep` wrote."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return Case(files=files, **json.loads(files.pop(_WORDS)))


def read_files(folder: Path) -> dict[str, bytes]:
    """Read all files below a folder, by relative path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _make_odd(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(kind.removeprefix("link:"))
