from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from supsup_runtime import files as files_module
from supsup_runtime.errors import BankError, BankLockedError, FileError, OutputExistsError
from supsup_runtime.files import (
    exclusive,
    inside,
    mode_of,
    read_file,
    refuse_overwrite,
    regular_file,
    remove_parts,
    whole_file,
    write_whole,
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


def untouched(path: Path) -> bool:
    return path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_an_exception_leaves_the_old_content(old: Path) -> None:
    def write_half() -> None:
        with whole_file(old) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert untouched(old)


def test_the_content_and_then_the_folder_reach_the_disk(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename is durable only once its folder is."""
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, old.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(old, b"new")
    assert synced == [(old.stat().st_ino, "old"), (old.parent.stat().st_ino, "new")]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_content(
    old: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name = {
        "write": (files_module, "regular_file"),
        "fsync": (os, "fsync"),
        "replace": (Path, "replace"),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(OSError, match="No space left"):
            write_whole(old, b"new")
    assert untouched(old)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_gives_the_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        with monkeypatch.context() as patch:  # another thread's files would get the wrong mode
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
            write_whole(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_overwriting_needs_force(old: Path) -> None:
    with pytest.raises(OutputExistsError, match="file: exists already; pass --force to replace it"):
        refuse_overwrite(old, force=False)
    refuse_overwrite(old, force=True)
    refuse_overwrite(old.with_name("new"), force=False)
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="is a folder, expected the path of a file"):
            refuse_overwrite(old.parent, force=force)


@pytest.mark.parametrize("path", ["", "..", "../a", "a/../b", "/a", "a//b", "./a", "a\\b", "a/"])
def test_a_path_that_may_leave_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(BankError, match="a file must lie inside the bank, got"):
        inside(tmp_path, path)


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 3000 + "a"])
def test_a_path_too_long_for_the_system_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(BankError, match=f"{tmp_path}: File name too long: 'aa?/?a"):
        inside(tmp_path, path)


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "a"])
def test_an_output_s_name_too_long_for_the_system_is_no_missing_file(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(OSError, match="File name too long"):
        mode_of(tmp_path / name)
    with pytest.raises(OSError, match="File name too long"):
        refuse_overwrite(tmp_path / name, force=True)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path / "none", loop, tmp_path / "nul\0", Path("/dev/null/x")):
        assert mode_of(path) == 0
    assert stat.S_ISLNK(mode_of(loop, links=False))


def test_links_are_refused_wherever_they_lead(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert inside(tmp_path, "folder/file") == tmp_path / "folder" / "file"
    for path in ("link/file", "nowhere"):
        with pytest.raises(BankError, match="symbolic links are refused"):
            inside(tmp_path, path)


def test_size_and_kind_are_looked_at_first(old: Path) -> None:
    assert read_file(old, max_bytes=3) == b"old"
    with pytest.raises(BankError, match="file: must have at most 2 bytes, got 3"):
        read_file(old, max_bytes=2)
    for path in (old.with_name("none"), old.with_name("nul\0"), old / "file"):
        with pytest.raises(BankError, match="missing; restore it"):
            read_file(path, max_bytes=2)


@pytest.mark.parametrize("force", [False, True])
def test_devices_and_pipes_are_never_replaced(tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(OutputExistsError, match=f"{path}: is a device or pipe, expected the p"):
            refuse_overwrite(path, force=force)


def test_links_are_followed_for_a_person_alone(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old)
    assert read_file(link, max_bytes=3, links=True) == b"old"
    for mode in ("rb", "ab", "r+b"):
        with (
            pytest.raises(BankError, match="link: symbolic links are refused in a bank"),
            regular_file(link, mode),
        ):
            pass


@pytest.mark.parametrize("mode", ["rb", "ab", "r+b"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_pipes_and_folders_are_refused_without_waiting(
    tmp_path: Path, mode: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "odd")
    with (
        pytest.raises(BankError, match="odd: must be a regular file, is a folder, pipe or device"),
        regular_file(tmp_path / "odd", mode),
    ):
        pass


def test_a_file_that_grows_while_it_is_read_is_refused() -> None:
    """The system's files of size 0 have content."""
    with pytest.raises(BankError, match="/proc/version: grew while it was read"):
        read_file(Path("/proc/version"), max_bytes=10**6)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "cannot be opened: Permission denied; change its permissions, or choose"),
        (errno.EIO, "cannot be opened: Input/output error; check the disk, and the path"),
        (errno.EROFS, "cannot be opened: Read-only file system; choose a folder that can be wri"),
    ],
)
def test_what_the_system_refuses_is_said_with_path_and_remedy(
    old: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(FileError, match=f"^{old}: {message}"):
        read_file(old, max_bytes=3)


def test_a_full_disk_is_said_with_path_and_remedy(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    message = f"^{old}: cannot be written: No space left on device; free space on the disk$"
    with pytest.raises(FileError, match=message):
        write_whole(old, b"new")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOSPC])
def test_a_folder_that_cannot_be_synced_is_tolerated(
    old: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """SMB and some of FUSE answer EINVAL for folders; for files it is an error, as all else is."""
    fsync = os.fsync

    def fail(descriptor: int, *, of_folders: bool) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", partial(fail, of_folders=True))
        if number == errno.EINVAL:
            write_whole(old, b"old")
        else:
            with pytest.raises(FileError, match="cannot be written"):
                write_whole(old, b"old")
        patch.setattr(os, "fsync", partial(fail, of_folders=False))
        with pytest.raises(FileError, match="cannot be written"):
            write_whole(old, b"new")
    assert untouched(old)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    message = f"^{tmp_path}: the file system cannot lock files .* change a copy on a local disk"
    with pytest.raises(BankLockedError, match=message), exclusive(tmp_path):
        pytest.fail("held")
    write_whole(tmp_path / "model.onnx", b"whole")  # what needs no lock works


def test_only_parts_whose_writer_is_gone_are_removed(old: Path) -> None:
    names = [".file.0.part", ".other.0.part", "file.part", ".file.0.par", ".part"]
    for name in names:
        old.with_name(name).write_bytes(b"half")
    with whole_file(old) as part:
        remove_parts(old.parent, "file")
        assert {path.name for path in old.parent.iterdir()} == {"file", part.name, *names[1:]}
        remove_parts(old.parent)
        assert {path.name for path in old.parent.iterdir()} == {"file", part.name, *names[2:]}
        part.write_bytes(b"new")
    assert old.read_bytes() == b"new"
    remove_parts(old.parent / "none")
