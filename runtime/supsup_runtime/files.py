"""Atomic writes, safe paths and the writer's lock."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from supsup_runtime.errors import BankError, BankLockedError, OutputExistsError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds.

    Otherwise `path` is unchanged. Only a killed process leaves the temporary file; the next writer
    removes it with `remove_parts`.
    """
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
    with part.open("xb") as file:  # permissions follow the umask
        with suppress(OSError):  # no locks here
            _flock(file)  # its writer lives
        try:
            yield part
            os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def remove_parts(folder: Path, *names: str) -> None:
    """Remove the temporary files of killed writers of the files named; others stay."""
    wanted = tuple(f".{name[:200]}." for name in names)
    for path in list(folder.iterdir()):
        if path.name.startswith(wanted) and path.suffix == ".part":
            with suppress(OSError):  # its writer lives, or it is a link or pipe
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
                with os.fdopen(os.open(path, flags), "r+b") as file:
                    _flock(file)
                    path.unlink()


def _flock(file: IO[bytes]) -> None:
    import fcntl  # POSIX only; readers do not need it

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds its old bytes or all new ones."""
    with whole_file(path) as part:
        part.write_bytes(data)


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` if `path` is a folder, or exists without `force`."""
    if path.is_dir():
        raise OutputExistsError(f"{path}: is a folder, expected the path of a file")
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists already; pass --force to replace it")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a bank's writer lock, which the system frees when the process ends.

    Raises:
        BankLockedError: If another process holds it.
    """
    import fcntl  # POSIX only; readers do not need it

    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BankLockedError(
                f"{folder}: another process is writing to this bank; wait for it to end"
            ) from error
        yield


def inside(folder: Path, relative: str) -> Path:
    """Return the path of a bank's file.

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
        except OSError as error:  # name too long
            raise BankError(f"{folder}: {error.strerror}: {relative!r:.80}") from error
        if is_link:
            raise BankError(f"{path}: symbolic links are refused in a bank; copy the file here")
    return path


def read_file(path: Path, *, max_bytes: int) -> bytes:
    """Read a bank's file.

    Raises:
        BankError: If it is missing, not a regular file, or larger than `max_bytes`.
    """
    with suppress(FileNotFoundError):  # removed meanwhile
        if path.is_file():
            size = path.stat().st_size
            if size > max_bytes:
                raise BankError(f"{path}: must have at most {max_bytes} bytes, got {size}")
            return path.read_bytes()
    raise BankError(f"{path}: missing; restore it from a copy of the bank")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # make the rename durable
    finally:
        os.close(descriptor)
