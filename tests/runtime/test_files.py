from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supsup_runtime.errors import BankError, OutputExistsError
from supsup_runtime.files import inside, read_file, refuse_overwrite, whole_file, write_whole


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
        "write": (Path, "write_bytes"),
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
    for path in (old.parent, old.with_name("none"), old.with_name("nul\0")):
        with pytest.raises(BankError, match="missing; restore it"):
            read_file(path, max_bytes=2)
