"""tools/reproduction/capacity.py: patterns, what comes back of them, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.reproduce import main
from tools.reproduction.capacity import Capacity, bank_patterns, loads, measure, random_patterns

from commands import call
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.matrix import RULES, expected_bit_error


def measured(rule: str) -> list[dict[str, Any]]:
    """Rows of 4 and of 64 patterns."""
    found = measure(random_patterns(128, 64), rule, [4, 64])
    return [{**row, "source": "random"} for row in found]


@pytest.mark.parametrize("rule", RULES)
def test_few_patterns_come_back_and_many_do_not(rule: str) -> None:
    found = measured(rule)
    few, many = found[:2], found[2:]
    assert [row["flipped"] for row in few] == [0.0, 0.1]
    for row in few:
        assert (row["exact"], row["near"], row["distance"], row["bit_error"]) == (1, 1, 0, 0)
        assert (row["patterns"], row["probes"], row["load"]) == (4, 4, 4 / 128)
    for row in many:
        assert row["probes"] == 50
        assert row["exact"] <= row["near"] < 0.7
        assert row["distance"] > 0.01
        assert row["expected"] == expected_bit_error(128, 64, rule)
        # 50 patterns of 128 bits, a few percent of them turned
        assert row["bit_error"] == pytest.approx(row["expected"], rel=0.5)


def test_loads_end_with_the_patterns() -> None:
    assert loads(256, 128) == [13, 26, 35, 44, 51, 66, 77, 90, 102, 128]
    assert loads(256, 30) == [13, 26]
    assert loads(8, 4)[0] == 1


def test_density_is_that_asked_for() -> None:
    patterns = random_patterns(1000, 50, 0.35)
    assert np.mean(patterns == 1) == pytest.approx(0.35, abs=0.01)  # 4 deviations of 0.0021


def test_runs_of_a_banks_masks(bank: MaskBank) -> None:
    patterns = bank_patterns(bank, 4, 100)
    assert patterns.shape == (9, 4)  # two runs of nine elements, one of seven, of three tasks
    first = unpack_mask(bank.task(1).masks["first"], (9,))
    np.testing.assert_array_equal(patterns[1], 2.0 * first[:4] - 1)
    np.testing.assert_array_equal(patterns[4], 2.0 * first[4:8] - 1)
    second = unpack_mask(bank.task(2).masks["second"], (7,))
    np.testing.assert_array_equal(patterns[8], 2.0 * second[:4] - 1)
    assert len(bank_patterns(bank, 4, 2)) == 2
    with pytest.raises(InputError, match="no masked parameter of a task has 10 elements"):
        bank_patterns(bank, 10, 1)


def test_a_table_has_a_line_a_load_and_equal_rows_give_equal_plots(tmp_path: Path) -> None:
    rows = [row for rule in RULES for row in measured(rule)]
    experiment = Capacity(name="c", title="t", differs="d", sizes=(128,))
    (table,) = experiment.tables(rows)
    assert table.header[:3] == ["patterns (load)", "hebb, random", "storkey, random"]
    assert [row[0] for row in table.rows] == ["4 (0.031)", "64 (0.500)"]
    assert table.rows[0][1:] == ["100/100"] * 2 + ["0.000/0.000"] * 2
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        assert experiment.plot(rows, tmp_path / name) == f"wrote {tmp_path / name}"
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_random_and_trained_patterns_are_measured(tmp_path: Path) -> None:
    done = call(main, "reproduce", "capacity", "--tiny", "--json", "--work", tmp_path)
    result = json.loads(done.stdout)
    assert {row["source"] for row in result["rows"]} == {"random, 50% ones", "trained"}
    assert [table["title"] for table in result["tables"]] == ["64 units", "32 units"]
