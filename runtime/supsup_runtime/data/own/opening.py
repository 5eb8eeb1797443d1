"""From the description of a task to its pictures for training and for the test."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from supsup_runtime.data.own.description import Section
from supsup_runtime.data.own.folders import entries, picture_folder
from supsup_runtime.data.own.parts import Part, Source, everything, held_out
from supsup_runtime.data.own.stored import stored_pictures
from supsup_runtime.errors import DataError

_DIVIDED = ({"train", "test"}, {"train", "val"})


def opened(section: Section) -> tuple[Part, Part]:
    """Return training and test part of a task: labels read, pictures unread.

    Raises:
        DataError: If the data are missing or break the rules (docs/DATA.md).
    """
    train = _source(section, section.data, section.classes, test=False)
    has_test = len(section.data) == 1 and _has_test(section.data[0])
    if has_test and (section.test or section.says_held_out):
        raise DataError(f"{section.place}: its data have a test part; leave out test")
    if has_test or section.test:
        test = _source(section, section.test or section.data, train.classes, test=True)
        parts = everything(train), everything(test)
    else:
        parts = held_out(train, section.held_out, section.seed)
    counts = parts[0].counts()
    if 0 in counts:
        empty = train.classes[counts.index(0)]
        raise DataError(f"{train.place}: a class must have pictures, got none of {empty!r}")
    return parts


def _source(
    section: Section, paths: Sequence[Path], classes: Sequence[str] | None, *, test: bool
) -> Source:
    path = paths[0]
    for each in paths:
        if not each.exists():
            raise DataError(f"{section.place}: {each} does not exist")
    pair = len(paths) == 2 and all(each.is_file() for each in paths)
    stored = path.is_file() and path.suffix in {".npz", ".csv"} and len(paths) == 1
    if pair or stored or _is_idx(path):
        shape, channels = section.shape, section.channels
        return stored_pictures(paths, classes, test=test, shape=shape, channels=channels)
    if not path.is_dir() or section.shape:
        raise DataError(
            f"{section.place}: data must be a folder of pictures (without a shape) or of IDX "
            f"files, an .npz or .csv file, or a list of two .npy or IDX files, got {paths[0]}"
        )
    if tested := test_folder(path):
        path = tested if test else path / "train"
    return picture_folder(path, classes, test=test)


def _has_test(path: Path) -> bool:
    if path.suffix == ".npz" and path.is_file():
        with zipfile.ZipFile(path) as archive:
            return "x_test.npy" in archive.namelist()
    return path.is_dir() and (_is_idx(path) or test_folder(path) is not None)


def _is_idx(folder: Path) -> bool:
    return any(folder.glob("train-images?idx3-ubyte*"))


def test_folder(folder: Path) -> Path | None:
    """Return the test part of a folder with ``train`` and ``test`` or ``val``; None of others."""
    names = {path.name for path in entries(folder)}
    if any(names > parts for parts in _DIVIDED):
        raise DataError(
            f"{folder}: must hold train and test alone, or classes alone, got "
            f"{', '.join(sorted(names)):.200}"
        )
    return folder / min(names - {"train"}) if names in _DIVIDED else None
