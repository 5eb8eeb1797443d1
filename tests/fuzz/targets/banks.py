"""The bank and its files: index, task file, calibration, Hopfield store."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from random import Random

import numpy as np

from fuzz.case import Case, read_files
from fuzz.forge import forge
from fuzz.mutate import bytes_of, changed_value, choice, dumped, encoded, json_of
from fuzz.seeds import BANKS
from fuzz.target import Reach, Refused, Target, Wrong, command
from fuzz.tensors import replaced, sealed, split, tensors_of
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.stored_images import store_images, stored_images
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.hopfield.file import has_store, read_store

_HOW = ((0.4, "tensors"), (0.35, "index"), (0.1, "bytes"), (0.1, "odd"), (0.05, "grow"))
_ODD = ("folder", "fifo", "link:../outside/secret", "link:../outside", "link:/dev/zero")
_SPARSE = (64 << 20) + 8 * (64 << 20)
"""Sparse masks of a small file may stand for 64 MiB of packed ones (SECURITY.md)."""
_MAX_WEIGHTS = 1 << 20
"""Weights that a case regrows: more are honest work, not a fault."""


class Bank(Target):
    """A whole bank, with files that are damaged, forged, missing or no files."""

    room = _SPARSE

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._banks = [read_files(seeds / name) for name in BANKS]

    def make(self, rng: Random) -> Case:
        number = rng.randrange(len(self._banks))
        files, odd = dict(self._banks[number]), {}
        how = choice(rng, _HOW)
        if how == "grow" and BANKS[number] != "state":
            _grow(rng, files)
        elif how == "index":
            files["bank.json"] = _index_of(rng, files)
        elif how == "odd":
            name = rng.choice([*files, "tasks", "programs"])
            odd[name] = rng.choice(_ODD)
            files = {
                file: data for file, data in files.items() if not f"{file}/".startswith(f"{name}/")
            }
        else:
            kind = "" if how == "bytes" else ".safetensors"
            file = rng.choice([name for name in files if name.endswith(kind) and files[name]])
            mutation = tensors_of if kind and file != "shared.safetensors" else bytes_of
            files[file] = mutation(rng, files[file])
        if rng.random() < 0.8:
            forge(files)
        return Case(files=files, odd=odd, words={"change": rng.choice(("rename", "remove", "add"))})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        bank = MaskBank.open(folder, verify=False)
        reach("header")
        tasks = list(bank)
        bank.verify()
        reach("load")
        densities = [task.density(bank.network) for task in tasks]
        if not all(0 <= density <= 1 for density in densities):
            raise Wrong(f"density {densities}")
        if bank.network.num_masked <= _MAX_WEIGHTS:
            for weight in bank.network.weights():
                if not np.isfinite(weight).all():
                    raise Wrong("weights that are not finite")
        bank.calibration()
        if has_store(bank):
            read_store(bank)
        command("supsup-inspect", folder)
        command("supsup-bank", "list", folder)
        _change(bank, case.words["change"])
        reach("call")


def _index_of(rng: Random, files: dict[str, bytes]) -> bytes:
    """Change the index, its network half the time."""
    index = json.loads(files["bank.json"])
    if rng.random() < 0.5:
        index["network"] = changed_value(rng, index["network"])
    else:
        index = changed_value(rng, index)
    return encoded(rng, dumped(index))


def _grow(rng: Random, files: dict[str, bytes]) -> None:
    """Make the first parameter large and its masks sparse and empty: a few bytes for millions."""
    index = json.loads(files["bank.json"])
    parameter = index["network"]["parameters"][0]
    parameter["shape"][-1] *= 1 << rng.randrange(4, 34)
    size = math.prod(parameter["shape"])
    for name in [name for name in files if name.startswith("tasks/")]:
        header, data = split(files[name])
        told = json.loads(header["__metadata__"]["supsup"])
        if told["format"] == 1:
            mask = bytes([6]) + size.to_bytes(6, "little") + b"\0"
            header, data = replaced(header, data, f"mask.{parameter['name']}", mask)
            told["encodings"][parameter["name"]] = "sparse"
        else:
            begin, end = header["masks"]["data_offsets"]
            masks = bytes(5) + data[begin + told["lengths"][0] : end]
            header, data = replaced(header, data, "masks", masks)
            told["lengths"][0] = 5
        files[name] = sealed(header, told, data)
    files["bank.json"] = dumped(index)


def _change(bank: MaskBank, how: str) -> None:
    if not len(bank):
        return
    first = bank.task(0)
    if how == "rename":
        bank.rename(first.name, "renamed")
    elif how == "remove":
        bank.remove(first.name)
    else:
        bank.add(first.renamed("added"))
    left = MaskBank.open(bank.path)
    if how != "remove" and not same(left.task("renamed" if how == "rename" else "added"), first):
        raise Wrong(f"{how}: the task is another")


def same(one: TaskMasks, other: TaskMasks) -> bool:
    """Whether two tasks have equal masks, state and labels."""
    pairs = [(getattr(one, kind), getattr(other, kind)) for kind in ("masks", "state")]
    return one.labels == other.labels and all(
        set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a) for a, b in pairs
    )


class _InBank(Target):
    """A file of a bank, the rest of which is valid."""

    _bank: str
    _file: str

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._data = (seeds / self._bank / self._file).read_bytes()

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        bank = folder / "bank"
        shutil.copytree(self.seeds / case.words.get("bank", self._bank), bank)
        self._use(bank, folder / "file", reach)

    def _use(self, bank: Path, file: Path, reach: Reach) -> None:
        raise NotImplementedError


class Task(_InBank):
    """A task file that comes over the air and is added to a bank."""

    room = _SPARSE

    _bank, _file = "plain", "tasks/permuted-0000.safetensors"

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        banks = [name for name in BANKS if (seeds / name).exists()]  # corpus: of the time
        first = {name: min((seeds / name / "tasks").iterdir()) for name in banks}
        self._tasks = [(name, file.read_bytes()) for name, file in first.items()]

    def make(self, rng: Random) -> Case:
        bank, data = rng.choice(self._tasks)
        return Case(files={"file": tensors_of(rng, data)}, words={"bank": bank})

    def _use(self, bank: Path, file: Path, reach: Reach) -> None:
        if _is_framed(file.read_bytes()):
            reach("header")
        status, _ = command("supsup-bank", "add", bank, file, "--name", "added", "--json")
        opened = MaskBank.open(bank)
        if status:
            if "added" in opened:
                raise Wrong(f"added in spite of exit status {status}")
            raise Refused
        reach("load")
        task = opened.task("added")
        command("supsup-bank", "list", bank)
        opened.replace(task)
        if not same(MaskBank.open(bank).task("added"), task):
            raise Wrong("written and read, the task is another")
        reach("call")


class Calibration(_InBank):
    """``calibration.json``, as the bank and the commands read it."""

    _bank, _file = "plain", "calibration.json"

    def make(self, rng: Random) -> Case:
        value = json.loads(self._data)
        if rng.random() < 0.6:
            value["calibration"] = changed_value(rng, value["calibration"])
            data = encoded(rng, dumped(value))
        else:
            data = choice(rng, ((0.8, json_of), (0.2, bytes_of)))(rng, self._data)
        return Case(files={"file": data})

    def _use(self, bank: Path, file: Path, reach: Reach) -> None:
        shutil.copyfile(file, bank / self._file)
        if _is_json(file.read_bytes()):
            reach("header")
        opened = MaskBank.open(bank, verify=False)
        stored = opened.calibration()
        if stored is None:
            raise Wrong("a file that is there counts as missing")
        reach("load")
        command("supsup-inspect", bank)
        if not stored.stale:
            opened.set_calibration(stored.calibration)
            if MaskBank.open(bank).calibration() != stored:
                raise Wrong("written and read, the calibration is another")
        reach("call")


class Hopfield(_InBank):
    """``hopfield.safetensors``, as recovery and the commands read it."""

    _bank, _file = "units", "hopfield.safetensors"

    def make(self, rng: Random) -> Case:
        return Case(files={"file": tensors_of(rng, self._data)})

    def _use(self, bank: Path, file: Path, reach: Reach) -> None:
        shutil.copyfile(file, bank / self._file)
        if _is_framed(file.read_bytes()):
            reach("header")
        opened = MaskBank.open(bank, verify=False)
        store = read_store(opened)
        reach("load")
        store.settle(store.patterns_of(opened.task(0)))
        command("supsup-inspect", bank, "--storage")
        command("supsup-hopfield", "encode", "--bank", bank)
        reach("call")


class Memory(_InBank):
    """``memory/NAME.safetensors``: stored images, as training and the commands read them."""

    _bank, _file = "own", "memory/a.safetensors"

    def make(self, rng: Random) -> Case:
        return Case(files={"file": tensors_of(rng, self._data)})

    def _use(self, bank: Path, file: Path, reach: Reach) -> None:
        shutil.copyfile(file, bank / self._file)
        if _is_framed(file.read_bytes()):
            reach("header")
        opened = MaskBank.open(bank)
        images = stored_images(opened, "a")
        if images is None:
            raise Wrong("a file that is there counts as missing")
        reach("load")
        command("supsup-bank", "list", bank)
        store_images(opened, opened.task("a"), images)
        again = stored_images(opened, "a")
        if again is None or not np.array_equal(again, images):
            raise Wrong("written and read, the images are others")
        command("supsup-bank", "forget", bank)
        reach("call")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _is_framed(data: bytes) -> bool:
    try:
        header, _ = split(data)
        json.loads(header["__metadata__"]["supsup"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False
    return True
