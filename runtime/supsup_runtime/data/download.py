"""Published data sets from the network, with their published checksum, unpacked into a folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from supsup_runtime.arrays import check_choice, check_kind, checked_path
from supsup_runtime.data.cifar import KINDS, Kind
from supsup_runtime.data.pickles import MAX_FILE_BYTES
from supsup_runtime.errors import DataError
from supsup_runtime.files import flock, mode_of, regular_file, system_errors, whole_file

Progress = Callable[[int, int], object]
"""Called with the bytes that are there and all of them."""
_CHUNK = 1 << 16
_SECONDS = 60
"""Of silence, after which a server is given up."""
ARCHIVES: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}


def download(
    name: str, to: str | Path = ".", *, url: str | None = None, progress: Progress | None = None
) -> Path:
    """Download a data set and unpack it, going on where an earlier download stopped.

    Args:
        name: ``cifar10`` or ``cifar100``.
        to: Folder that the data set's own is made in; made if missing.
        url: A mirror of the archive, ``http://`` or ``https://``.
        progress: Called after each piece.

    Returns:
        The data set's folder, for `load_dataset`. If all its files are there, nothing is done.

    Raises:
        DataError: If the server fails or sends anything but the published archive, or another
            download writes there.
        FileError: If files cannot be read or written.
    """
    check_choice("data set", name, tuple(ARCHIVES), error=DataError)
    archive = ARCHIVES[name]
    url = archive.url if url is None else url
    check_kind("url", url, str, "a text", error=DataError)
    if not url.startswith(("http://", "https://")) or not url.isprintable():
        raise DataError(f"url: must begin with http:// or https://, got {url!r:.200}")
    folder = checked_path(to, error=DataError)
    made = folder / archive.folder
    with system_errors(made, "made"):
        if all(stat.S_ISREG(mode_of(made / file)) for file in archive.files):
            return made
        made.mkdir(parents=True, exist_ok=True)
    part = folder / f"{archive.folder}.tar.gz.part"
    with regular_file(part, "a+b", error=DataError) as file, system_errors(part, "written"):
        _alone(part, file)
        _fetch(url, archive, file, progress or (lambda _done, _total: None))
        file.flush()
        file.seek(0)
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]  # a file
        if got != archive.md5:
            file.truncate(0)
            raise DataError(
                f"{url}: must have the MD5 {archive.md5}, got {got}; nothing is kept, try again "
                "or another --url"
            )
        file.seek(0)
        _unpack(file, archive, made)
        part.unlink(missing_ok=True)
    return made


def _alone(part: Path, file: IO[bytes]) -> None:
    try:
        flock(file)
    except BlockingIOError as error:
        raise DataError(f"{part}: another download is writing it; wait for it to end") from error
    except OSError:  # no locks here
        pass


def _fetch(url: str, archive: Kind, file: IO[bytes], progress: Progress) -> None:
    """Append what is missing of an archive."""
    done = file.seek(0, os.SEEK_END)
    if done > archive.size:
        done = file.truncate(0)
    if done == archive.size:
        return
    asked = Request(url, headers={"Range": f"bytes={done}-"} if done else {})  # noqa: S310 - http
    with _network(url):
        answer = build_opener(_NoRedirects).open(asked, timeout=_SECONDS)
    with answer:
        if answer.status != http.client.PARTIAL_CONTENT:
            done = file.truncate(0)  # the server sends all of it
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise DataError(f"{url}: sends another part than was asked for; give another --url")
        while chunk := _read(url, answer):
            done += len(chunk)
            if done > archive.size:
                file.truncate(0)
                raise DataError(
                    f"{url}: must have {archive.size} bytes, got more; give another --url"
                )
            file.write(chunk)
            progress(done, archive.size)
    if done < archive.size:
        raise DataError(
            f"{url}: was cut short, {done} of {archive.size} bytes are kept; run the same again to "
            "go on"
        )


def _read(url: str, answer: IO[bytes]) -> bytes:
    with _network(url):
        return answer.read(_CHUNK)


@contextmanager
def _network(url: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        error.close()
        place = error.headers.get("Location")
        remedy = (
            f"redirects to {place:.200}; give that as" if place else "try later, or give another"
        )
        raise DataError(f"{url}: answers {error.code}, {remedy} --url") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # OSError: URLError too
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise DataError(
            f"{url}: cannot be read ({reason:.200}); what is there is kept, run the same again to "
            "go on"
        ) from error


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_given: Any) -> None:
        """Let the answer be an error."""


def _unpack(file: IO[bytes], archive: Kind, made: Path) -> None:
    """Write the files of an archive that are expected, and nothing else."""
    left = {f"{archive.folder}/{name}": made / name for name in archive.files}
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as members:
            for member in members:
                if member.name in left and member.isreg() and member.size <= MAX_FILE_BYTES:
                    content = members.extractfile(member)
                    with whole_file(left.pop(member.name)) as path, path.open("wb") as out:
                        shutil.copyfileobj(content, out)  # type: ignore[arg-type]  # a regular file
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{made}: the archive cannot be read ({error!s:.200}); report it"
        ) from error
    if left:
        raise DataError(f"{made}: the archive has no {', '.join(map(str, left)):.200}; report it")
