from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from supsup_runtime.data.streams import TaskData
from supsup_runtime.evaluation.findings import (
    Answer,
    chance,
    confused_classes,
    confused_tasks,
    of_task,
    warnings,
)

NONE = np.empty((0, 1), np.float32)
DATA = TaskData(
    name="pets",
    labels=("cat", "dog"),
    train_x=NONE,
    train_y=np.empty(0, np.int64),
    test_x=np.zeros((4, 1), np.float32),
    test_y=np.array([0, 0, 1, 1]),
)
TIPS = (
    "calibrate (supsup-calibrate), or train with --negatives memory or others, or with more "
    "--outputs"
)


def answer(row: int, label: int, sure: float, task: str = "pets", margin: float = 1.0) -> Answer:
    right = label == DATA.test_y[row]
    return Answer(row, bool(right), label, f"<{label}>", sure, task, None, margin)


def row(task: str, inferred: dict[str, int], **more: Any) -> dict[str, Any]:
    images = sum(inferred.values())
    share = inferred.get(task, 0) / images
    given = {"chance": 0.5, "known": 0.9, "labels": ["a", "b"], "inferred": share}
    return {"task": task, "inferred_as": inferred, "images": images, **given, **more}


def test_of_one_task() -> None:
    given = [answer(0, 0, 0.95), answer(1, 1, 0.55), answer(2, 2, 0.72), answer(3, 1, 1.0)]
    inferred = [answer(1, 1, 0.55, margin=0.25), answer(3, 1, 0.8, "cars", 0.5)]
    found = of_task(DATA, given, inferred)
    assert found["classes"] == [[1, 1, 0], [0, 1, 1]]  # the third label is no class of the task
    assert found["margins"] == {"right": [0.25], "wrong": [0.5]}
    known = found["calibration"]["known"]
    assert known[5] == [1, 0, 0.55]
    assert known[7] == [1, 0, 0.72]
    assert known[9] == [2, 2, 1.95]
    assert found["calibration"]["unknown"][8] == [1, 0, 0.8]  # right label, wrong task
    said = [(w["row"], w["label"], w["answer"], w["inferred"]) for w in found["wrong"]]
    assert said == [(2, "dog", "<2>", None), (1, "cat", "<1>", None), (3, "dog", "<1>", "cars")]


def test_at_most_five_wrong_answers_and_two_of_them_of_tasks() -> None:
    data = TaskData(
        name="pets",
        labels=("cat", "dog"),
        train_x=NONE,
        train_y=np.empty(0, np.int64),
        test_x=np.zeros((9, 1), np.float32),
        test_y=np.zeros(9, np.int64),
    )
    given = [Answer(k, False, 1, "dog", 0.5 + k / 100, "pets", None, np.inf) for k in range(9)]
    lost = [Answer(k, True, 0, "cat", k / 10, "cars", None, 0.5) for k in range(9)]
    assert [w["row"] for w in of_task(data, given, [])["wrong"]] == [8, 7, 6, 5, 4]
    assert [w["row"] for w in of_task(data, given, lost)["wrong"]] == [8, 7, 6, 8, 7]
    assert of_task(data, given, given)["margins"] == {"right": [], "wrong": []}  # infinite


def test_chance_is_that_of_the_most_frequent_class() -> None:
    assert chance(np.array([0, 2, 2, 1])) == 0.5
    assert chance(np.array([3])) == 1


def test_confused_pairs() -> None:
    rows = [row("a", {"a": 6, "b": 3, "c": 1}), row("b", {"a": 4, "b": 1})]
    assert confused_tasks(rows) == [("b", "a", 0.8), ("a", "b", 0.3), ("a", "c", 0.1)]
    rows = [row("t", {"t": 1}, classes=[[3, 1, 0], [0, 2, 2]])]
    assert confused_classes(rows) == [("t: b", "2", 0.5), ("t: a", "b", 0.25)]
    assert confused_tasks([{"task": "found", "mask": "m", "labels": []}]) == []


def test_no_warning() -> None:
    good = [row("a", {"a": 9, "b": 1}), row("b", {"b": 10})]
    assert warnings(good, 2, 1) == []
    assert warnings([row("a", {"a": 3})], 1, 1) == []  # one task
    nameless = [{"task": "x", "chance": 0.5, "mask": "m", "inferred": 0.1}]
    assert warnings(nameless, 2, 1) == []
    skipped = [row("a", {"a": 1}) | {"inferred_as": {}, "images": 0, "inferred": None}]
    assert warnings(skipped, 2, 1) == []


def test_a_warning_where_inference_guesses() -> None:
    rows = [row("a", {"a": 5, "b": 5}), row("b", {"a": 4, "b": 6})]
    said = "tasks inferred no better than by guessing: 11 of 20 images right, guessing gives 10"
    (found,) = warnings(rows, 2, 1)
    batches = "infer it from batches of one task (--batch-size 16)"
    tips = f"instead give the task, {batches}, {TIPS}"
    assert found == f"{said}; {tips}"
    (found,) = warnings(rows, 2, 5)
    assert found == f"{said}; instead give the task, {TIPS}"


def test_a_warning_names_the_tasks_that_are_lost() -> None:
    rows = [row(f"t{k}", {f"t{k}": 10}) for k in range(9)]
    rows += [row(f"lost{k}", {"t0": 10}) for k in range(6)]
    (found,) = warnings(rows, 15, 1)
    listed = ", ".join(f"lost{k} (0.0%)" for k in range(5))
    assert found.startswith(
        f"tasks inferred no better than by guessing: {listed} and 1 more; guessing gives 6.7%; "
    )


@pytest.mark.parametrize(("known", "warned"), [(0.5, True), (0.51, False)])
def test_a_warning_where_labels_guess(known: float, warned: bool) -> None:
    rows = [row("a", {"a": 1}, known=known)]
    message = (
        "labels no better than the most frequent class, task given: a (50.0%); train longer, or "
        "with another learning rate"
    )
    assert warnings(rows, 1, 1) == ([message] if warned else [])


def test_a_warning_for_one_task_within_a_deviation_of_guessing() -> None:
    rows = [row(f"t{k}", {f"t{k}": 90, f"t{k + 1}": 10}) for k in range(4)]
    few = row("few", {"few": 24, "t0": 76})
    (found,) = warnings([*rows, few], 5, 1)
    assert "guessing: few (24.0%); guessing gives 20.0%; " in found
    enough = row("few", {"few": 25, "t0": 75})
    assert warnings([*rows, enough], 5, 1) == []
    (found,) = warnings([*rows, enough], 5, 4)  # 25 batches
    assert "guessing: few (25.0%)" in found
