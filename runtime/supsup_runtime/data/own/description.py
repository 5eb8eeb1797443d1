"""What tasks there are: ``tasks.toml``, or a folder of folders."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from supsup_runtime.data.own.folders import folders_in
from supsup_runtime.data.own.parts import checked_classes
from supsup_runtime.data.own.stored import Channels
from supsup_runtime.errors import DataError
from supsup_runtime.preprocessing import MAX_SIDE

MAX_BYTES = 1 << 20
"""Largest ``tasks.toml``: 1 MiB."""
MAX_DOTS = 16
"""Dots in a line: the time for a dotted key, which no task needs, grows with their square."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a task in a bank
_Rule = tuple[Callable[[Any], bool], str]


def _is_path(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return 1 <= len(names) <= 2 and all(isinstance(name, str) and name for name in names)


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_shape(value: object) -> bool:
    sides = value if isinstance(value, list) else []
    return len(sides) in {2, 3} and all(_is_whole(side, 1, MAX_SIDE) for side in sides)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_PREPROCESSING: dict[str, _Rule] = {  # `Preprocessing` checks them
    key: (lambda _value: True, "") for key in ("mean", "mode", "scale", "size", "std")
}
_DEFAULTS: dict[str, _Rule] = {
    "channels": (lambda value: value in ("first", "last"), '"first" or "last"'),
    "seed": (lambda value: _is_whole(value, 0, 2**32 - 1), "a whole number below 2**32"),
    "test": (_is_fraction, "a fraction between 0 and 1, or in a [[task]] a path"),
}
_SECTION: dict[str, _Rule] = {
    "name": (
        lambda value: isinstance(value, str) and _NAME.fullmatch(value) is not None,
        "1 to 100 of A-Z a-z 0-9 . _ -, the first a letter or digit",
    ),
    "data": (_is_path, "a path, or a list of two, of pictures and of labels"),
    "classes": (_is_names, "a list of names"),
    "shape": (_is_shape, "two or three whole numbers, such as [28, 28]"),
}
_OWN: dict[str, _Rule] = {
    "test": (lambda value: _is_fraction(value) or _is_path(value), "a fraction, or a path"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One task as it is described.

    Attributes:
        place: For messages.
        name: Name of the task.
        data: A file or folder, or two files of pictures and of labels.
        test: As `data`; None if the data have a test part or it is held out.
        held_out: Fraction in ``(0, 1)`` of each class to hold out.
        says_held_out: Whether the section itself gives this fraction.
        seed: Seed of that choice, in ``[0, 2**32 - 1]``.
        classes: Names by label, or None.
        shape: Shape of a picture in an array or line, or None.
        channels: Whether the first or last axis of coloured pictures in arrays are channels.
    """

    place: str
    name: str
    data: tuple[Path, ...]
    test: tuple[Path, ...] | None = None
    held_out: float = 0.2
    says_held_out: bool = False
    seed: int = 0
    classes: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    channels: Channels = "last"


def described(source: Path) -> tuple[dict[str, Any], list[Section]]:
    """Return the preprocessing that is asked for, unchecked, and the tasks.

    Raises:
        DataError: If `source` is missing or breaks the rules (docs/DATA.md).
    """
    if source.is_dir():
        folders = folders_in(source, "a folder for each task")
        names = [path.name for path in folders]
        if {*names} in ({"train", "test"}, {"train", "val"}):
            raise DataError(
                f"{source}: has the parts of one task; give the folder above, which has a folder "
                "for each task, or deal its classes to tasks with stream split"
            )
        for path in folders:
            if not _NAME.fullmatch(path.name):
                raise DataError(
                    f"{path}: a task's name must be {_SECTION['name'][1]}; rename the folder, or "
                    "name the task in a tasks.toml"
                )
        _check_alike(source, names)
        return {}, [Section(place=str(path), name=path.name, data=(path,)) for path in folders]
    table = _read_toml(source)
    tables = table.pop("task", None)
    _check(source, table, {**_PREPROCESSING, **_DEFAULTS}, _SECTION, "in a [[task]]")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise DataError(f"{source}: must have a section [[task]] for each task")
    preprocessing = {key: table.pop(key) for key in _PREPROCESSING if key in table}
    sections: dict[str, Section] = {}
    for number, own in enumerate(tables, 1):
        section = _section(source, f"{source}: [[task]] {number}", table, own)
        if section.name in sections:
            raise DataError(
                f"{section.place}: names must differ, [[task]] {number} has that of "
                f"{list(sections).index(section.name) + 1}"
            )
        sections[section.name] = section
    _check_alike(source, list(sections))
    return preprocessing, list(sections.values())


def _check_alike(source: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise DataError(
                f"{source}: names of tasks must differ by more than upper and lower case, got "
                f"{other!r} and {name!r}"
            )


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        missing = "" if path.exists() else ", got a path that does not exist"
        rule = "must be a tasks.toml, or a folder with a folder for each task"
        raise DataError(f"{path}: {rule}{missing}")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES or any(line.count(b".") > MAX_DOTS for line in data.split(b"\n")):
        raise DataError(
            f"{path}: must have at most {MAX_BYTES} bytes, and {MAX_DOTS} dots in a line"
        )
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: must be TOML ({reason:.200})") from error


def _section(
    source: Path, place: str, defaults: Mapping[str, Any], own: Mapping[str, Any]
) -> Section:
    keys = {**_DEFAULTS, **_SECTION, **_OWN}
    _check(place, own, keys, _PREPROCESSING, "above the first [[task]]")
    for key in ("name", "data"):
        if key not in own:
            raise DataError(f"{place}: must have a {key}")
    place = f"{source}: task {own['name']!r}"
    values = {"place": place, **defaults, **own, "data": _paths(source, own["data"])}
    test = values.pop("test", None)
    if _is_path(test):
        values["test"] = _paths(source, test)
    elif test is not None:
        values |= {"held_out": float(test), "says_held_out": "test" in own}
    if "classes" in own:
        values["classes"] = checked_classes(place, own["classes"])
    return Section(**values)


def _paths(source: Path, value: str | list[str]) -> tuple[Path, ...]:
    return tuple(source.parent / name for name in ([value] if isinstance(value, str) else value))


def _check(
    place: object,
    table: Mapping[str, Any],
    rules: Mapping[str, _Rule],
    elsewhere: Mapping[str, _Rule],
    where: str,
) -> None:
    """Refuse keys without a rule, or `elsewhere` in the file, and values that break their rule."""
    for key, value in table.items():
        if key not in rules:
            near = get_close_matches(key[:40], rules, 1)
            hint = f"did you mean {near[0]}?" if near else f"keys are {', '.join(sorted(rules))}"
            if key in elsewhere:
                hint = f"it must stand {where}"
            raise DataError(f"{place}: unknown key {key!r:.80}; {hint}")
        holds, rule = rules[key]
        if not holds(value):
            raise DataError(f"{place}: {key} must be {rule}, got {_shown(value)}")


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested
        return f"a value of type {type(value).__name__}"
