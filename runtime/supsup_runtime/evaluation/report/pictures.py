"""Pictures for a page, as PNG in data URIs."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from supsup_runtime.arrays import Array

_MOST_SIDE = 160


def data_uri(picture: Array) -> str:
    """Return a picture ``uint8 (height, width)`` or ``(height, width, 1 or 3)`` as a data URI.

    Pixels are left out of pictures above 160 pixels.
    """
    every = -(-max(picture.shape[:2]) // _MOST_SIDE)
    return "data:image/png;base64," + base64.b64encode(png(picture[::every, ::every])).decode()


def png(picture: Array) -> bytes:
    """Return a picture ``uint8 (height, width)`` or ``(height, width, 1 or 3)`` as PNG."""
    height, width = picture.shape[:2]
    colour = 2 if picture.shape[2:] == (3,) else 0
    lines = np.ascontiguousarray(picture, np.uint8).reshape(height, -1)
    lines = np.insert(lines, 0, 0, axis=1)  # each line without a filter
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


def from_values(x: Array) -> Array:
    """Return values ``float (channels, height, width)`` as ``uint8 (height, width, channels)``.

    The least is black, the largest white.
    """
    low, high = float(x.min()), float(x.max())
    return np.asarray(np.rint((x - low) * (255 / ((high - low) or 1))), np.uint8).transpose(1, 2, 0)
