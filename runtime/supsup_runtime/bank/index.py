"""The index of a mask bank: bank.json read, checked and written (docs/FORMAT.md, "The index")."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import check_name
from supsup_runtime.errors import BankError
from supsup_runtime.files import inside, read_file, write_whole

__all__ = [
    "MAX_TASKS",
    "OBJECTIVES",
    "BankEntry",
    "BankIndex",
    "differentiated",
    "read_index",
    "write_index",
]

FORMAT = 1
MAX_TASKS = 100_000
MAX_INDEX_BYTES = 64 << 20
OBJECTIVES = ("entropy", "superfluous")
_TASK_FILE = re.compile(r"tasks/[^/]+\.safetensors")
_INDEX_FIELDS = {"digest", "format", "network", "objectives", "programs", "tasks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BankEntry:
    """One line of the bank's index.

    Attributes:
        name: The task's name.
        file: Its file, relative to the bank.
        sha256: Digest of the file, hexadecimal.
    """

    name: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BankIndex:
    """All of bank.json."""

    network: Network
    digest: str
    objectives: tuple[str, ...]
    programs: dict[str, BankEntry]
    entries: tuple[BankEntry, ...]


def differentiated(network: Network, *, with_gradient: bool) -> tuple[str, ...]:
    """Objectives that a bank's gradient program covers: without superfluous outputs, entropy."""
    if not with_gradient:
        return ()
    return OBJECTIVES if network.superfluous_outputs else OBJECTIVES[:1]


def write_index(folder: Path, index: BankIndex) -> None:
    """Write bank.json whole; equal indices give equal bytes."""
    value = {
        "digest": index.digest,
        "format": FORMAT,
        "network": index.network.to_dict(),
        "objectives": list(index.objectives),
        "programs": {
            name: {"file": entry.file, "sha256": entry.sha256}
            for name, entry in index.programs.items()
        },
        "tasks": [
            {"file": entry.file, "name": entry.name, "sha256": entry.sha256}
            for entry in index.entries
        ],
    }
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"
    write_whole(folder / "bank.json", text.encode())


def read_index(folder: Path) -> BankIndex:
    """Read bank.json and check it; task files are not opened.

    Raises:
        BankError: If any rule is broken; the message names file and rule.
    """
    path = inside(folder, "bank.json")
    if not path.is_file():
        raise BankError(f"{folder}: not a mask bank: bank.json is missing")
    try:
        value = json.loads(read_file(path, max_bytes=MAX_INDEX_BYTES))
    except (ValueError, RecursionError) as error:  # ValueError: integers of 4300 digits, too
        raise BankError(f"{path}: must be JSON: {error}") from error
    if not isinstance(value, dict) or not _is_format(value.get("format")):
        got = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise BankError(
            f"{path}: bank format must be {FORMAT}, got {got!r}; a newer supsup may read it"
        )
    if set(value) != _INDEX_FIELDS:
        raise BankError(f"{path}: fields must be {sorted(_INDEX_FIELDS)}, got {sorted(value)}")
    try:
        return _parse_index(value, folder)
    except (BankError, OverflowError) as error:  # a constant that no float holds
        raise BankError(f"{path}: {error}") from error


def _parse_index(value: dict[str, Any], folder: Path) -> BankIndex:
    programs, tasks = value["programs"], value["tasks"]
    if not isinstance(programs, dict) or not {"forward"} <= set(programs) <= {
        "forward",
        "gradient",
    }:
        raise BankError(f"programs must be forward and, optionally, gradient, got {programs!r:.80}")
    if not isinstance(tasks, list) or len(tasks) > MAX_TASKS:
        raise BankError(f"tasks must be a list of at most {MAX_TASKS}, got {tasks!r:.80}")
    network = Network.from_dict(value["network"])
    entries = tuple(_entry(item) for item in tasks)
    _check_unique([check_name(entry.name) for entry in entries])
    _check_files(entries, folder)
    expected = list(differentiated(network, with_gradient="gradient" in programs))
    if value["objectives"] != expected:
        raise BankError(f"objectives must be {expected} here, got {value['objectives']!r:.80}")
    if not isinstance(value["digest"], str):
        raise BankError(f"digest must be a string, got {value['digest']!r}")
    found = {name: _entry({"name": name, **_mapping(item)}) for name, item in programs.items()}
    for name, entry in found.items():
        if entry.file != f"programs/{name}.onnx":
            raise BankError(f"the {name} program must be programs/{name}.onnx, got {entry.file!r}")
    return BankIndex(
        network=network,
        digest=value["digest"],
        objectives=tuple(expected),
        programs=found,
        entries=entries,
    )


def _is_format(value: object) -> bool:
    return value == FORMAT and not isinstance(value, bool)  # true == 1 in Python


def _check_files(entries: tuple[BankEntry, ...], folder: Path) -> None:
    """A task's file is its own: removing the task unlinks it."""
    seen: set[str] = set()
    for entry in entries:
        inside(folder, entry.file)
        if not _TASK_FILE.fullmatch(entry.file):
            raise BankError(
                f"the file of task {entry.name!r} must be tasks/*.safetensors, got {entry.file!r}"
            )
        if entry.file.casefold() in seen:
            raise BankError(f"each task must have a file of its own, got {entry.file!r} twice")
        seen.add(entry.file.casefold())


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BankError(f"an entry must be an object, got {value!r:.80}")
    return value


def _entry(value: object) -> BankEntry:
    item = _mapping(value)
    fields = {"file", "name", "sha256"}
    if set(item) != fields or not all(isinstance(text, str) for text in item.values()):
        raise BankError(f"an entry must have the strings {sorted(fields)}, got {item!r:.80}")
    return BankEntry(**item)


def _check_unique(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise BankError(f"task names must be unique, got {name!r} twice")
        seen.add(name.casefold())
