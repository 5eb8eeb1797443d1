"""Downloads from a server on loopback that obeys, cuts, lies or refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from cifar import cifar10
from commands import run
from supsup_runtime.cli.data import _bar
from supsup_runtime.data import download as module
from supsup_runtime.data import load_dataset
from supsup_runtime.data.cifar import Kind
from supsup_runtime.data.download import ARCHIVES, download
from supsup_runtime.errors import DataError, SupSupError
from supsup_runtime.files import flock


class Server(ThreadingHTTPServer):
    """Serves one file.

    Attributes:
        data: The file.
        how: ``well``, ``no ranges``, ``cut`` (half of what is asked), ``other range``, ``moved``,
            or a status.
        asked: Ranges asked for.
    """

    data = b""
    how = "well"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.tar.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        how, data = self.server.how, self.server.data
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if how == "moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            return
        if how.isdigit():
            self.send_error(int(how))
            return
        start = 0
        if wanted and how != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            told = 1 if how == "other range" else start
            self.send_header("Content-Range", f"bytes {told}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        rest = data[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if how == "cut" else rest)

    def log_message(self, *_given: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def packed(folder: Path, members: dict[str, bytes | str] | None = None) -> bytes:
    """An archive of the files of a folder, and of members: bytes, or the target of a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (members or {}).items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        archive.add(folder, "cifar-10-batches-py")
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path, server: Server) -> Iterator[Kind]:
    """Serve a small CIFAR-10, whose checksum is the published one for the test."""
    server.data = packed(cifar10(tmp_path / "source"))
    with _published(server.data) as made:
        yield made


class _published:  # noqa: N801 - used as a function
    def __init__(self, data: bytes) -> None:
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self.archive = replace(ARCHIVES["cifar10"], md5=md5, size=len(data))
        self.patch = patch.object(module, "ARCHIVES", {"cifar10": self.archive})

    def __enter__(self) -> Kind:
        self.patch.start()
        return self.archive

    def __exit__(self, *_error: object) -> None:
        self.patch.stop()


def test_what_is_published() -> None:
    assert ARCHIVES["cifar10"].url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert ARCHIVES["cifar10"].folder == "cifar-10-batches-py"
    assert ARCHIVES["cifar100"].url == "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    assert ARCHIVES["cifar100"].folder == "cifar-100-python"
    assert ARCHIVES["cifar100"].files == ("train", "test", "meta")


def test_a_download_is_checked_and_unpacked_once(
    tmp_path: Path, server: Server, archive: Kind
) -> None:
    told: list[tuple[int, int]] = []
    to = tmp_path / "new" / "data"
    folder = download("cifar10", to, url=server.url, progress=lambda *each: told.append(each))
    assert folder == to / "cifar-10-batches-py"
    assert {path.name for path in to.iterdir()} == {folder.name}
    assert {path.name for path in folder.iterdir()} == {*archive.files}
    assert told[-1] == (archive.size, archive.size)
    assert len(load_dataset(folder).train_x) == 50
    assert download("cifar10", to, url=server.url) == folder
    assert server.asked == [None]


def test_a_download_that_is_cut_goes_on(tmp_path: Path, server: Server, archive: Kind) -> None:
    server.how = "cut"
    half = archive.size // 2
    with pytest.raises(DataError, match=f"was cut short, {half} of {archive.size} bytes are kept"):
        download("cifar10", tmp_path, url=server.url)
    part = tmp_path / "cifar-10-batches-py.tar.gz.part"
    assert part.read_bytes() == server.data[:half]
    server.how = "503"
    with pytest.raises(DataError, match="answers 503, try later, or give another --url"):
        download("cifar10", tmp_path, url=server.url)
    assert part.stat().st_size == half
    server.how = "well"
    folder = download("cifar10", tmp_path, url=server.url)
    assert server.asked == [None, f"bytes={half}-", f"bytes={half}-"]
    assert len(load_dataset(folder).test_x) == 10
    assert not part.exists()


def test_a_server_without_ranges_sends_it_again(
    tmp_path: Path, server: Server, archive: Kind
) -> None:
    (tmp_path / "cifar-10-batches-py.tar.gz.part").write_bytes(b"other bytes")
    server.how = "no ranges"
    assert len(load_dataset(download("cifar10", tmp_path, url=server.url)).train_x) == 50
    assert archive.size == len(server.data)


def test_an_unpacking_that_was_stopped_is_done_again(
    tmp_path: Path, server: Server, archive: Kind
) -> None:
    folder = download("cifar10", tmp_path, url=server.url)
    (folder / "data_batch_3").unlink()
    (tmp_path / "cifar-10-batches-py.tar.gz.part").write_bytes(server.data)
    download("cifar10", tmp_path, url=server.url)
    assert {path.name for path in folder.iterdir()} == {*archive.files}
    assert len(server.asked) == 1


@pytest.mark.parametrize("longer", [False, True])
def test_a_part_of_something_else_is_given_up(
    tmp_path: Path, server: Server, archive: Kind, longer: bool
) -> None:
    part = tmp_path / "cifar-10-batches-py.tar.gz.part"
    part.write_bytes(b"x" * (archive.size + longer))
    if longer:
        download("cifar10", tmp_path, url=server.url)
        assert server.asked == [None]
        return
    with pytest.raises(
        DataError, match=f"must have the MD5 {archive.md5}, got .*; nothing is kept"
    ):
        download("cifar10", tmp_path, url=server.url)
    assert part.stat().st_size == 0
    download("cifar10", tmp_path, url=server.url)


