"""What a report shows beside the result of an evaluation: pictures, learning curves, sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supsup_runtime.arrays import Array
from supsup_runtime.bank.fields import is_integer, is_number
from supsup_runtime.data.own import OwnTasks, Tasks
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation.report.pictures import data_uri, from_values
from supsup_runtime.files import regular_file, system_errors
from supsup_runtime.model.metadata import ModelInfo

MAX_LINE_BYTES = 1 << 20
_MAX_POINTS = 100
_PICTURED = 12


def data_name(stream: Tasks) -> str:
    """Name the data of a stream, without folders."""
    name = Path(stream.place).name
    return name if isinstance(stream, OwnTasks) else f"the {stream.kind} stream of {name}"


def sizes(path: Path, info: ModelInfo) -> dict[str, int]:
    """Return bytes: of the model, of one more task, of a float32 model for each task."""
    network = info.network
    return {
        "model_bytes": path.stat().st_size,
        "task_bytes": -(-network.num_masked // 8) + 4 * network.num_state,
        "float_bytes": 4 * len(info.tasks) * (network.num_masked + network.num_state),
    }


def read_curves(log: Path, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the last line with a loss curve of each of these tasks in a training log.

    Raises:
        InputError: If the log is missing, or a line is not what training writes.
        FileError: If the log cannot be read.
    """
    if not log.exists():
        raise InputError(f"{log}: no such file; give the bank, or the log, of supsup-train")
    found: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    with regular_file(log, links=True) as file, system_errors(log, "read"):
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            curve = _curve(line)
            if curve is None:
                raise InputError(
                    f"{log}:{number}: must be a line of supsup-train's log, got {line!r:.80}"
                )
            if curve.get("loss") and curve.get("task") in found:
                found[curve["task"]] = curve
    return [curve for curve in found.values() if curve]


def _curve(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("task", ""), str):
        return None
    points = value.get("loss", [])
    shares = [value[key] for key in ("accuracy", "train_accuracy") if key in value]
    fits = (
        isinstance(points, list)
        and len(points) <= _MAX_POINTS
        and all(isinstance(point, list) and len(point) == 2 for point in points)
        and all(is_integer(x) and 0 < x < 1 << 53 for x, _ in points)
        and all(is_number(y) and 0 <= y < 1e30 for _, y in points)
        and all(is_number(share) and 0 <= share <= 1 for share in shares)
    )
    return value if fits else None


def pictured(stream: Tasks, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return wrong answers with ``task``, ``name`` and ``picture``, a data URI.

    Of the 12 tasks with the lowest accuracy; features have no pictures.
    """
    poor = sorted((row for row in rows if row["wrong"]), key=lambda row: row["known"])
    return [
        {**entry, "task": row["task"], "name": name, "picture": data_uri(picture)}
        for row in poor[:_PICTURED]
        for entry, name, picture in _pictures(stream, row)
    ]


def _pictures(stream: Tasks, row: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, Array]]:
    index, wrong = stream.task_names.index(row["task"]), row["wrong"]
    if isinstance(stream, OwnTasks):  # as they were given
        entries = {entry["row"]: entry for entry in wrong}
        for place, (name, picture) in enumerate(stream.pictures(index)):
            if place in entries:
                yield entries[place], name, picture
        return
    shape = stream.dataset.train_x.shape[1:]
    if len(shape) > 1:
        x = stream.task(index, train=False).test_x
        channels = shape[2] if len(shape) == 3 else 1
        for entry in wrong:
            picture = x[entry["row"]].reshape(channels, *shape[:2])
            yield entry, f"test image {entry['row']}", from_values(picture)
