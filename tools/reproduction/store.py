"""Measurements on disk, one JSON line each as soon as it is made, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supsup_runtime.errors import InputError
from supsup_runtime.files import write_whole

Line = dict[str, Any]


def claim(folder: Path, setting: dict[str, Any]) -> None:
    """Make a work folder, or take one of the same setting.

    Raises:
        InputError: If it holds another setting; the message names the first difference.
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
        raise InputError(f"{file}: damaged: {error}; remove the folder, or give another") from error
    if found != wanted:
        where, got, want = _difference(found, wanted)
        raise InputError(
            f"{file}: the folder was begun with {where} {got!r}, this run wants {want!r}; give the "
            "same options, or another --work"
        )


def _difference(found: object, wanted: object, where: str = "") -> tuple[str, object, object]:
    """The first place where two JSON values differ, and both values there."""
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
    """The measurements of one work folder, by a row's key and a task's name."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was cut short is removed.

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
                    "remove the line, and it is measured again"
                ) from error

    def measured(self, key: str, task: str, measure: Callable[[], Line]) -> Line:
        """A measurement: the one that is kept, or made now and kept, on disk first.

        It gets the fields ``key`` and ``task``.
        """
        if (key, task) not in self._lines:
            line = {**measure(), "key": key, "task": task}
            with self._path.open("a") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
            self._lines[key, task] = line
        return self._lines[key, task]
