"""Folders of pictures: one folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from supsup_runtime.data.own.parts import Source, check_known, checked_classes, natural
from supsup_runtime.data.own.pictures import look, read_picture, require_pillow
from supsup_runtime.errors import DataError


def picture_folder(
    folder: Path, classes: Sequence[str] | None, *, test: bool = False, others: Sequence[str] = ()
) -> Source:
    """Find the pictures in a folder of classes, each a folder of pictures.

    Args:
        folder: Its files and folders whose names begin with a dot are left out.
        classes: Names of the folders, by label; None takes all in natural order.
        test: Whether some of `classes` may be missing.
        others: Names of folders that may be there too, and are left out.

    Raises:
        DataError: If Pillow is missing, or the folder is not made that way.
    """
    require_pillow(folder)
    found = [path.name for path in folders_in(folder, "folders of classes")]
    names = checked_classes(folder, found if classes is None else classes)
    check_known(folder, found, (*names, *others))
    missing = [name for name in names if name not in found]
    if missing and not test:
        raise DataError(f"{folder}: must have a folder for each class, got none {missing[0]!r}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        here = [] if name in missing else pictures_in(folder / name)
        paths += here
        labels += [label] * len(here)

    def hashed(row: int) -> bytes:
        with paths[row].open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    return Source(
        place=str(folder),
        classes=names,
        labels=np.array(labels, np.int64),
        dtype="uint8",
        name=lambda row: str(paths[row].relative_to(folder.parent)),
        looker=lambda: lambda row: look(paths[row]),
        reader=lambda: lambda row: read_picture(paths[row]),
        hasher=lambda: hashed,
    )


def folders_in(folder: Path, what: str) -> list[Path]:
    """Return the folders in a folder, or raise `DataError` if there are none or other files."""
    found = entries(folder)
    files = [path.name for path in found if not path.is_dir()]
    if files or not found:
        got = f"the file {files[0]!r}" if files else "nothing"
        raise DataError(f"{folder}: must hold {what} alone, got {got}")
    return found


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder and not hidden, in natural order."""
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in found:
        if not path.name.isprintable():
            raise DataError(f"{folder}: names must be printable, got {path.name!r}; rename it")
    return sorted(found, key=lambda path: natural(path.name))


def pictures_in(folder: Path) -> list[Path]:
    """Return the files in a folder, or raise `DataError` if there are none or other folders."""
    found = entries(folder)
    folders = [path.name for path in found if path.is_dir()]
    if folders or not found:
        got = f"the folder {folders[0]!r}" if folders else "none"
        raise DataError(f"{folder}: must hold pictures alone, got {got}")
    return found
