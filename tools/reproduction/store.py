"""Measurements on disk, a JSON line each; an interrupted run can continue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole

Line = dict[str, Any]


def claim(folder: Path, setting: dict[str, Any]) -> None:
    """Make a work folder, or check the setting of an existing one.

    Raises:
        InputError: If the setting differs; the message names the first difference.
    """
    file = folder / "setting.json"
    wanted = json.loads(json.dumps(setting))
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, (json.dumps(setting, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(
            f"{file}: damaged: {error}; remove the folder, or use another --work"
        ) from error
    if found != wanted:
        where, got, want = _difference(found, wanted)
        raise InputError(
            f"{file}: the folder has {where} {got!r}, this run has {want!r}; use the same options, "
            "or another --work"
        )


def _difference(found: object, wanted: object, where: str = "") -> tuple[str, object, object]:
    """Return the first difference of JSON values: place, and both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            if found.get(key) != wanted.get(key):
                return _difference(found.get(key), wanted.get(key), f"{where}.{key}".strip("."))
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}[{index}]")
    return where or "setting", found, wanted


class Store:
    """Measurements of one work folder, by row key and task."""

    def __init__(self, path: Path) -> None:
        """Read a file, and remove an incomplete last line.

        Raises:
            InputError: If another line is damaged.
        """
        self._path = path
        self._lines: dict[tuple[str, str], Line] = {}
        if not path.exists():
            return
        whole, _, cut = path.read_text().rpartition("\n")
        if cut:
            write_whole(path, f"{whole}\n".encode() if whole else b"")
        for number, text in enumerate(whole.splitlines(), start=1):
            try:
                line = json.loads(text)
                self._lines[line["key"], line["task"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}:{number}: must be a JSON object with key and task, got {text[:40]!r}; "
                    "remove the line to measure it again"
                ) from error

    def measured(self, key: str, task: str, measure: Callable[[], Line]) -> Line:
        """Return the stored measurement, or store a new one with fields ``key`` and ``task``."""
        if (key, task) not in self._lines:
            line = {**measure(), "key": key, "task": task}
            with self._path.open("a") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
            self._lines[key, task] = line
        return self._lines[key, task]
