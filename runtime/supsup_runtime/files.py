"""Atomic writes, bounded reads, safe paths and the writer's lock.

Files are opened without following links and without waiting, and must be regular files: the folder
can come from a stranger, or another user can write in it.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

from supsup_runtime.errors import (
    BankError,
    BankLockedError,
    FileError,
    OutputExistsError,
    SupSupError,
)

_PART = re.compile(r"\..+\.part")
_SHORT = 200
"""Characters of a name that its temporary file's has too."""
_UNBLOCKED = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK"))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_IS_LINK = {errno.ELOOP, errno.EMLINK}  # EMLINK: FreeBSD
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""There is nothing at a path: a part of it is missing, is no folder, or is a link to itself."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_REMEDIES = {
    errno.ENOSPC: "free space on the disk",
    errno.EDQUOT: "free space, the user's quota is used up",
    errno.EROFS: "choose a folder that can be written",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EACCES: "change its permissions, or choose another path",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds.

    Otherwise `path` is unchanged. Only a killed process leaves the temporary file; the next writer
    removes it with `remove_parts`.

    Raises:
        FileError: If the system refuses, or the block raises an `OSError`.
    """
    part = path.with_name(f".{path.name[:_SHORT]}.{secrets.token_hex(8)}.part")
    with system_errors(path, "written"), part.open("xb") as file:  # permissions follow the umask
        with suppress(OSError):  # no locks here: nobody can hold the bank's either
            flock(file)  # its writer lives
        try:
            yield part
            os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds its old bytes or all new ones."""
    with whole_file(path) as part, regular_file(part, "r+b") as file:
        file.write(data)


def remove_parts(folder: Path, *names: str) -> None:
    """Remove the temporary files of killed writers, of any file or only of those named.

    Links, folders, and files whose writer lives stay.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    wanted = tuple(f".{name[:_SHORT]}" for name in names) or "."
    for name in os.listdir(folder):  # noqa: PTH208 - a path for each takes most of the time
        if name.startswith(wanted) and _PART.fullmatch(name):
            with suppress(BankError, OSError), regular_file(folder / name, "r+b") as file:
                flock(file)
                (folder / name).unlink()


def mode_of(path: str | Path, *, links: bool = True) -> int:
    """Return type and permissions of what is at `path`, of a link itself if not `links`; or 0.

    Raises:
        OSError: If the system refuses, as for a name too long: `Path.exists` and its like are
            silent then, since Python 3.14.
    """
    try:
        return os.stat(path, follow_symlinks=links).st_mode  # noqa: PTH116 - or a text
    except OSError as error:
        if error.errno in _NOTHING:
            return 0
        raise
    except ValueError:  # a NUL
        return 0


def refuse_overwrite(path: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` if `path` is no regular file, or exists without `force`."""
    mode = mode_of(path)
    if stat.S_ISDIR(mode):
        raise OutputExistsError(f"{path}: is a folder, expected the path of a file")
    if mode and not stat.S_ISREG(mode):
        raise OutputExistsError(f"{path}: is a device or pipe, expected the path of a file")
    if mode and not force:
        raise OutputExistsError(f"{path}: exists already; pass --force to replace it")


@contextmanager
def exclusive(folder: Path, name: str = ".lock", doing: str = "writing to") -> Iterator[None]:
    """Hold a bank's lock, by default the writer's; the system frees it when the process ends.

    Raises:
        BankLockedError: If another process holds it, or the file system has no locks.
    """
    with regular_file(folder / name, "ab") as lock:
        try:
            flock(lock)
        except BlockingIOError as error:
            raise BankLockedError(
                f"{folder}: another process is {doing} this bank; wait for it to end"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise system_error(folder / name, "locked", error) from error
            raise BankLockedError(
                f"{folder}: the file system cannot lock files ({error.strerror}), so a bank cannot "
                "be changed there; change a copy on a local disk, and copy it back"
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
    path = str(folder)
    for part in parts:
        path = f"{path}/{part}"
        try:
            is_link = stat.S_ISLNK(mode_of(path, links=False))
        except OSError as error:  # name too long
            raise BankError(f"{folder}: {error.strerror}: {relative!r:.80}") from error
        if is_link:
            raise _link(Path(path))
    return Path(path)


def read_file(path: Path, *, max_bytes: int, links: bool = False) -> bytes:
    """Read a regular file of at most `max_bytes`; see `regular_file`.

    Raises:
        BankError: If it is larger.
    """
    with regular_file(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BankError(f"{path}: must have at most {max_bytes} bytes, got {size}")
        data: bytes = file.read(size + 1)
    if len(data) > size:
        raise BankError(f"{path}: grew while it was read; try again when it is complete")
    return data


@contextmanager
def regular_file(
    path: Path,
    mode: str = "rb",
    *,
    links: bool = False,
    error: type[SupSupError] = BankError,
    missing: str = "missing; restore it from a copy of the bank",
) -> Iterator[IO[Any]]:
    """Open a regular file, or create it with mode ``a``, without waiting for a pipe's other end.

    Links are followed only if `links`, for a path that a person gave.

    Raises:
        BankError: Or another `error`, if it is `missing`, or is no regular file.
        FileError: If it cannot be opened, or, with mode ``rb``, read.
    """
    extra = _UNBLOCKED if links else _UNBLOCKED | _NO_LINK
    remedy = "give the path of a file" if links else "remove it"
    irregular = f"{path}: must be a regular file, is a folder, pipe or device; {remedy}"
    try:
        file = open(  # noqa: SIM115 - closed below; Path.open has no opener
            path, mode, opener=lambda name, flags: os.open(name, flags | extra, 0o666)
        )
    except io.UnsupportedOperation as cause:  # a pipe cannot be read and written
        raise error(irregular) from cause
    except (FileNotFoundError, NotADirectoryError, ValueError) as cause:  # ValueError: a NUL
        raise error(f"{path}: {missing}") from cause
    except OSError as cause:
        if cause.errno in _IS_LINK and not links:
            raise _link(path, error) from cause
        if cause.errno in {errno.EISDIR, errno.ENXIO}:  # ENXIO: nobody reads the pipe
            raise error(irregular) from cause
        raise system_error(path, "opened", cause) from cause
    with file, system_errors(path, "read") if mode == "rb" else nullcontext():
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise error(irregular)
        yield file


@contextmanager
def system_errors(path: Path, done: str) -> Iterator[None]:
    """Raise the system's errors as `FileError`, for a `path` that cannot be `done`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SupSupError | BrokenPipeError):
            raise
        raise system_error(path, done, error) from error


def system_error(path: Path, done: str, error: OSError) -> FileError:
    """Return a `FileError` with the system's reason and a remedy."""
    remedy = _REMEDIES.get(error.errno or 0, "check the disk, and the path")
    return FileError(f"{path}: cannot be {done}: {error.strerror or error}; {remedy}")


def _link(path: Path, error: type[SupSupError] = BankError) -> SupSupError:
    where = " in a bank" if error is BankError else ""
    return error(f"{path}: symbolic links are refused{where}; copy the file here")


def flock(file: IO[Any]) -> None:
    """Lock a file until it is closed.

    Raises:
        OSError: If it is locked (`BlockingIOError`), or the file system has no locks.
    """
    import fcntl  # POSIX only; readers do not need it

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # make the rename durable
    except OSError as error:
        if error.errno != errno.EINVAL:  # SMB and some of FUSE sync no folders
            raise
    finally:
        os.close(descriptor)
