"""What there is to say about own tasks before anything is learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from supsup_runtime.arrays import Floats, Labels
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
_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What `check` found.

    Attributes:
        tasks: For each task: ``task``, its name; ``train`` and ``test``, pictures by class that
            can be read; ``smallest`` and ``largest`` height and width; ``mean`` and ``std`` of
            ``value / scale``, averaged over pictures; ``unreadable``, messages by picture.
        alike: For each two tasks that share pictures, and for each task (``tasks`` has its name
            twice) whose test shares pictures with its training: ``tasks``; ``near``, the pictures
            of the second whose first near duplicate is in the first; ``equal``, those of equal
            values; ``example``, the names of two pictures.
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
    """Pictures as they are compared, in the order of tasks, training first."""

    parts: list[int] = field(default_factory=list)  # two for each task
    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    thumbs: list[Floats] = field(default_factory=list)  # of every `step`-th picture


def check(tasks: OwnTasks) -> Check:
    """Read every picture once, and compare the tasks.

    Raises:
        DataError: If files of arrays cannot be read; pictures that cannot be are listed.
    """
    count = sum(len(part.rows) for pair in tasks.parts for part in pair)
    step, scale = -(-count // MAX_COMPARED), tasks.preprocessing.scale
    seen = _Seen()
    table = [
        _read(name, pair, 2 * index, seen, scale, step)
        for index, (name, pair) in enumerate(zip(tasks.task_names, tasks.parts, strict=True))
    ]
    alike = _shared(tasks.task_names, seen, step)
    findings = [line for row in table for line in _about(row)]
    return Check(tasks=table, alike=alike, findings=findings + [_shares(pair) for pair in alike])


def _read(
    task: str, pair: tuple[Part, Part], first: int, seen: _Seen, scale: float, step: int
) -> dict[str, Any]:
    """Return the facts of a task, and add its pictures to `seen`."""
    small = Preprocessing(mode="gray", size=(_SIDE, _SIDE), scale=scale)
    counts: list[dict[str, int]] = []
    facts: list[tuple[float, ...]] = []
    unreadable: Skipped = {}
    for number, part in enumerate(pair, first):
        rows: list[int] = []
        for row, picture in part.each(part.source.reader, unreadable):
            rows.append(row)
            mean, std = picture.mean(dtype=np.float64), picture.std(dtype=np.float32)
            facts.append((*picture.shape[:2], mean / scale, std / scale))
            if len(seen.names) % step == 0:
                seen.thumbs.append(small.apply(picture).ravel())
            kind = f"{picture.dtype} {picture.shape}".encode()
            seen.digests.append(hashlib.sha256(kind + picture.tobytes()).digest())
            seen.names.append(part.source.name(row))
            seen.parts.append(number)
        counts.append(dict(zip(part.source.classes, part.counts(rows), strict=True)))
    heights, widths, means, stds = np.array(facts or [(0, 0, 0, 0)]).T
    return {
        "task": task,
        "train": counts[0],
        "test": counts[1],
        "smallest": [int(heights.min()), int(widths.min())],
        "largest": [int(heights.max()), int(widths.max())],
        "mean": float(means.mean()),
        "std": float(stds.mean()),
        "unreadable": unreadable,
    }


def _shared(tasks: Sequence[str], seen: _Seen, step: int) -> list[dict[str, Any]]:
    """Pair each picture with the first equal, else near one, of an earlier part."""
    first: dict[bytes, int] = {}
    pairs = {row: first.setdefault(digest, row) for row, digest in enumerate(seen.digests)}
    equal = {row for row, other in pairs.items() if seen.parts[other] < seen.parts[row]}
    for row, other in _near(seen.thumbs, np.array(seen.parts[::step], np.int64)):
        if row * step not in equal:
            pairs[row * step] = other * step
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row, other in pairs.items():
        if seen.parts[other] < seen.parts[row]:
            places = seen.parts[other] // 2, seen.parts[row] // 2
            new = {"near": 0, "equal": 0, "example": [seen.names[other], seen.names[row]]}
            pair = found.setdefault(places, {"tasks": [tasks[place] for place in places], **new})
            pair["near"] += 1
            pair["equal"] += row in equal
    return [found[places] for places in sorted(found)]


def _near(thumbs: list[Floats], parts: Labels) -> Iterator[tuple[int, int]]:
    """Yield each row that has a near one in an earlier part, with the first of these."""
    x = np.array(thumbs, np.float32).reshape(-1, _SIDE**2)
    squares = np.square(x).sum(axis=1)
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = squares[rows, None] + squares - 2 * x[rows] @ x.T
        near = (distances <= _SIDE**2 * NEAR**2) & (parts < parts[rows, None])
        which = np.flatnonzero(near.any(axis=1))
        yield from zip((start + which).tolist(), near[which].argmax(axis=1).tolist(), strict=True)


def _about(row: dict[str, Any]) -> list[str]:
    lines = []
    lines += [f"task {row['task']!r}: {why}" for why in row["unreadable"].values()]
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
