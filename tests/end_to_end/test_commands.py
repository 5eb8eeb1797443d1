"""Every command as the program that is installed: it starts, and what it refuses is one line."""

from __future__ import annotations

import pytest

from commands import SCRIPTS, run_program

REFUSED: dict[str, tuple[list[str], int, str]] = {
    "supsup-bank": (["verify", "nowhere"], 3, "not a mask bank: bank.json is missing"),
    "supsup-run": (["nowhere.onnx", "x.npy"], 1, "no such file; make it with supsup-export"),
    "supsup-calibrate": (
        ["nowhere.onnx", "permuted", "--bank", "nowhere"],
        1,
        "no such file; make it with supsup-export",
    ),
    "supsup-hopfield": (["encode", "--bank", "nowhere"], 3, "bank.json is missing"),
    "supsup-inspect": (["nowhere.onnx"], 1, "no such bank or model"),
    "supsup-eval": (["nowhere.onnx", "permuted"], 1, "no such file; make it with supsup-export"),
    "supsup-export": (["--bank", "nowhere", "o.onnx"], 3, "not a mask bank: bank.json is missing"),
    "supsup-train": (
        ["permuted", "--bank", "b", "--lr", "0"],
        1,
        "learning_rate: must be positive",
    ),
    "supsup-baseline": (["psp", "permuted", "--bank", "b", "--matrices"], 1, "is for batche and"),
}


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_refusal_is_one_line_and_a_status(command: str) -> None:
    arguments, status, message = REFUSED[command]
    done = run_program(command, *arguments, status=status)
    assert done.stderr.startswith(f"{command}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
