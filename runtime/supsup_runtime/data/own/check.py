"""What there is to say about own tasks before anything is learned."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from supsup_runtime.arrays import Floats
from supsup_runtime.data.own.parts import Part, Skipped
from supsup_runtime.data.own.tasks import OwnTasks
from supsup_runtime.preprocessing import Preprocessing

NEAR = 0.04
"""Two pictures are near duplicates if their thumbnails, 8 x 8 gray values of mean 0 and standard
deviation 1, differ by at most this (root mean square). JPEG of quality 95 changes them by 0.01; two
different digits of MNIST differ by 0.045 or more."""
MAX_COMPARED = 100_000
"""Thumbnails that are compared; of more pictures, evenly spaced ones."""
_SIDE = 8
_ROWS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What `check` found.

    Attributes:
        tasks: For each task: ``task``, its name; ``train`` and ``test``, pictures by class that
            can be read; ``smallest`` and ``largest`` height and width; ``mean`` and ``std`` of
            ``value / scale``, averaged over pictures; ``unreadable``, messages by picture.
        alike: For each two tasks that share pictures, and for each task (``tasks`` has its name
            twice) whose test shares pictures with its training: ``tasks``; ``near``, how many of
            the first have a near duplicate in the second; ``equal``, how many the same values;
            ``example``, the names of two pictures.
        findings: A line for everything that may need a change.
    """

    tasks: list[dict[str, Any]]
    alike: list[dict[str, Any]]
    findings: list[str]

    def table(self) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a heading, and a row for each task."""
        heading = ("task", "classes", "train", "test", "size", "mean", "std")
        rows = []
        for task in self.tasks:
            counts = (sum(task[part].values()) for part in ("train", "test"))
            sizes = dict.fromkeys("{} x {}".format(*task[key]) for key in ("smallest", "largest"))
            moments = (f"{task[key]:.3f}" for key in ("mean", "std"))
            rows.append((task["task"], len(task["train"]), *counts, " to ".join(sizes), *moments))
        return heading, rows

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return asdict(self)


@dataclass(slots=True, eq=False)
class _Seen:
    """Pictures as they are compared: names by digest, and some thumbnails with their names."""

    digests: dict[bytes, str]
    thumbs: Floats
    names: list[str]

    def joined(self, other: _Seen) -> _Seen:
        thumbs = np.concatenate([self.thumbs, other.thumbs])
        return _Seen({**other.digests, **self.digests}, thumbs, self.names + other.names)


def check(tasks: OwnTasks) -> Check:
    """Read every picture once, and compare the tasks.

    Raises:
        DataError: If files of arrays cannot be read; pictures that cannot be are listed.
    """
    count = sum(len(part.rows) for pair in tasks.parts for part in pair)
    step, scale = -(-count // MAX_COMPARED), tasks.preprocessing.scale
    table, seen = [], {}
    alike: list[dict[str, Any] | None] = []
    for name, pair in zip(tasks.task_names, tasks.parts, strict=True):
        facts: list[tuple[float, ...]] = []
        unreadable: Skipped = {}
        train, test = (_read(part, scale, step, facts, unreadable) for part in pair)
        table.append(_row(name, train[0], test[0], facts, unreadable))
        alike.append(_alike((name, name), test[1], train[1]))
        seen[name] = train[1].joined(test[1])
    for one, other in combinations(seen, 2):
        alike.append(_alike((one, other), seen[one], seen[other]))
    shared = [each for each in alike if each is not None]
    findings = [line for row in table for line in _about(row)] + [_shares(each) for each in shared]
    return Check(tasks=table, alike=shared, findings=findings)


def _read(
    part: Part, scale: float, step: int, facts: list[tuple[float, ...]], unreadable: Skipped
) -> tuple[dict[str, int], _Seen]:
    """Return counts by class and what is compared; add sizes, mean and std to `facts`."""
    small = Preprocessing(mode="gray", size=(_SIDE, _SIDE), scale=scale)
    rows: list[int] = []
    thumbs: list[Floats] = []
    seen = _Seen({}, np.empty((0, _SIDE**2), np.float32), [])
    for row, picture in part.each(part.source.reader, unreadable):
        name = part.source.name(row)
        kind = f"{picture.dtype} {picture.shape}".encode()
        seen.digests.setdefault(hashlib.sha256(kind + picture.tobytes()).digest(), name)
        if len(rows) % step == 0:
            thumbs.append(small.apply(picture).reshape(1, -1))
            seen.names.append(name)
        rows.append(row)
        mean, std = picture.mean(dtype=np.float64), picture.std(dtype=np.float32)
        facts.append((*picture.shape[:2], mean / scale, std / scale))
    seen.thumbs = np.concatenate([seen.thumbs, *thumbs])
    return dict(zip(part.source.classes, part.counts(rows), strict=True)), seen


def _row(
    name: str,
    train: dict[str, int],
    test: dict[str, int],
    facts: list[tuple[float, ...]],
    unreadable: Skipped,
) -> dict[str, Any]:
    heights, widths, means, stds = np.array(facts or [(0, 0, 0, 0)]).T
    return {
        "task": name,
        "train": train,
        "test": test,
        "smallest": [int(heights.min()), int(widths.min())],
        "largest": [int(heights.max()), int(widths.max())],
        "mean": float(means.mean()),
        "std": float(stds.mean()),
        "unreadable": unreadable,
    }


def _alike(tasks: tuple[str, str], one: _Seen, other: _Seen) -> dict[str, Any] | None:
    equal = [digest for digest in one.digests if digest in other.digests]
    near = _near(one.thumbs, other.thumbs)
    if not equal and not near:
        return None
    if equal:
        example = [one.digests[equal[0]], other.digests[equal[0]]]
    else:
        example = [one.names[near[0][0]], other.names[near[0][1]]]
    most = max(len(near), len(equal))
    return {"tasks": list(tasks), "near": most, "equal": len(equal), "example": example}


def _near(one: Floats, other: Floats) -> list[tuple[int, int]]:
    """Return the rows of `one` that have a near row in `other`, with the first of these."""
    found: list[tuple[int, int]] = []
    squares = np.square(other).sum(axis=1)
    for start in range(0, len(one) if len(other) else 0, _ROWS):
        rows = one[start : start + _ROWS]
        distances = np.square(rows).sum(axis=1)[:, None] + squares - 2 * rows @ other.T
        near = distances <= _SIDE**2 * NEAR**2
        which = np.flatnonzero(near.any(axis=1))
        found += zip((start + which).tolist(), near[which].argmax(axis=1).tolist(), strict=True)
    return found


def _about(row: dict[str, Any]) -> list[str]:
    lines = []
    if row["unreadable"]:
        few = ", ".join(list(row["unreadable"])[:3])
        count = len(row["unreadable"])
        lines.append(f"task {row['task']!r}: {count} pictures cannot be read, such as {few}")
    for part, what in (("train", "for training"), ("test", "for the test")):
        empty = [name for name, count in row[part].items() if not count]
        lines += [f"task {row['task']!r}: class {name!r} has no picture {what}" for name in empty]
    return lines


def _shares(alike: dict[str, Any]) -> str:
    (one, other), example = alike["tasks"], " and ".join(alike["example"])
    what = f"tasks {one!r} and {other!r} share {alike['near']} pictures"
    if one == other:
        what = f"task {one!r}: {alike['near']} pictures of the test are also for training,"
    return f"{what} or near duplicates ({alike['equal']} equal), such as {example}"
