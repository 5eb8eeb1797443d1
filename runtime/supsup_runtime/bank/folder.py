"""The folder of a bank besides its index: files, interrupted creations, leftovers of writers."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from supsup_runtime.bank.index import BankEntry, BankIndex, differentiated, write_index
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.stored import write_stored
from supsup_runtime.bank.task import TaskMasks, decode_task, max_task_bytes
from supsup_runtime.errors import BankError, OutputExistsError
from supsup_runtime.files import (
    exclusive,
    inside,
    read_file,
    remove_parts,
    system_errors,
    write_whole,
)

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


def create_files(
    folder: Path, network: Network, forward: bytes, gradient: bytes | None
) -> BankIndex:
    """Write the files of a bank without tasks, the index last; see `MaskBank.create`."""
    with system_errors(folder, "created"):
        if folder.exists():
            _refuse_used(folder)  # before creating .lock
        folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        _refuse_used(folder)
        with system_errors(folder, "created"):
            for name in ("programs", "tasks"):
                inside(folder, name).mkdir(exist_ok=True)
        programs = {"forward": _write_program(folder, "forward", forward)}
        if gradient is not None:
            programs["gradient"] = _write_program(folder, "gradient", gradient)
        digest = network.digest(forward)
        write_stored(folder, network, digest)
        objectives = differentiated(network, with_gradient=gradient is not None)
        index = BankIndex(
            network=network, digest=digest, objectives=objectives, programs=programs, entries=()
        )
        return write_index(folder, index)


def _refuse_used(folder: Path) -> None:
    """Raise `OutputExistsError` unless a folder is blank."""
    if not is_blank(folder):
        raise OutputExistsError(
            f"{folder}: exists and is not an empty folder; open it, or choose another path"
        )


def remove_leftovers(folder: Path, entries: tuple[BankEntry, ...]) -> None:
    """Remove leftovers of writers and unindexed task files, with the lock held."""
    tasks = inside(folder, "tasks")
    remove_parts(folder, *_LOCKED)
    remove_parts(folder / "programs")
    remove_parts(tasks)
    indexed = {entry.file for entry in entries}
    names = os.listdir(tasks)  # noqa: PTH208 - a path for each takes most of the time
    left = [n for n in names if f"tasks/{n}" not in indexed and _WRITTEN.fullmatch(n)]
    named = files_in_use(entries) if left else set()
    for name in left:
        file = tasks / name
        unnamed = f"tasks/{name}".casefold() not in named
        if unnamed and file.is_file() and not file.is_symlink():
            file.unlink(missing_ok=True)


def files_in_use(entries: Iterable[BankEntry]) -> set[str]:
    """Return the files of entries, case folded."""
    return {entry.file.casefold() for entry in entries}


def _write_program(folder: Path, name: str, data: bytes) -> BankEntry:
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


def write_task(folder: Path, name: str, data: bytes, used: Collection[str]) -> BankEntry:
    """Write a task's file beside those in use, and return its entry."""
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"tasks/{name}.safetensors"
    if file.casefold() in used:
        file = f"tasks/{name}+{sha256[:8]}.safetensors"
    write_whole(inside(folder, file), data)
    return BankEntry(name=name, file=file, sha256=sha256)


def read_task(
    folder: Path, entry: BankEntry, network: Network, digest: str, newest: int, *, intact: bool
) -> tuple[bytes, TaskMasks]:
    """Read and check a task of the index; see `decode_task`."""
    data = read_entry(folder, entry, max_task_bytes(network))
    place = f"{folder}/{entry.file}"
    task = decode_task(data, network, digest, place=place, newest=newest, intact=intact)
    if task.name != entry.name:
        raise BankError(f"{place}: task name must be {entry.name!r}, got {task.name!r}")
    return data, task
