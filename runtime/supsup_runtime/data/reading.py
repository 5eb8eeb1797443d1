"""What reading any data file shares: largest sizes, and errors as `DataError`."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supsup_runtime.errors import DataError

MAX_PART_BYTES = 2**32
"""Largest array, of images or labels: 4 GiB."""
MAX_EXPANSION = 1032
"""Largest expansion by DEFLATE."""

# raised by gzip and zipfile for invalid files
_BROKEN_FILE = (
    *(OSError, EOFError, ValueError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise `DataError` for what reading a data set raises."""
    try:
        yield
    except DataError:
        raise
    except _BROKEN_FILE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); get or save the file again") from error


def check_size(place: str, num_bytes: int, file_bytes: int) -> None:
    """Check that a file can hold the bytes that its header claims, or raise `DataError`."""
    if num_bytes > MAX_PART_BYTES:
        raise DataError(
            f"{place}: must hold at most {MAX_PART_BYTES} bytes, its header claims {num_bytes}; "
            "take fewer or smaller images"
        )
    if num_bytes > MAX_EXPANSION * file_bytes:
        raise DataError(
            f"{place}: its header claims {num_bytes} bytes, but a file of {file_bytes} bytes "
            f"can hold at most {MAX_EXPANSION * file_bytes}; it is truncated or forged"
        )
