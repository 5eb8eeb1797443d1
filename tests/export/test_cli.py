from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from banks import make_bank
from commands import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    return folder


def test_export_reports_and_refuses(folder: Path) -> None:
    out = folder / "out.onnx"
    done = run("supsup-export", "--bank", folder / "masks", out, "--json")
    report = json.loads(done.stdout)
    assert report["num_tasks"] == 2
    assert report["bytes"] == out.stat().st_size
    assert 0 <= report["parity"]["scores"] <= 3e-5
    again = run("supsup-export", "--bank", folder / "masks", out, status=1)
    assert again.stdout == ""
    assert again.stderr == f"supsup-export: {out}: exists already; pass --force to replace it\n"
    forced = run(
        "supsup-export", "--bank", folder / "masks", out, "--force", "--target", "portable"
    )
    assert "checked against the bank" in forced.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--bank", "nowhere", "o.onnx"], 3, "not a mask bank: bank.json is missing"),
        (["--bank", "{bank}", "/", "--force"], 1, "/: is a folder, expected the path of a file"),
        (["o.onnx"], 2, "the following arguments are required: --bank"),
        (["--bank", "{bank}", "o.onnx", "--target", "tpu"], 2, "invalid choice: 'tpu'"),
        (["--bank", "{bank}", "o.onnx", "--graph-outputs", "x"], 1, "outputs: must be among"),
        (
            ["--bank", "{bank}", "o.onnx", "--outputs", "x"],
            2,
            "--outputs: is called --graph-outputs",
        ),
        (["--bank", "{bank}", "o.onnx", "--objective", "z"], 2, "invalid choice: 'z'"),
        (
            ["--bank", "{bank}", "/nowhere/o.onnx"],
            1,
            "the folder /nowhere does not exist; create it first",
        ),
    ],
)
def test_exit_status_and_one_line(
    folder: Path, arguments: list[str], status: int, message: str
) -> None:
    filled = [a.format(bank=folder / "masks") for a in arguments]
    done = run("supsup-export", *filled, status=status)
    assert re.search(message, done.stderr)
    if status != 2:
        assert done.stderr.count("\n") == 1


def test_help_shows_the_command(folder: Path) -> None:
    done = run("supsup-export", "--help")
    assert "supsup-export --bank masks/ out.onnx" in done.stdout
    assert folder.exists()
