"""A bank's calibration.json (docs/FORMAT.md, "Calibration")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.fields import Fields, canonical_json, parse_json, strings
from supsup_runtime.bank.index import MAX_INDEX_BYTES, MAX_TASKS, BankEntry
from supsup_runtime.errors import BankError
from supsup_runtime.files import inside, read_file, write_whole

FORMAT = 2
_FILE = "calibration.json"
_FIELDS = {"calibration", "digest", "format", "tasks"}
_FORMATS = {1: _FIELDS, FORMAT: _FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibration:
    """Content of calibration.json.

    Attributes:
        calibration: Threshold and measurement.
        stale: How the tasks have changed since, or empty. A stale calibration must not be used.
    """

    calibration: Calibration
    stale: str


def write_calibration(
    folder: Path, calibration: Calibration, digest: str, entries: tuple[BankEntry, ...]
) -> None:
    """Write calibration.json with the lock held; equal content gives equal bytes.

    Raises:
        BankError: If it adjusts another number of tasks.
    """
    calibration.check_tasks(len(entries))
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
    """Read calibration.json and compare it with `entries`; return None if missing.

    Raises:
        BankError: If the file breaks a rule, or belongs to another bank.
    """
    path = inside(folder, _FILE)
    if not path.exists():
        return None
    data = read_file(path, max_bytes=MAX_INDEX_BYTES)
    try:
        return _parse(parse_json(data), digest, entries)
    except (BankError, OverflowError) as error:
        raise BankError(
            f"{path}: {error}; run supsup-calibrate again, or remove the file"
        ) from error


def _parse(value: object, digest: str, entries: tuple[BankEntry, ...]) -> StoredCalibration:
    found = Fields.of_file(value, _FORMATS, kind="calibration", digest=digest)
    measured = [
        strings(item, {"name", "sha256"}, "a task")
        for item in found.items("tasks", least=1, most=MAX_TASKS)
    ]
    calibration = Calibration.from_dict(found["calibration"])
    calibration.check_tasks(len(measured))
    return StoredCalibration(
        calibration=calibration,
        stale=_changes(
            [(task["name"], task["sha256"]) for task in measured],
            [(entry.name, entry.sha256) for entry in entries],
        ),
    )


def _changes(measured: list[tuple[str, str]], now: list[tuple[str, str]]) -> str:
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