WRONG = {
    "404": "answers 404, try later, or give another --url",
    "moved": "answers 302, redirects to http://127.0.0.1:1/elsewhere; give that as --url",
    "checksum": "must have the MD5 .*, got ",
    "longer": "bytes, got more; give another --url",
    "shorter": "was cut short, ",
    "other range": "sends another part than was asked for; give another --url",
}


@pytest.mark.parametrize("how", WRONG)
def test_what_is_not_the_archive_is_refused(
    tmp_path: Path, server: Server, archive: Kind, how: str
) -> None:
    if how == "checksum":
        server.data = bytes([server.data[0] ^ 1]) + server.data[1:]
    elif how == "longer":
        server.data += b"x"
    elif how == "shorter":
        server.data = server.data[:-1]
    else:
        server.how = how
    if how == "other range":
        (tmp_path / f"{archive.folder}.tar.gz.part").write_bytes(b"abc")
    with pytest.raises(DataError, match=WRONG[how]) as refused:
        download("cifar10", tmp_path, url=server.url)
    assert str(refused.value).startswith(server.url)
    assert not [*(tmp_path / archive.folder).iterdir()]


def test_nothing_but_the_expected_files_is_unpacked(tmp_path: Path, server: Server) -> None:
    source = cifar10(tmp_path / "source")
    (source / "readme.html").write_bytes(b"more")
    members: dict[str, bytes | str] = {
        "../outside": b"x",
        f"{tmp_path}/absolute": b"x",
        "cifar-10-batches-py/../../up": b"x",
        "cifar-10-batches-py/link": "/etc/passwd",
    }
    server.data = packed(source, members)
    to = tmp_path / "a" / "b"
    with _published(server.data) as archive:
        folder = download("cifar10", to, url=server.url)
    assert {path.name for path in folder.iterdir()} == {*archive.files}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert not (tmp_path / "absolute").exists()


@pytest.mark.parametrize("spoil", ["link", "missing", "no tar", "no gzip", "truncated"])
def test_an_archive_with_the_checksum_but_not_the_files(
    tmp_path: Path, server: Server, spoil: str
) -> None:
    source = cifar10(tmp_path / "source")
    (source / "meta").write_bytes(b"")
    (source / "test_batch").unlink()
    if spoil == "link":
        (source / "test_batch").symlink_to("/etc/passwd")
    server.data = packed(source)
    if spoil == "no tar":
        server.data = gzip.compress(b"x" * 2000)
    elif spoil == "no gzip":
        server.data = b"x" * 2000
    elif spoil == "truncated":
        server.data = server.data[: len(server.data) // 2]
    message = "has no .*test_batch" if spoil in {"link", "missing"} else "cannot be read|has no"
    with _published(server.data), pytest.raises(DataError, match=f"the archive ({message})"):
        download("cifar10", tmp_path, url=server.url)
    assert not os.path.lexists(tmp_path / "cifar-10-batches-py" / "test_batch")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "mnist"}, "data set must be one of cifar10, cifar100, got 'mnist'"),
        ({"url": "file:///etc/passwd"}, "url: must begin with http:// or https://, got 'file:"),
        ({"url": 3}, "url must be a text, got 3"),
        ({"url": "http://"}, "http://: cannot be read"),
        ({"url": "http://127.0.0.1:99999/"}, "cannot be read"),
        ({"url": "http://127.0.0.1:1/"}, "cannot be read .*; what is there is kept, run the same"),
        ({"url": "http://a b/"}, "cannot be read"),
        ({"url": "http://a/\n"}, r"must begin with http:// or https://, got 'http://a/.n'"),
        ({"to": 3}, "path must be"),
        ({"to": "a" * 300}, "cannot be made: File name too long; choose a shorter path"),
        ({"to": "a\0b"}, "path must be"),
    ],
)
def test_arguments_that_cannot_be(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(SupSupError, match=message) as refused:
        download(**{"name": "cifar10", "to": tmp_path, "url": "http://127.0.0.1:1/", **given})
    assert "\n" not in str(refused.value)


def test_the_part_is_no_link(tmp_path: Path, server: Server, archive: Kind) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"dear")
    (tmp_path / f"{archive.folder}.tar.gz.part").symlink_to(victim)
    with pytest.raises(DataError, match="part: symbolic links are refused; copy the file here"):
        download("cifar10", tmp_path, url=server.url)
    assert victim.read_bytes() == b"dear"


def test_a_second_download_is_refused(tmp_path: Path, server: Server, archive: Kind) -> None:
    part = tmp_path / f"{archive.folder}.tar.gz.part"
    with part.open("wb") as first:
        flock(first)
        with pytest.raises(DataError, match=f"{part}: another download is writing it; wait for "):
            download("cifar10", tmp_path, url=server.url)
    assert server.asked == []
    download("cifar10", tmp_path, url=server.url)


def test_the_command_says_where_the_data_are(tmp_path: Path, server: Server, archive: Kind) -> None:
    words = ["download", "cifar10", "--to", tmp_path, "--url", server.url]
    folder = tmp_path / archive.folder
    assert run("supsup-data", *words).stdout == f"{folder}: give it as --data {folder}\n"
    assert json.loads(run("supsup-data", *words, "--json").stdout) == {"folder": str(folder)}
    said = run("supsup-data", "download", "cifar10", "--url", "ftp://a", status=1).stderr
    assert said == "supsup-data: url: must begin with http:// or https://, got 'ftp://a'\n"


def test_the_bar_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    draw, total = _bar("cifar10"), 170 << 20
    for done in np.linspace(1, total, 5000).astype(int).tolist():
        draw(done, total)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith(f"\rcifar10 [{'#' * 40}] 170 of 170 MiB\n")
    assert f"\rcifar10 [{'#' * 20}{' ' * 20}] 85 of 170 MiB" in said
