"""What a report shows beside the result of an evaluation: pictures, learning curves, sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from supsup_runtime.arrays import Array
from supsup_runtime.bank.fields import is_integer, is_number
from supsup_runtime.data.streams import Stream
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation.report.pictures import data_uri, from_values
from supsup_runtime.model.metadata import ModelInfo

MAX_LOG_BYTES = 1 << 30
_PICTURED = 12


def sizes(path: Path, info: ModelInfo) -> dict[str, int]:
    """Return bytes: of the model, of one more task, of a float32 model for each task."""
    network = info.network
    return {
        "model_bytes": path.stat().st_size,
        "task_bytes": -(-network.num_masked // 8) + 4 * network.num_state,
        "float_bytes": 4 * len(info.tasks) * (network.num_masked + network.num_state),
    }


def read_curves(log: Path, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return the lines of a training log that have a loss curve, by task; the last counts.

    Raises:
        InputError: If the log is missing or too large, or a line is not what training writes.
    """
    if not log.is_file():
        raise InputError(f"{log}: no such file; give the bank, or the log, of supsup-train")
    if log.stat().st_size > MAX_LOG_BYTES:
        raise InputError(f"{log}: must have at most {MAX_LOG_BYTES} bytes")
    found = {}
    with log.open("rb") as file:
        for number, line in enumerate(file, start=1):
            curve = _curve(line)
            if curve is None:
                raise InputError(
                    f"{log}:{number}: must be a line of supsup-train's log, got {line!r:.80}"
                )
            if curve.get("loss"):
                found[curve.get("task")] = curve
    return [found[task] for task in tasks if task in found]


def _curve(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    points = value.get("loss", [])
    shares = [value[key] for key in ("accuracy", "train_accuracy") if key in value]
    fits = (
        isinstance(value.get("task", ""), str)
        and isinstance(points, list)
        and all(isinstance(point, list) and len(point) == 2 for point in points)
        and all(is_integer(x) and 0 < x < 1 << 53 for x, _ in points)
        and all(is_number(y) and 0 <= y < 1e30 for _, y in points)
        and all(is_number(share) and 0 <= share <= 1 for share in shares)
    )
    return value if fits else None


def pictured(stream: Stream, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the wrong answers with their pictures, of the 12 tasks with the lowest accuracy.

    Without a picture, as of features, an answer is left out.
    """
    poor = sorted(rows, key=lambda row: (row.get("known", 1), row.get("unknown") or 0))
    places = {name: index for index, name in enumerate(stream.task_names)}
    return [
        {"task": row["task"], **entry, "picture": data_uri(picture)}
        for row in [row for row in poor if row.get("wrong")][:_PICTURED]
        for entry, picture in _pictures(stream, places[row["task"]], row["wrong"])
    ]


def _pictures(
    stream: Stream, index: int, wrong: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Array]]:
    shape = stream.dataset.train_x.shape[1:]
    if len(shape) < 2:
        return
    x = stream.task(index, train=False).test_x
    channels = shape[2] if len(shape) == 3 else 1
    for entry in wrong:
        yield entry, from_values(x[entry["row"]].reshape(channels, *shape[:2]))
