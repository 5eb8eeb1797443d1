"""The folder of a bank besides its index: files, interrupted creations, leftovers of writers."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from supsup_runtime.bank.index import BankEntry
from supsup_runtime.errors import BankError, OutputExistsError
from supsup_runtime.files import inside, read_file, remove_parts, system_errors, write_whole

_WRITTEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(\+[0-9a-f]{8})?\.safetensors")
"""Task file names as written."""
_LOCKED = (
    "bank.json",
    "calibration.json",
    "hopfield.safetensors",
    "shared.safetensors",
    "weights.safetensors",
)
"""Files beside the index that are written with the lock held."""
_CREATED: dict[str, set[str]] = {
    "": {".lock", ".training", "programs", "tasks", "weights.safetensors"},
    "programs": {"forward.onnx", "gradient.onnx"},
    "tasks": set(),
}
"""Names that a creation makes before the index, by folder."""


def is_blank(folder: Path) -> bool:
    """Return whether a folder holds at most leftovers of an interrupted creation."""
    return folder.is_dir() and not any(
        path.name not in known and path.suffix != ".part"
        for place, known in _CREATED.items()
        if (folder / place).is_dir()
        for path in (folder / place).iterdir()
    )


def refuse_used(folder: Path) -> None:
    """Raise `OutputExistsError` unless a folder is blank."""
    if not is_blank(folder):
        raise OutputExistsError(
            f"{folder}: exists and is not an empty folder; open it, or choose another path"
        )


def make_folders(folder: Path) -> None:
    """Make the folders of a new bank."""
    with system_errors(folder, "created"):
        for name in ("programs", "tasks"):
            inside(folder, name).mkdir(exist_ok=True)


def remove_leftovers(folder: Path, entries: tuple[BankEntry, ...]) -> None:
    """Remove leftovers of writers and unindexed task files, with the lock held."""
    tasks = inside(folder, "tasks")
    remove_parts(folder, *_LOCKED)
    remove_parts(folder / "programs")
    remove_parts(tasks)
    named = {entry.file.casefold() for entry in entries}
    for file in list(tasks.iterdir()):
        unnamed = f"tasks/{file.name}".casefold() not in named
        if unnamed and _WRITTEN.fullmatch(file.name) and file.is_file() and not file.is_symlink():
            file.unlink(missing_ok=True)


def write_program(folder: Path, name: str, data: bytes) -> BankEntry:
    """Write a program and return its entry."""
    file = f"programs/{name}.onnx"
    write_whole(inside(folder, file), data)
    return BankEntry(name=name, file=file, sha256=hashlib.sha256(data).hexdigest())


def read_entry(folder: Path, entry: BankEntry, max_bytes: int) -> bytes:
    """Read a file of the index and check its SHA-256."""
    path = inside(folder, entry.file)
    data = read_file(path, max_bytes=max_bytes)
    got = hashlib.sha256(data).hexdigest()
    if got != entry.sha256:
        raise BankError(
            f"{path}: the file is damaged or was changed: SHA-256 must be {entry.sha256}, got "
            f"{got}; restore it, or remove the task"
        )
    return data
