from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.trace import main, plot, read_ways, to_way

from commands import Done, call
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import TaskInfo
from supsup_runtime.recovery.result import Recovered, Trace


def recovered(**changed: Any) -> dict[str, Any]:
    """Three steps."""
    trace = {"distance": [0.5, 0.25, 0.03, 0.0], "energy": [-1, -2.5, -9], "entropy": [2.0, 1, 0.5]}
    value = {
        "converged_after": 3,
        "entropy": 0.25,
        "expected_entropy": 0.2,
        "reason": "at the mask of 'split-0-1'",
        "steps": 3,
        "task": "split-0-1",
        "trace": trace,
        "verdict": "stored",
    }
    return {**value, **changed}


def unknown() -> dict[str, Any]:
    trace = {"distance": [0.5, 0.25], "energy": [-3.0], "entropy": [2.0]}
    changed = {"converged_after": None, "expected_entropy": None, "steps": 1, "task": None}
    return recovered(**changed, trace=trace, verdict="not-converged")


def written(folder: Path, name: str, value: object) -> Path:
    file = folder / name
    file.write_text(json.dumps(value))
    return file


def trace(*arguments: object, status: int = 0) -> Done:
    return call(main, "trace", *arguments, status=status)


def test_a_line_a_recovery_and_a_line_a_step(tmp_path: Path) -> None:
    files = [written(tmp_path, "a.json", recovered()), written(tmp_path, "b.json", unknown())]
    above, below = trace(*files).stdout.split("\n\n")
    assert [line.split() for line in above.splitlines()[1:]] == [
        ["split-0-1", "stored", "3", "3", "0.25", "0.2"],
        ["not-converged", "not-converged", "1", "-", "0.25", "-"],
    ]
    assert [line.split() for line in below.splitlines()[1:]] == [
        ["split-0-1", "0", "50.00", "2", "-1"],
        ["split-0-1", "1", "25.00", "1", "-2.5"],
        ["split-0-1", "2", "3.00", "0.5", "-9"],
        ["split-0-1", "3", "0.00", "-", "-"],
        ["not-converged", "0", "50.00", "2", "-3"],
        ["not-converged", "1", "25.00", "-", "-"],
    ]


def test_recoveries_of_equal_names_are_told_by_their_files(tmp_path: Path) -> None:
    files = [written(tmp_path, f"{name}.json", recovered()) for name in "ab"]
    assert [way.name for way in read_ways(files)] == ["a: split-0-1", "b: split-0-1"]
    assert [way.label for way in read_ways(files[:1])] == ["split-0-1, stored"]
    assert read_ways([written(tmp_path, "c.json", unknown())])[0].label == "not-converged"


def test_what_a_recovery_says_is_read_back() -> None:
    distance = np.array([0.4, 0.2, 1 / 3])
    found = Recovered(
        verdict="stored",
        reason="why",
        tasks=(TaskInfo(index=0, name="t", labels=()),),
        looked=False,
        mask=np.ones(3, np.bool_),
        trace=Trace(entropy=np.array([1.0, 2]), energy=np.array([-1.0, -2]), distance=distance),
        entropy=0.125,
        expected_entropy=0.5,
    )
    value = json.loads(json.dumps(found.to_dict()))
    way = to_way(value, name=value["task"], place="x")
    assert way.converged_after is None
    assert (way.end, way.expected, way.energy) == (0.125, 0.5, (-1.0, -2.0))
    np.testing.assert_array_equal(way.distance, distance)


def test_equal_recoveries_give_equal_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, two = written(tmp_path, "r.json", recovered()), written(tmp_path, "u.json", unknown())
    for name in ("a.svg", "b.svg", "c.png"):
        done = trace(file, two, "--plot", tmp_path / name)
        assert done.stderr == f"wrote {tmp_path / name}\n"
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert plot(read_ways([file]), tmp_path / "d.svg") == f"wrote {tmp_path / 'd.svg'}"
    assert first != (tmp_path / "d.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_tables_stay_where_matplotlib_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = trace(written(tmp_path, "r.json", recovered()), "--plot", tmp_path / "a.svg")
    assert "split-0-1" in done.stdout
    assert "matplotlib is not installed" in done.stderr
    assert not (tmp_path / "a.svg").exists()


def of_trace(**changed: Any) -> dict[str, Any]:
    return recovered(trace={**recovered()["trace"], **changed})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "must be a JSON object, got list; give what supsup-hopfield recover"),
        ({}, "must have the field 'verdict', got \\[\\]; give what supsup-hopfield recover"),
        (recovered(verdict=3), "verdict must be text, got 3"),
        (recovered(task=3), "task must be a name or null, got 3"),
        (recovered(steps=None), "steps must be at least 1, got None"),
        (recovered(steps=0), "steps must be at least 1, got 0"),
        (recovered(steps=True), "steps must be a whole number from 0 on, got True"),
        (recovered(verdict="diverged"), "a recovery that diverged has no picture: "),
        (recovered(converged_after=-1), "converged_after must be a whole number from 0 on, got -1"),
        (recovered(trace=[]), "trace must be an object, got \\[\\]"),
        (recovered(steps=4), "trace.distance must have 5 values, as steps says, got 4"),
        (of_trace(entropy=[1.0]), "trace.entropy must have 3 values, as steps says, got 1"),
        (of_trace(energy="abc"), "trace.energy must have 3 values, as steps says, got 'abc'"),
        (of_trace(distance=[0, 0, 0, 1.5]), "distance must be within \\[0, 1\\], got 1.5"),
        (of_trace(energy=[0, None, 0]), "energy\\[1\\] must be a finite number, got None"),
        (of_trace(energy=[0, float("nan"), 0]), "energy\\[1\\] must be a finite number, got nan"),
        (of_trace(energy=[0, 10**400, 0]), "energy\\[1\\] must be a finite number, got 1000"),
        (recovered(entropy=float("inf")), "entropy must be a finite number, got inf"),
        (recovered(expected_entropy="x"), "expected_entropy must be a finite number, got 'x'"),
    ],
)
def test_malformed_files_are_refused_in_one_line(
    value: object, message: str, tmp_path: Path
) -> None:
    file = written(tmp_path, "r.json", value)
    with pytest.raises(InputError, match=message):
        read_ways([file])
    done = trace(file, status=1)
    assert done.stderr.startswith(f"trace: {file}: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


@pytest.mark.parametrize("key", [*recovered(), "distance", "energy", "entropy"])
def test_a_missing_field_is_named(key: str, tmp_path: Path) -> None:
    value = recovered()
    del (value if key in value else value["trace"])[key]
    done = trace(written(tmp_path, "r.json", value), status=1)
    assert f"must have the field {key!r}, got [" in done.stderr


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    assert "no such file; give what supsup-" in trace(tmp_path / "r.json", status=1).stderr
    (tmp_path / "r.json").write_text("verdict: stored")
    assert "r.json: must be JSON: Expecting value" in trace(tmp_path / "r.json", status=1).stderr
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    assert "r.json: must be JSON: " in trace(tmp_path / "r.json", status=1).stderr


def test_the_script_finds_its_parts(tmp_path: Path) -> None:
    tool = Path(__file__).resolve().parents[2] / "tools" / "trace.py"
    command = [sys.executable, str(tool), str(written(tmp_path, "r.json", recovered()))]
    done = subprocess.run(
        [*command, "--plot", str(tmp_path / "t.svg")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("recovery ")
    assert "t.svg" in done.stderr or "matplotlib is not installed" in done.stderr
