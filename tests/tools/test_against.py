"""This checkout, compared with itself."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from tools.bench import AGAINST
from tools.benchmarks.against import against
from tools.benchmarks.timing import Setup
from tools.revision import ROOT

pytestmark = pytest.mark.slow


def test_every_case_is_timed_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.benchmarks.against.checked_out", lambda _: nullcontext(ROOT))
    setup = Setup(cache=tmp_path, threads=1, rounds=2, visit_seconds=0.001)
    found = against(
        setup, revision="there", python=sys.executable, cases=AGAINST, tasks=3, added_to=2
    )
    rows = found.rows
    assert [row["case"] for row in rows] == [case for case in AGAINST for _ in range(2)]
    assert {row["side"] for row in rows} == {"here", "there"}
    assert all(row["ms"] > 0 and row["calls"] >= 2 for row in rows)
    assert [row["ratio"] for row in rows[1::2]] == [1] * len(AGAINST)
