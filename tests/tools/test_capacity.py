from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tools.capacity import Setup, bank_patterns, loads, measure, plot, random_patterns, table

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.errors import InputError
from supsup_runtime.hopfield.matrix import RULES, expected_bit_error

TOOL = Path(__file__).resolve().parents[2] / "tools" / "capacity.py"


def setup(rule: str, size: int = 128, count: int = 64) -> Setup:
    return Setup(
        source="random",
        patterns=random_patterns(size, count, 0),
        rule=rule,
        probes=20,
        seed=0,
    )


@pytest.mark.parametrize("rule", RULES)
def test_few_patterns_come_back_and_many_do_not(rule: str) -> None:
    few, many = list(measure(setup(rule), [4, 64]))
    assert [row["flipped"] for row in few] == [0.0, 0.1]
    for row in few:
        assert (row["exact"], row["near"], row["distance"], row["bit_error"]) == (1, 1, 0, 0)
        assert (row["patterns"], row["probes"], row["load"]) == (4, 4, 4 / 128)
    for row in many:
        assert row["probes"] == 20
        assert row["exact"] <= row["near"] < 0.7
        assert row["distance"] > 0.01
        assert row["expected"] == expected_bit_error(128, 64, rule)
        # 20 patterns of 128 bits, a few percent of them turned
        assert row["bit_error"] == pytest.approx(row["expected"], rel=0.5)


def test_loads_end_with_the_patterns() -> None:
    assert loads(256, 128) == [13, 26, 35, 44, 51, 66, 77, 90, 102, 128]
    assert loads(256, 30) == [13, 26]
    assert loads(8, 4)[0] == 1


def test_density_is_that_asked_for() -> None:
    patterns = random_patterns(1000, 50, 1, density=0.35)
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
    with pytest.raises(InputError, match="no masked parameter of a task has 10 elements; --size"):
        bank_patterns(bank, 10, 1)


def test_the_table_has_a_line_a_load() -> None:
    rows = [row for rule in RULES for found in measure(setup(rule), [4, 64]) for row in found]
    lines = table(rows).splitlines()
    assert len(lines) == 5
    assert lines[1].split()[:5] == ["4", "random", "hebb", "128", "0.031"]


def test_equal_rows_give_equal_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row for rule in RULES for found in measure(setup(rule), [4, 64]) for row in found]
    for name in ("a.svg", "b.svg", "c.png"):
        assert plot(rows, tmp_path / name) == f"wrote {tmp_path / name}"
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line(bank: MaskBank, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(TOOL), "--size", "7", "--bank", str(bank.path)]
    done = subprocess.run(
        [*command, "--json", "--out", str(out)], capture_output=True, text=True, check=True
    )
    value = json.loads(done.stdout)
    assert {row["source"] for row in value["rows"]} == {"random 0.5", "trained"}
    assert value["rows"] == json.loads(out.read_text())["rows"]
    assert value["capacity"]["hebb"]["7"] == pytest.approx(0.966)
    refused = subprocess.run(
        [*command, "--size", "100"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "no masked parameter of a task has 100 elements" in refused.stderr
    assert "Traceback" not in refused.stderr
