"""IDX files, as MNIST is published in."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from supsup_runtime.data.dataset import Part
from supsup_runtime.data.reading import check_size, reading
from supsup_runtime.errors import DataError

_UNSIGNED_BYTES = 0x800
"""Magic number, plus the number of axes."""


def idx_part(folder: Path, part: str) -> Part:
    """Read the images and labels of ``train`` or ``t10k`` of a folder."""
    images_path = _find_idx(folder, f"{part}-images", "idx3-ubyte")
    labels_path = _find_idx(folder, f"{part}-labels", "idx1-ubyte")
    labels = read_idx(labels_path, 1)
    images = read_idx(images_path, 3)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: must hold one label for each of the {len(images)} images of "
            f"{images_path.name}, got {len(labels)}; do both come from the same data set?"
        )
    return images, labels.astype(np.int64)


def _find_idx(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{dot}{kind}{gz}" for gz in ("", ".gz") for dot in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder}: has no {names[0]}; an IDX folder holds four files, "
        "train-images, train-labels, t10k-images and t10k-labels, each with an ending as in "
        f"{', '.join(names)}"
    )


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """Read an array of so many axes; a name that ends with ``.gz`` is of a compressed file."""
    with reading(path), _open(path) as file:
        shape, header_bytes = _idx_shape(path, file, axes)
        num_bytes = math.prod(shape)
        check_size(str(path), num_bytes, path.stat().st_size)
        if path.suffix != ".gz":  # length known already
            _check_length(path, header_bytes + num_bytes, path.stat().st_size)
        data = file.read(num_bytes + 1)  # + 1 detects extra bytes
    _check_length(path, header_bytes + num_bytes, header_bytes + len(data))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _idx_shape(path: Path, file: IO[bytes], axes: int) -> tuple[tuple[int, ...], int]:
    """Return the shape and the header's length in bytes."""
    magic, header_bytes = _UNSIGNED_BYTES + axes, 4 + 4 * axes
    header = file.read(header_bytes)
    got = header[:4].hex()
    if got != f"{magic:08x}":
        raise DataError(
            f"{path}: must start with the IDX magic number 0x{magic:08x}, "
            f"got {'0x' + got if got else 'an empty file'}; is it another file that was renamed?"
        )
    if len(header) < header_bytes:
        raise DataError(f"{path}: its header is truncated; download it again")
    shape = struct.unpack(f">{axes}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path}: every dimension must be at least 1, got {shape}")
    return shape, header_bytes


def _check_length(path: Path, expected: int, got: int) -> None:
    if got != expected:
        state = "is truncated" if got < expected else "has extra bytes"
        raise DataError(
            f"{path}: {state}: its header claims {expected} bytes, got {got}; download it again"
        )
