"""Arrays and data sets: .npy, .npz, IDX, CIFAR."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from random import Random

import numpy as np

from fuzz.case import Case, read_files
from fuzz.mutate import bytes_of, choice, flip, integer
from fuzz.pickles import pickle_of
from fuzz.seeds import FEATURES
from fuzz.target import Reach, Refused, Target, Wrong, command
from fuzz.tensors import npy_of, zip_of
from supsup_runtime.data import load_dataset, make_stream


class Npy(Target):
    """An array of inputs, as supsup-run reads it."""

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._data = (seeds / "x.npy").read_bytes()

    def make(self, rng: Random) -> Case:
        task = rng.choice(((), ("--task", "0"), ("--per-image",)))
        return Case(files={"x.npy": npy_of(rng, self._data)}, words={"task": list(task)})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        if _has_shape(case.files["x.npy"]):
            reach("header")
        words = [self.seeds / "full.onnx", folder / "x.npy", *case.words["task"], "--json"]
        status, _ = command("supsup-run", *words)
        if status:
            raise Refused
        reach("load")
        _check_answered(folder / "x.npy")
        reach("call")


def _has_shape(data: bytes) -> bool:
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        reads = {(1, 0): np.lib.format.read_array_header_1_0}
        reads[2, 0] = np.lib.format.read_array_header_2_0
        reads[version](file)
    except Exception:  # noqa: BLE001 - numpy raises whatever its parser does
        return False
    return True


def _check_answered(path: Path) -> None:
    x = np.load(path)
    if x.dtype != np.float32 or x.shape[-1:] != (FEATURES,) or not np.isfinite(x).all():
        raise Wrong(f"answers for {x.dtype} {x.shape}")


class Npz(Target):
    """A data set in one archive."""

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._data = (seeds / "data.npz").read_bytes()

    def make(self, rng: Random) -> Case:
        return Case(files={"data.npz": zip_of(rng, self._data)})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        if zipfile.is_zipfile(io.BytesIO(case.files["data.npz"])):
            reach("header")
        _use(folder / "data.npz", reach)


class Idx(Target):
    """A data set in four IDX files."""

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._files = read_files(seeds / "idx")

    def make(self, rng: Random) -> Case:
        files = dict(self._files)
        name = rng.choice(list(files))
        files[name] = self._changed(rng, name, files[name])
        return Case(files=files)

    def _changed(self, rng: Random, name: str, data: bytes) -> bytes:
        if name.endswith(".gz") and rng.random() < 0.7:
            return gzip.compress(self._changed(rng, "", gzip.decompress(data)), mtime=0)
        how = choice(rng, ((0.5, "values"), (0.3, "sizes"), (0.2, "bytes")))
        if how == "bytes" or name.endswith(".gz"):
            return bytes_of(rng, data)
        changed, begin = bytearray(data), 4 + 4 * data[3]
        if how == "values":
            values = changed[begin:]
            flip(rng, values)
            return bytes(changed[:begin] + values)
        at = 4 * rng.randrange(begin // 4)
        size = integer(rng, int.from_bytes(data[at : at + 4]))
        changed[at : at + 4] = (size % 2**32).to_bytes(4)
        return bytes(changed)

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        starts = [_unpacked(data)[:3] for data in case.files.values()]
        if starts == [b"\x00\x00\x08"] * 4:
            reach("header")
        _use(folder, reach)


class Cifar(Target):
    """A data set in seven pickles."""

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._files = read_files(seeds / "cifar")

    def make(self, rng: Random) -> Case:
        files = dict(self._files)
        name = rng.choice(list(files))
        files[name] = pickle_of(rng, files[name])
        return Case(files=files)

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        if all(data[:1] == b"\x80" for data in case.files.values()):
            reach("header")
        _use(folder, reach)


def _unpacked(data: bytes) -> bytes:
    try:
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, ValueError, zlib.error):
        return b""


def _use(path: Path, reach: Reach) -> None:
    dataset = load_dataset(path)
    reach("load")
    data = make_stream("permuted", dataset, num_tasks=2).task(1)
    if data.train_x.dtype != np.float32 or not np.isfinite(data.train_x).all():
        raise Wrong(f"images of {data.train_x.dtype} that are not finite")
    reach("call")
