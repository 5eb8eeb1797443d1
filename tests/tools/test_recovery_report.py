"""tools/recovery/report.py, on recoveries made up here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tools.recovery.report import bars, right, tables, to_markdown, to_text
from tools.recovery.setting import PAPER, TINY, ways

Line = dict[str, Any]
TASKS = ("split-0-1", "split-2-3")
SETTING = replace(PAPER, tasks=2)


def line(task: str, seed: int, order: int, **changed: Any) -> Line:
    found = {
        "converged_after": 12 + order,
        "entropy": 0.2,
        "expected_entropy": 0.25,
        "steps": 32,
        "task": task,
        "verdict": "stored",
    }
    value = {
        "batch": 0.99,
        "distance": 0.001,
        "left_out": None,
        "off": 0.0,
        "order": order,
        "own": 0.98,
        "recovered": {**found, **changed.pop("recovered", {})},
        "running": 0.975,
        "same": True,
        "seconds": 0.64,
        "seed": seed,
        "task": task,
        "way": ways(SETTING)[0].name,
    }
    return {**value, **changed}


def lost(task: str, seed: int, order: int, **changed: Any) -> Line:
    end = {"converged_after": None, "entropy": 1.0, "task": None, "verdict": "not-converged"}
    return line(task, seed, order, recovered=end, same=False, **changed)


def lines() -> list[Line]:
    made = []
    for seed in (0, 1):
        for number, way in enumerate(ways(SETTING)):
            if way.everywhere or not seed:
                made += [
                    line(task, seed, order, way=way.name, seconds=0.32 * (1 + number))
                    for order in range(2 if way.everywhere else 1)
                    for task in TASKS
                ]
        for name in TASKS:
            made += [
                (lost if task == name else line)(task, seed, order, left_out=name)
                for order in range(2)
                for task in TASKS
            ]
    return made


def met(made: list[Line]) -> list[bool]:
    return [bar["met"] for bar in bars(made, SETTING)]


def test_a_mask_is_right_if_verdict_task_and_fingerprints_say_so() -> None:
    assert right(line("a", 0, 0))
    assert not right(line("a", 0, 0, recovered={"task": "b"}))
    assert not right(line("a", 0, 0, recovered={"verdict": "spurious"}))
    assert not right(line("a", 0, 0, same=False))


def test_all_that_is_asked_for_is_met_here() -> None:
    found = bars(lines(), SETTING)
    assert all(bar["met"] for bar in found)
    assert [bar["found"] for bar in found] == [
        "99.00%",
        "97.50%",
        "8 of 8",
        "8 of 8",
        "0.00%",
        "8 of 8",
    ]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"batch": 0.82}, [0]),  # of 8: the mean is 96.9
        ({"running": 0.93}, [1]),
        ({"same": False}, [2, 3]),
        ({"recovered": {"verdict": "spurious"}}, [2, 3]),
        ({"recovered": {"converged_after": 30}}, [3]),
        ({"recovered": {"converged_after": None}}, [3]),
        ({"off": 0.0201}, [4]),
    ],
)
def test_one_recovery_can_miss_each(changed: dict[str, Any], missed: list[int]) -> None:
    made = lines()
    made[0] = line(TASKS[0], 0, 0, **changed)
    assert [number for number, fine in enumerate(met(made)) if not fine] == missed


def test_a_task_left_out_must_not_be_found() -> None:
    made = lines()
    at = next(i for i, item in enumerate(made) if item["left_out"] == item["task"])
    for verdict in ("stored", "spurious", "diverged"):
        made[at] = line(
            TASKS[0], 0, 0, left_out=TASKS[0], recovered={"task": "x", "verdict": verdict}
        )
        assert met(made) == [True] * 5 + [False]
    table = tables(made, SETTING)[2]
    assert table[2][0] == [TASKS[0], "3 of 4, 1 diverged x", "0.80 to 4.00", "4 of 4"]
    assert table[2][2][:2] == ["all", "7 of 8, 1 diverged x"]


def test_bars_are_of_the_settings_own_way_with_all_tasks_stored() -> None:
    made = lines()
    for item in made:
        if item["way"] != ways(SETTING)[0].name:
            item |= {"batch": 0.0, "off": 1.0, "same": False}
    assert all(met(made))


def test_tables_say_what_was_not_recovered() -> None:
    made = lines()
    first = next(i for i, item in enumerate(made) if item["order"] == 1)
    made[first] = lost(TASKS[0], 0, 1, off=0.125, batch=0.5)
    by_task, by_seed, left_out, by_way, asked = tables(made, SETTING)
    assert "within one pass over the test images, 2 orders of them" in by_task[0]
    assert by_task[2][0] == [
        "0",
        TASKS[0],
        "1 of 2, 1 not-converged",
        "12 of 32, 1 never",
        "0.10",
        "12.50",
        "97.50",
        "74.50",
        "98.00",
        "0.80 to 4.00",
    ]
    assert by_task[2][1][2:5] == ["2 of 2", "12 to 13 of 32", "0.10"]
    assert by_seed[2] == [
        ["0", "3 of 4, 1 not-converged", "97.50", "86.75", "98.00"],
        ["1", "4 of 4", "97.50", "99.00", "98.00"],
        ["mean", "7 of 8, 1 not-converged", "97.50 ± 0.00", "92.88 ± 8.66", "98.00 ± 0.00"],
        ["mean, where recovered", "7 of 7", "97.50 ± 0.00", "99.00 ± 0.00", "98.00 ± 0.00"],
    ]
    assert [row[3] for row in left_out[2]] == ["4 of 4", "4 of 4", "8 of 8"]
    assert [row[:3] for row in by_way[2]] == [
        ["batches of 64, from mean", "0, 1", "2"],
        ["batches of 64, from mean, no looks", "0, 1", "2"],
        ["batches of 64, from zero", "0, 1", "2"],
        ["batches of 8, from mean", "0", "1"],
        ["single images, from mean", "0", "1"],
    ]
    assert [row[-1] for row in by_way[2][1:]] == ["20.0", "30.0", "40.0", "50.0"]
    assert [row[-1] for row in asked[2]] == [
        "NOT met",
        "met",
        "NOT met",
        "NOT met",
        "NOT met",
        "met",
    ]


def test_numbers_of_nothing_are_dashes() -> None:
    unsaid = {"converged_after": None, "expected_entropy": None}
    made = [line(TASKS[0], 0, 0, recovered=unsaid, way=way.name) for way in ways(TINY)]
    made += [line(TASKS[0], 0, 0, left_out=TASKS[0], way=ways(TINY)[0].name)]
    found = tables(made, TINY)
    assert len(found) == 4  # nothing is judged
    assert found[0][2][0][3] == "never, of 32"
    assert found[0][2][0][-1] == "-"
    for item in made:
        item["same"] = False
    assert [row[0] for row in tables(made, TINY)[1][2]] == ["0", "mean"]
    assert found[1][2][-1] == ["mean, where recovered", "1 of 1", "97.50", "99.00", "98.00"]


def test_text_and_markdown_have_the_same_cells() -> None:
    made = [("Title", ["a", "b"], [["1", "2 of 3"]])]
    assert to_text(made) == "Title\na  b\n1  2 of 3"
    assert to_markdown(made) == "Title:\n\n| a | b |\n|---|---|\n| 1 | 2 of 3 |"
    text, markdown = to_text(tables(lines(), SETTING)), to_markdown(tables(lines(), SETTING))
    for _, _, rows in tables(lines(), SETTING):
        for row in rows:
            assert f"| {' | '.join(row)} |" in markdown
            assert all(cell in text for cell in row)
