"""The index of a mask bank, bank.json (docs/FORMAT.md, "The index")."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from json.encoder import encode_basestring_ascii
from pathlib import Path

from supsup_runtime.bank.fields import Fields, canonical_json, parse_json, strings
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import check_name
from supsup_runtime.errors import BankError
from supsup_runtime.files import inside, read_file, write_whole

FORMAT = 2
MAX_TASKS = 100_000
MAX_INDEX_BYTES = 64 << 20
OBJECTIVES = ("entropy", "superfluous")
_TASK_FILE = re.compile(r"tasks/[^/]+\.safetensors")
_FIELDS = {"digest", "format", "network", "objectives", "programs", "tasks"}
_FORMATS = {1: _FIELDS, FORMAT: _FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class BankEntry:
    """A file in the index, with its path in the bank and hexadecimal SHA-256."""

    name: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)  # no slots: of a cached property
class BankIndex:
    """Content of bank.json, with the file's `sha256`."""

    network: Network
    digest: str
    objectives: tuple[str, ...]
    programs: dict[str, BankEntry]
    entries: tuple[BankEntry, ...]
    format: int = FORMAT
    sha256: str = ""

    @cached_property
    def positions(self) -> dict[str, int]:
        """Where each name is among the entries."""
        return {entry.name: position for position, entry in enumerate(self.entries)}

    @property
    def revision(self) -> str:
        """See `MaskBank.revision`."""
        tasks = [[entry.name, entry.sha256] for entry in self.entries]
        text = canonical_json({"digest": self.digest, "tasks": tasks})
        return hashlib.sha256(text.encode()).hexdigest()


def differentiated(network: Network, *, with_gradient: bool) -> tuple[str, ...]:
    """Return the objectives of a bank's gradient program."""
    if not with_gradient:
        return ()
    return OBJECTIVES if network.superfluous_outputs else OBJECTIVES[:1]


def write_index(folder: Path, index: BankIndex) -> BankIndex:
    """Write bank.json and return the index with its `sha256`; equal indices give equal bytes."""
    value = {
        "digest": index.digest,
        "format": index.format,
        "network": index.network.to_dict(),
        "objectives": list(index.objectives),
        "programs": {
            name: {"file": entry.file, "sha256": entry.sha256}
            for name, entry in index.programs.items()
        },
        "tasks": [],
    }
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False)
    head, brackets, end = text.rpartition("[]")
    if index.entries:
        brackets = "[\n" + ",\n".join(map(_entry_text, index.entries)) + "\n ]"
    data = f"{head}{brackets}{end}\n".encode()
    write_whole(folder / "bank.json", data)
    return replace(index, sha256=hashlib.sha256(data).hexdigest())


def _entry_text(entry: BankEntry) -> str:
    """Format like `json.dumps` with an indent, which takes four times as long."""
    file, name, sha256 = map(encode_basestring_ascii, (entry.file, entry.name, entry.sha256))
    return f'  {{\n   "file": {file},\n   "name": {name},\n   "sha256": {sha256}\n  }}'


def read_index(folder: Path, known: BankIndex | None = None) -> BankIndex:
    """Read and check bank.json; return `known` unparsed if the file is the same.

    Raises:
        BankError: If a rule is broken.
    """
    path = inside(folder, "bank.json")
    if not path.exists():
        raise BankError(f"{folder}: not a mask bank: bank.json is missing")
    data = read_file(path, max_bytes=MAX_INDEX_BYTES)
    sha256 = hashlib.sha256(data).hexdigest()
    if known is not None and known.sha256 == sha256:
        return known
    try:
        return replace(_parse_index(parse_json(data), folder), sha256=sha256)
    except (BankError, OverflowError) as error:  # number too large for a float
        raise BankError(f"{path}: {error}") from error


def _parse_index(value: object, folder: Path) -> BankIndex:
    found = Fields.of_file(value, _FORMATS, kind="bank")
    programs = found.get("programs", dict)
    if set(programs) not in ({"forward"}, {"forward", "gradient"}):
        raise BankError(f"programs must be forward and, optionally, gradient, got {programs!r:.80}")
    network = Network.from_dict(found["network"])
    if network.newer and found["format"] == 1:
        raise BankError(f"network: {network.newer[0]} needs format 2, got a bank of format 1")
    entries = tuple(
        BankEntry(**strings(item, {"file", "name", "sha256"}, "an entry"))
        for item in found.items("tasks", most=MAX_TASKS)
    )
    _check_unique([check_name(entry.name) for entry in entries], "task names must be unique")
    _check_files(entries, folder)
    expected = list(differentiated(network, with_gradient="gradient" in programs))
    if found["objectives"] != expected:
        raise BankError(f"objectives must be {expected} here, got {found['objectives']!r:.80}")
    return BankIndex(
        network=network,
        digest=found.get("digest", str),
        objectives=tuple(expected),
        programs={name: _program(name, item) for name, item in programs.items()},
        entries=entries,
        format=found["format"],
    )


def _program(name: str, item: object) -> BankEntry:
    entry = BankEntry(name=name, **strings(item, {"file", "sha256"}, "an entry"))
    if entry.file != f"programs/{name}.onnx":
        raise BankError(f"the {name} program must be programs/{name}.onnx, got {entry.file!r}")
    return entry


def _check_files(entries: tuple[BankEntry, ...], folder: Path) -> None:
    for entry in entries:
        inside(folder, entry.file)
        if not _TASK_FILE.fullmatch(entry.file):
            raise BankError(
                f"the file of task {entry.name!r} must be tasks/*.safetensors, got {entry.file!r}"
            )
    _check_unique([entry.file for entry in entries], "each task must have a file of its own")


def _check_unique(texts: list[str], rule: str) -> None:
    seen: set[str] = set()
    for text in texts:
        if text.casefold() in seen:
            raise BankError(f"{rule}, got {text!r} twice")
        seen.add(text.casefold())


def check_new(folder: Path, name: str, taken: set[str]) -> None:
    """Raise `BankError` unless a task may get this name; `taken` are the others', folded."""
    check_name(name)
    if name.casefold() in taken:
        raise BankError(
            f"{folder}: task {name!r} already exists (names ignore case); "
            "replace it, or choose another name"
        )
    if len(taken) >= MAX_TASKS:
        raise BankError(f"{folder}: the bank is full: at most {MAX_TASKS} tasks")
