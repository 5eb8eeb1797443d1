"""What `tools/arm.py` does around the emulator."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.arm import count_table, emulator, parity_table, per_call, verdict
from tools.emulated.guest import CALLS
from tools.reproduction.tables import to_markdown

from supsup_runtime.errors import InputError

CASE = {"bank": "digits", "model": "cpu"}
REFUSED = (
    "supsup-export: a.onnx: the model's results differ from the bank's: logits\ndiffer; nothing"
)


def found(values: list[float], text: str = "a", *, error: str = "", same: bool = True) -> Any:  # noqa: ANN401 - JSON
    return {"error": error, "same": same, "answers": {"one-shot": [values, text]}}


@pytest.mark.parametrize(
    ("case", "got", "expected"),
    [
        (CASE, found([2.0, 4.00004]), "1e-05"),
        (CASE, found([2.0, 4.0], "b"), "**one-shot: other tasks or labels**"),
        (CASE, found([2.0, 5.0]), "**one-shot: off by 2.5e-01, allowed 3e-05**"),
        (CASE | {"model": "screened"}, found([2.0, 4.1]), "2e-02"),
        (CASE, found([2.0, np.nan]), "**one-shot: off by nan, allowed 3e-05**"),
        (CASE, found([2.0, 4.0], error=REFUSED), "**export: logits differ**"),
        (CASE, found([2.0, 4.0], same=False), "**exports other bytes**"),
    ],
)
def test_a_core_is_judged_by_the_hosts_answers(case: Any, got: Any, expected: str) -> None:  # noqa: ANN401 - JSON
    assert verdict({"one-shot": (np.array([2, 4], np.float32), "a")}, got, case) == expected


def test_tables_have_a_row_per_model_and_a_column_per_core() -> None:
    cases = [CASE, CASE | {"model": "cuda"}]
    assert to_markdown([parity_table(cases, [["1", "2", "3"], ["4", "5", "6"]])]).split("\n") == [
        "Largest difference from the answers on x86-64:",
        "",
        "| bank | model | A72 | A76 | max |",
        "|---|---|---|---|---|",
        "| digits | cpu | 1 | 2 | 3 |",
        "|  | cuda | 4 | 5 | 6 |",
    ]
    counts = count_table(cases, [1.797e9, 53.4e6, 7.2e6, 173_456])
    assert counts.rows == [["cpu", "1797", "53"], ["cuda", "7.2", "0.17"]]


def test_instructions_are_counted_between_marks_less_the_marks_own() -> None:
    totals = (100, 110, 120 + 7 * CALLS, 999)
    assert per_call("".join(f"cpu 0 insns: 5\ntotal insns: {n}\n" for n in totals)) == 7


def test_the_emulator_that_counts_comes_first(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="qemu-aarch64: must be QEMU's program, got none; run make"
    ):
        emulator(tmp_path)
    (tmp_path / "qemu-aarch64").touch()
    assert emulator(tmp_path) == ([f"{tmp_path}/qemu-aarch64"], [])
    (tmp_path / "counting").mkdir()
    (plugin := tmp_path / "counting/libinsn.so").touch()
    qemu, options = emulator(tmp_path)
    assert qemu == [f"{tmp_path}/counting/qemu-aarch64"]
    assert options[-1] == f"{plugin},inline=on"


def test_without_the_mirror_one_line_tells_the_remedy(tmp_path: Path) -> None:
    for name, status in (("apt-get", 100), ("dpkg", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    words = ["make", "-s", f"{tmp_path}/.lists", f"ARM={tmp_path}", "DEBIAN_MIRROR=http://a.test"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stderr.splitlines()[0]
    assert said.startswith("make arm: apt-get failed; set DEBIAN_MIRROR to one that can be reached")
    assert not (tmp_path / ".lists").exists()
