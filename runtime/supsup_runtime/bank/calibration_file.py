"""A bank's calibration on disk, calibration.json (docs/FORMAT.md, "Calibration")."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.index import MAX_INDEX_BYTES, MAX_TASKS, BankEntry
from supsup_runtime.bank.network import canonical_json
from supsup_runtime.errors import BankError
from supsup_runtime.files import inside, read_file, write_whole

__all__ = ["StoredCalibration", "read_calibration", "write_calibration"]

FORMAT = 1
_FILE = "calibration.json"
_FIELDS = {"calibration", "digest", "format", "tasks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """What a bank's calibration.json says.

    Attributes:
        calibration: The threshold, and how it was measured.
        stale: What has become of the tasks since it was measured, in words; empty where they are
            the same. A stale calibration must not be used.
    """

    calibration: Calibration
    stale: str


def write_calibration(
    folder: Path, calibration: Calibration, digest: str, entries: tuple[BankEntry, ...]
) -> None:
    """Write calibration.json whole; equal content gives equal bytes. Lock held."""
    value = {
        "calibration": calibration.to_dict(),
        "digest": digest,
        "format": FORMAT,
        "tasks": [{"name": entry.name, "sha256": entry.sha256} for entry in entries],
    }
    write_whole(inside(folder, _FILE), (canonical_json(value) + "\n").encode())


def read_calibration(
    folder: Path, digest: str, entries: tuple[BankEntry, ...]
) -> StoredCalibration | None:
    """Read calibration.json, and hold it against the bank as it is now.

    Args:
        folder: The bank's.
        digest: Of the bank's network.
        entries: The bank's tasks.

    Returns:
        None where there is no such file.

    Raises:
        BankError: If the file breaks a rule, or is of another bank.
    """
    path = inside(folder, _FILE)
    if not path.exists():
        return None
    try:
        value = json.loads(read_file(path, max_bytes=MAX_INDEX_BYTES))
        return _parse(value, digest, entries)
    except (ValueError, OverflowError, RecursionError) as error:  # BankError is a ValueError
        raise BankError(
            f"{path}: {error}; run supsup-calibrate again, or remove the file"
        ) from error


def _parse(value: object, digest: str, entries: tuple[BankEntry, ...]) -> StoredCalibration:
    if not isinstance(value, dict) or set(value) != _FIELDS:
        got = sorted(value) if isinstance(value, dict) else value
        raise BankError(f"fields must be {sorted(_FIELDS)}, got {got!r:.80}")
    if value["format"] != FORMAT or isinstance(value["format"], bool):  # true == 1 in Python
        raise BankError(f"format must be {FORMAT}, got {value['format']!r:.80}")
    if value["digest"] != digest:
        raise BankError(f"digest must be the bank's, {digest}, got {value['digest']!r:.80}")
    measured = _tasks(value["tasks"])
    return StoredCalibration(
        calibration=Calibration.from_dict(value["calibration"]),
        stale=_changes(measured, [(entry.name, entry.sha256) for entry in entries]),
    )


def _tasks(items: object) -> list[tuple[str, str]]:
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_TASKS:
        raise BankError(f"tasks must be a list of 1 to {MAX_TASKS}, got {items!r:.80}")
    for item in items:
        texts = isinstance(item, dict) and all(isinstance(text, str) for text in item.values())
        if not texts or set(item) != {"name", "sha256"}:
            raise BankError(f"a task must have the strings name and sha256, got {item!r:.80}")
    return [(item["name"], item["sha256"]) for item in items]


def _changes(measured: list[tuple[str, str]], now: list[tuple[str, str]]) -> str:
    """The first difference between the tasks that were measured and those that are there."""
    if measured == now:
        return ""
    before, after = dict(measured), dict(now)
    for name, sha256 in now:
        if name not in before:
            return f"task {name!r} was added or renamed since"
        if before[name] != sha256:
            return f"task {name!r} was replaced since"
    gone = [name for name, _ in measured if name not in after]
    return f"task {gone[0]!r} was removed since" if gone else "the tasks' order changed since"
