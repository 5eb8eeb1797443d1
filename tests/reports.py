"""Results of evaluations, made up for reports."""

from __future__ import annotations

from typing import Any

import numpy as np

from supsup_runtime.evaluation.findings import confused_tasks, warnings
from supsup_runtime.evaluation.report.pictures import data_uri

PICTURE = data_uri(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)


def made_up(names: list[str], labels: list[str], *, lost: int = 0) -> dict[str, Any]:
    """A result of these tasks; each of the first `lost` is taken for the next in half the cases."""
    rows = [_row(k, names, labels, lost=k < lost) for k in range(len(names))]
    means = {
        key: float(np.mean([row[key] for row in rows]))
        for key in ("chance", "inferred", "known", "known_ms", "shared", "unknown", "unknown_ms")
    }
    steps = [[step, 2 / step] for step in range(1, 51)]
    return {
        "batch": 1,
        "chance_inferred": 1 / len(names),
        "confusion": confused_tasks(rows),
        "curves": [
            {"task": name, "loss": steps, "accuracy": 0.9, "train_accuracy": 0.95 + k / 1e4}
            for k, name in enumerate(names)
        ],
        "data": "the made-up stream",
        "method": "verified",
        "model": "out.onnx",
        "pictures": [
            {**wrong, "task": row["task"], "name": f"{wrong['row']}.png", "picture": PICTURE}
            for row in rows[:2]
            for wrong in row["wrong"]
        ],
        "refusal": {"coverage": 0.95, "accepted": 0.94, "auroc": 0.987},
        "sizes": {"model_bytes": 8_950_000, "task_bytes": 34_400, "float_bytes": 275_200_000},
        "tasks": rows,
        "warnings": warnings(rows, len(names), 1),
        **means,
    }


def _row(k: int, names: list[str], labels: list[str], *, lost: bool) -> dict[str, Any]:
    name, other = names[k], names[(k + 1) % len(names)]
    classes = 8 * np.eye(len(labels), dtype=int) + np.eye(len(labels), k=1, dtype=int)
    right = 0.5 if lost else 1.0
    wrong = {"answer": labels[0], "confidence": 0.75, "label": labels[-1]}
    return {
        "calibration": {
            kind: [[0, 0, 0.0]] * 5 + [[10, 5 + s, 10 * (s / 10 + 0.05)] for s in range(5)]
            for kind in ("known", "unknown")
        },
        "chance": 1 / len(labels),
        "classes": classes.tolist(),
        "images": 20,
        "inferred": right,
        "inferred_as": {name: 10, other: 10} if lost else {name: 20},
        "known": 0.9 + k / 1e4,
        "known_ms": 0.01,
        "labels": labels,
        "margins": {
            "right": [k / 10 for k in range(20)],
            "wrong": [0.1] * 10 if lost else [],
        },
        "shared": 0.9,
        "task": name,
        "test_images": 100,
        "unknown": 0.9 * right,
        "unknown_ms": 1.25,
        "wrong": [{**wrong, "inferred": None, "row": 3}, {**wrong, "inferred": other, "row": 5}],
    }
