"""tools/reproduction/hopfield_tables.py, on recoveries made up here."""

from __future__ import annotations

from typing import Any

import pytest
from tools.reproduction.hopfield_tables import bars, right, tables

Line = dict[str, Any]
TASKS = ("split-0-1", "split-2-3")
WAYS = ("batches of 64, from mean", "single images, from mean")


def line(task: str, seed: int, order: int, **changed: Any) -> Line:
    value = {
        "batch": 0.99,
        "converged_after": 12 + order,
        "distance": 0.001,
        "entropy": 0.2,
        "expected_entropy": 0.25,
        "found": task,
        "left_out": None,
        "off": 0.0,
        "order": order,
        "own": 0.98,
        "running": 0.975,
        "same": True,
        "seconds": 0.64,
        "seed": seed,
        "steps": 32,
        "task": task,
        "verdict": "stored",
        "way": WAYS[0],
    }
    return {**value, **changed}


def lost(task: str, seed: int, order: int, **changed: Any) -> Line:
    end: Line = {"converged_after": None, "entropy": 1.0, "found": None, "same": False}
    return line(task, seed, order, **{**end, "verdict": "not-converged", **changed})


def lines() -> list[Line]:
    """Two seeds and orders; the second way with the first seed and order alone."""
    made = [line(task, 0, 0, way=WAYS[1], seconds=1.28) for task in TASKS]
    for seed in (0, 1):
        for left_out in (None, *TASKS):
            made += [
                (lost if task == left_out else line)(task, seed, order, left_out=left_out)
                for order in range(2)
                for task in TASKS
            ]
    return made


def met(made: list[Line]) -> list[bool]:
    return ["NOT met" not in row[-1] for row in bars(made, WAYS[0]).rows]


def test_a_mask_is_right_if_verdict_task_and_fingerprints_say_so() -> None:
    assert right(line("a", 0, 0))
    for changed in ({"found": "b"}, {"verdict": "spurious"}, {"same": False}):
        assert not right(line("a", 0, 0, **changed))


def test_all_that_is_asked_for_is_met_here() -> None:
    found = bars(lines(), WAYS[0])
    assert found.title == "Bars, all met"
    assert [row[1] for row in found.rows] == ["99.00%", "97.50%", "8/8", "8/8", "0.00%", "8/8"]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"batch": 0.82}, [0]),  # of 8: the mean is 96.9
        ({"running": 0.93}, [1]),
        ({"same": False}, [2, 3]),
        ({"verdict": "spurious"}, [2, 3]),
        ({"converged_after": 30}, [3]),
        ({"converged_after": None}, [3]),
        ({"off": 0.0201}, [4]),
    ],
)
def test_one_recovery_can_miss_each(changed: Line, missed: list[int]) -> None:
    made = lines()
    made[len(TASKS)] |= changed
    assert [number for number, fine in enumerate(met(made)) if not fine] == missed


def test_a_task_left_out_must_not_be_found() -> None:
    made = lines()
    at = next(i for i, item in enumerate(made) if item["left_out"] == item["task"])
    for verdict in ("stored", "spurious", "diverged"):
        made[at] |= {"verdict": verdict, "found": "x"}
        assert met(made) == [True] * 5 + [False]
    by_task = tables(made, WAYS)[2].rows
    assert by_task[0] == [TASKS[0], "3/4, 1 diverged x", "4.00", "4/4"]
    assert by_task[2][:2] == ["all", "7/8, 1 diverged x"]


def test_bars_are_of_the_settings_own_way_with_all_tasks_stored() -> None:
    made = lines()
    for item in made:
        if item["way"] != WAYS[0]:
            item |= {"batch": 0.0, "off": 1.0, "same": False}
    assert all(met(made))


def test_tables_say_what_was_not_recovered() -> None:
    made = lines()
    first = next(i for i, item in enumerate(made) if item["order"] == 1)
    made[first] = lost(TASKS[0], 0, 1, off=0.125, batch=0.5)
    by_way, by_task, left_out = (table.rows for table in tables(made, WAYS))
    told = ["1/2, 1 not-converged", "12 of 32, 1 never", "0.10", "12.50", "97.50", "74.50"]
    assert by_task[0] == ["0", TASKS[0], *told, "98.00", "0.80-4.00"]
    assert by_task[1][2:5] == ["2/2", "12-13 of 32", "0.10"]
    assert by_task[-1][:3] == ["all", "", "7/8, 1 not-converged"]
    assert by_task[-1][6:9] == ["97.50", "92.88", "98.00"]
    assert [row[3] for row in left_out] == ["4/4", "4/4", "8/8"]
    assert [row[:3] for row in by_way] == [[WAYS[0], "0, 1", "2"], [WAYS[1], "0", "1"]]
    assert [row[-1] for row in by_way] == ["20.0", "40.0"]
    assert met(made).count(False) == 4
    assert bars(made, WAYS[0]).title == "Bars, not all met"


def test_numbers_of_nothing_are_left_out() -> None:
    unsaid = {"converged_after": None, "expected_entropy": None}
    made = [line(TASKS[0], 0, 0, way=WAYS[0], **unsaid), lost(TASKS[0], 0, 0, left_out=TASKS[0])]
    table = tables(made, WAYS[:1])[1]
    assert (table.rows[0][3], table.header[-1]) == ("never, of 32", "learned mask")
    assert tables(made, WAYS[:1])[2].rows[0][2] == "4.00"
