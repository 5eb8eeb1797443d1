"""CIFAR in its published form, small: pickles of Python 2, written opcode by opcode."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np

from supsup_runtime.arrays import Bytes

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Python2:
    """Writes what `cPickle.dump(value, file, 2)` of Python 2 does."""

    def __init__(self) -> None:
        self.data = bytearray(pickle.PROTO + b"\x02")
        self._memo = 0

    def table(self, **values: object) -> bytes:
        """Return the pickle of a table."""
        self.data += pickle.EMPTY_DICT
        self._put()
        self.data += pickle.MARK
        for name, value in values.items():
            self._text(name.encode())
            self._value(value)
        return bytes(self.data + pickle.SETITEMS + pickle.STOP)

    def _value(self, value: object) -> None:
        if isinstance(value, str):
            self._text(value.encode())
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, list):
            self.data += pickle.EMPTY_LIST
            self._put()
            self.data += pickle.MARK
            for item in value:
                self._value(item)
            self.data += pickle.APPENDS
        else:
            self.data += pickle.dumps(value, 2)[2:-1]

    def _array(self, value: Bytes) -> None:
        self._global("numpy.core.multiarray", "_reconstruct")
        self._global("numpy", "ndarray")
        self.data += b"K\x00\x85"
        self._put()
        self._text(b"b")
        self.data += b"\x87"
        self._put()
        self.data += b"R"
        self._put()
        self.data += b"(K\x01" + pickle.dumps(value.shape, 2)[2:-3]  # without its memo
        self._put()
        self._global("numpy", "dtype")
        self._text(b"u1")
        self.data += b"K\x00K\x01\x87"
        self._put()
        self.data += b"R"
        self._put()
        self.data += b"(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb\x89"
        self._text(value.tobytes())
        self.data += b"tb"

    def _global(self, module: str, name: str) -> None:
        self.data += b"c" + f"{module}\n{name}\n".encode()
        self._put()

    def _text(self, text: bytes) -> None:
        short = len(text) < 256
        self.data += b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text))
        self.data += text
        self._put()

    def _put(self) -> None:
        self._memo += 1
        short = self._memo < 256
        self.data += b"q" + bytes([self._memo]) if short else b"r" + struct.pack("<I", self._memo)


def part(count: int, classes: int, seed: int, labels: str = "labels") -> bytes:
    """A file of pictures, classes in turn."""
    rows = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    marks = [index % classes for index in range(count)]
    names = [f"picture_s_{index:06}.png" for index in range(count)]
    return Python2().table(data=rows, **{labels: marks}, batch_label="of 5", filenames=names)


def cifar10(folder: Path, count: int = 10) -> Path:
    """Write CIFAR-10 with few pictures in each file."""
    files = {f"data_batch_{number}": part(count, 10, number) for number in range(1, 6)}
    files["test_batch"] = part(count, 10, 6)
    meta = {"num_cases_per_batch": 10000, "label_names": [*NAMES], "num_vis": 3072}
    return written(folder, files | {"batches.meta": Python2().table(**meta)})


def cifar100(folder: Path, count: int = 100) -> Path:
    """Write CIFAR-100 with few pictures in each file."""
    files = {
        name: part(count, 100, seed, "fine_labels") for seed, name in enumerate(("train", "test"))
    }
    names = [f"class_{number:02}" for number in range(100)]
    meta = Python2().table(fine_label_names=names, coarse_label_names=["group"])
    return written(folder, files | {"meta": meta})


def written(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a new folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
