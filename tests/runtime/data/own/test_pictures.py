from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from own_tasks import one_line
from supsup_runtime.data.own.pictures import MAX_PIXELS, look, read_picture
from supsup_runtime.errors import DataError

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=2)


def saved(folder: Path, picture: Image.Image, name: str = "x.png", **options: Any) -> Path:
    picture.save(folder / name, **options)
    return folder / name


def claimed(folder: Path, height: int, width: int) -> Path:
    """A PNG whose header claims a size that its few pixels do not have."""
    data = saved(folder, Image.fromarray(GRAY)).read_bytes()
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    path = folder / "claimed.png"
    path.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])
    return path


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.gif", "x.tif", "x.webp", "x.ppm", "x.JPG"])
def test_formats_by_content(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name == "x.webp" else {}
    path = saved(tmp_path, Image.fromarray(COLOUR), name, **options)
    path = path.rename(tmp_path / "no-ending")
    assert look(path) == ((3, 4), "rgb")
    got = read_picture(path)
    assert got.dtype == np.uint8
    assert got.shape == (3, 4, 3)
    if name != "x.JPG":
        np.testing.assert_array_equal(got, COLOUR)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path, Image.fromarray(GRAY).convert(mode))
    assert look(path) == ((3, 4), "gray")
    expected = np.asarray(Image.fromarray(GRAY).convert(mode).convert("L"))
    np.testing.assert_array_equal(read_picture(path), expected)


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_palette_and_opaque_alpha(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path, Image.fromarray(COLOUR).convert(mode))
    assert look(path).mode == "rgb"
    assert read_picture(path).shape == (3, 4, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(GRAY), exif=exif)
    upright = {
        1: GRAY,
        2: GRAY[:, ::-1],
        3: GRAY[::-1, ::-1],
        4: GRAY[::-1],
        5: GRAY.T,
        6: np.rot90(GRAY, -1),
        7: GRAY[::-1, ::-1].T,
        8: np.rot90(GRAY),
    }[orientation]
    np.testing.assert_array_equal(read_picture(path), upright)
    assert look(path).size == upright.shape


def test_the_first_of_several(tmp_path: Path) -> None:
    first, second = Image.fromarray(GRAY), Image.fromarray(255 - GRAY)
    path = saved(tmp_path, first, "x.tif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_picture(path), GRAY)


def transparent() -> Image.Image:
    picture = Image.fromarray(COLOUR).convert("RGBA")
    picture.putpixel((0, 0), (1, 2, 3, 254))
    return picture


REFUSED: dict[str, tuple[Callable[[], Image.Image], str, str]] = {
    "16 bits": (lambda: Image.fromarray(GRAY.astype(np.uint16) * 257), "x.png", "got 16 bits"),
    "CMYK": (lambda: Image.fromarray(COLOUR).convert("CMYK"), "x.jpg", "got mode CMYK"),
    "floats": (lambda: Image.fromarray(GRAY.astype(np.float32)), "x.tif", "got mode F"),
    "transparent": (transparent, "x.png", "must have no transparent pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kinds_that_are_refused(tmp_path: Path, case: str) -> None:
    make, name, message = REFUSED[case]
    path = saved(tmp_path, make(), name)
    with pytest.raises(DataError, match=rf"^{path}: .*{message}"):
        read_picture(path)


def test_16_bits_of_rgb_are_not_cut(tmp_path: Path) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(7))
    chunks = [(13, head), (len(body) - 4, body), (0, b"IEND")]
    path = tmp_path / "x.png"
    parts = [struct.pack(">I", n) + c + struct.pack(">I", zlib.crc32(c)) for n, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(DataError, match="8 bits per channel, got 16 bits; convert it"):
        read_picture(path)


def test_claimed_sizes_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"claimed.png: must have sides of at most 32768 and .* claims more; make it smaller$",
    ):
        read_picture(claimed(tmp_path, 50_000, 50_000))
    for sides in ((10_000, 10_000), (1, 40_000)):
        with pytest.raises(DataError, match=f"at most 32768 and {MAX_PIXELS} .* {sides[0]} x"):
            look(claimed(tmp_path, *sides))


def test_deep_ppm_is_refused(tmp_path: Path) -> None:
    for most, values in ((65535, 24), (300, 24), (256, 24), (255, 12), (200, 12)):
        (tmp_path / "x.ppm").write_bytes(b"P6 2 2 %d\n" % most + bytes(values))
        if most < 256:
            assert read_picture(tmp_path / "x.ppm").shape == (2, 2, 3)
        else:
            with pytest.raises(DataError, match="of 8 bits per channel, got 16 bits; convert it"):
                read_picture(tmp_path / "x.ppm")


def test_other_files(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    with pytest.raises(DataError, match=r"^.*notes.png: must be a picture \(BMP, .*another kind"):
        read_picture(text)
    script = tmp_path / "x.eps"
    Image.fromarray(GRAY).save(script)  # Pillow would start a program
    with pytest.raises(DataError, match="another kind of file"):
        read_picture(script)
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match=r"must be a picture, got (no regular|a path)"):
            look(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(file, kind, exif=exif)
    raw = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for read in (look, read_picture):
        one_line(partial(read, path))
