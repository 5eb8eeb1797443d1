"""Pictures from files, by Pillow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from supsup_runtime.arrays import Bytes
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import MAX_SIDE, Mode

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may open; others, such as EPS, start programs."""
MAX_PIXELS = 1 << 26
"""Most pixels of a picture, such as 8192 x 8192."""
_MODES: dict[str, Mode] = {
    **dict.fromkeys(("1", "L", "LA", "La"), "gray"),
    **dict.fromkeys(("P", "PA", "RGB", "RGBA", "RGBX", "RGBa"), "rgb"),
}
_LARGE = r"(25[6-9]|2[6-9][0-9]|[3-9][0-9]{2}|[0-9]{4,})"
_DEEP = re.compile(rf";16|codec_name='ppm'.*, {_LARGE}\)")
"""16 bits, as Pillow's tiles say; of a PPM, by its largest value."""
_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)


class Look(NamedTuple):
    """Height and width of a picture, and its mode."""

    size: tuple[int, int]
    mode: Mode


def require_pillow(place: object) -> None:
    """Raise `DataError` if Pillow is missing."""
    try:
        import PIL.Image  # noqa: F401 - whether it can be imported
    except ImportError as error:
        raise DataError(
            f"{place}: pictures need Pillow, which is not installed; pip install "
            "'supsup[pictures]', or give arrays"
        ) from error


def look(path: Path) -> Look:
    """Return what a picture is like, from its header; see `read_picture`."""
    with _opened(path) as picture:
        from PIL.Image import Image

        exif = Image.getexif(picture)  # that of PNG pictures would read all of them
        sides = picture.height, picture.width
        turned = exif.get(_ORIENTATION) in _ON_ITS_SIDE
        return Look(sides[::-1] if turned else sides, _MODES[picture.mode])


def read_picture(path: Path) -> Bytes:
    """Read a picture of one of the `FORMATS`, the first one of several.

    Returns:
        ``uint8 (height, width)`` of a gray picture, else ``(height, width, 3)``, turned upright
        as its EXIF data say.

    Raises:
        DataError: If Pillow is missing, the file is no picture or is damaged, has more than 8 bits
            per channel, other colours than gray or RGB, transparent pixels, or is too large.
    """
    with _opened(path) as picture:
        from PIL import ImageOps

        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data:
            alpha = upright.convert("RGBA").getchannel("A")
            if alpha.getextrema() != (255, 255):
                raise DataError(f"{path}: must have no transparent pixels; put it on a background")
        return np.array(upright.convert("L" if _MODES[picture.mode] == "gray" else "RGB"))


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    require_pillow(path)
    import PIL.Image

    if not path.is_file():  # a pipe would wait for ever
        got = "no regular file" if path.exists() else "a path that does not exist"
        raise DataError(f"{path}: must be a picture, got {got}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are refused
            with PIL.Image.open(path, formats=FORMATS) as picture:
                _check_header(path, picture)
                yield picture
    except DataError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise DataError(
            f"{path}: must be a picture ({', '.join(FORMATS)}), got another kind of file"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: must have sides of at most {MAX_SIDE} and {MAX_PIXELS} pixels in all, its "
            "header claims more; make it smaller"
        ) from error
    except Exception as error:  # decoders raise errors of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason:.200}); get or save it again") from error


def _check_header(path: Path, picture: Image) -> None:
    width, height = picture.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"{path}: must have sides of at most {MAX_SIDE} and {MAX_PIXELS} pixels in all, its "
            f"header claims {height} x {width}; make it smaller"
        )
    deep = _DEEP.search(str(getattr(picture, "tile", "")))  # Pillow would drop the lower byte
    if deep or picture.mode not in _MODES:
        got = "16 bits" if deep else f"mode {picture.mode}"
        raise DataError(f"{path}: must be gray or RGB of 8 bits per channel, got {got}; convert it")
