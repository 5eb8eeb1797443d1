"""Atomic writes, safe paths and the writer's lock."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supsup_runtime.errors import BankError, BankLockedError, OutputExistsError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` if the block succeeds.

    After a crash, full disk or exception, `path` is unchanged. The temporary file is removed unless
    the process was killed.
    """
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
    part.touch(exist_ok=False)  # permissions by the process's umask
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` atomically: `path` holds its old bytes or all of the new ones."""
    with whole_file(path) as part:
        part.write_bytes(data)


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Refuse an existing output unless `force`.

    Raises:
        OutputExistsError: If `path` is a folder, or exists and `force` is false.
    """
    if path.is_dir():
        raise OutputExistsError(f"{path}: is a folder, expected the path of a file")
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists already; pass --force to replace it")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a bank's writer lock, which the system frees even if the process is killed.

    Raises:
        BankLockedError: If another process holds it.
    """
    import fcntl  # POSIX; reading a bank works without it

    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BankLockedError(
                f"{folder}: another process is writing to this bank; wait for it to end"
            ) from error
        yield


def inside(folder: Path, relative: str) -> Path:
    """Return the path of a file in a bank.

    Raises:
        BankError: If `relative` leaves the folder or passes a symbolic link.
    """
    parts = relative.split("/")
    if not relative or any(part in {"", ".", ".."} or "\\" in part for part in parts):
        raise BankError(f"{folder}: a file must lie inside the bank, got {relative!r}")
    path = folder
    for part in parts:
        path = path / part
        try:
            is_link = path.is_symlink()
        except OSError as error:  # a name that is too long
            raise BankError(f"{folder}: {error.strerror}: {relative!r:.80}") from error
        if is_link:
            raise BankError(f"{path}: symbolic links are refused in a bank; copy the file here")
    return path


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """Read a bank's file after checking its size.

    Raises:
        BankError: If it is missing, not a regular file, or larger than `max_bytes`.
    """
    with suppress(FileNotFoundError):  # removed between the two looks
        if path.is_file():
            size = path.stat().st_size
            if size > max_bytes:
                raise BankError(f"{path}: must have at most {max_bytes} bytes, got {size}")
            return path.read_bytes()
    raise BankError(f"{path}: missing; restore it from a copy of the bank")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the rename itself reaches the disk
    finally:
        os.close(descriptor)
