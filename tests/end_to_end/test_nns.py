"""Scenario NNs from the shell: learned, killed, gone on with, exported, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import supsup_train  # noqa: F401 - what trains within commands shares exports
from commands import program, run, run_stopped
from supsup_runtime.bank.bank import MaskBank

STREAM = ["permuted", "--model", "lenet-300-100", "--outputs", "500", "--lr", "1e-3"]
STREAM += ["--scenario", "NNs", "--period", "50", "--steps", "100", "--threads", "1"]


@pytest.mark.slow
def test_learning_survives_a_kill_and_the_model_is_evaluated(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run("supsup-train", *STREAM, "--tasks", 3, "--bank", whole)
    assert "batch 0: first task, learned-0000" in done.stderr
    assert "batch 100: new task, learned-0001 allocated: certainty 1.0" in done.stderr
    assert done.stderr.endswith("3 masks allocated\n")
    decisions = [json.loads(line) for line in (whole / "train.jsonl").read_text().splitlines()]
    assert [d["kind"] for d in decisions] == ["first", "same", "new", "same", "new", "same"]

    arguments = [*STREAM, "--tasks", "3", "--bank", str(killed)]
    # the fourth inference, in the second task
    run_stopped(program("supsup-train"), *arguments, name="learner.json", count=4)
    assert len(MaskBank.open(killed)) >= 2
    done = run("supsup-train", *arguments)
    assert "resuming from batch " in done.stderr
    one, two = MaskBank.open(whole), MaskBank.open(killed)
    assert [entry.sha256 for entry in one.entries] == [entry.sha256 for entry in two.entries]

    model = tmp_path / "out.onnx"
    run("supsup-export", "--bank", whole, model, "--objective", "superfluous")
    evaluate = [model, "permuted", "--tasks", 3, "--per-task", 40, "--scenario", "NNs", "--json"]
    result = json.loads(run("supsup-eval", *evaluate).stdout)
    assert [row["mask"] for row in result["tasks"]] == [f"learned-{i:04d}" for i in range(3)]
    assert result["shared"] > 0.5  # of ten classes
    assert result["inferred"] > 0.7


def test_options_of_another_scenario_are_refused(tmp_path: Path) -> None:
    bank = ["--bank", tmp_path / "masks"]
    done = run("supsup-train", "permuted", "--certainty", 1.2, *bank, status=1)
    assert "--certainty: goes with --scenario NNs, got --scenario GNu" in done.stderr
    done = run("supsup-train", "permuted", "--scenario", "GGG", *bank, status=2)
    assert "--scenario: invalid choice: 'GGG'" in done.stderr
    done = run("supsup-train", "permuted", "--scenario", "NNs", "--certainty", 1, *bank, status=1)
    assert "threshold: must be above 1 and finite, got 1.0" in done.stderr
    assert not (tmp_path / "masks").exists()


def test_a_log_that_cannot_be_written_is_refused_before_any_batch(tmp_path: Path) -> None:
    options = [*STREAM, "--tasks", 1, "--bank", tmp_path / "masks"]
    for log, message in ((tmp_path, "cannot be written"), ("no-such/x", "must be a folder")):
        done = run("supsup-train", *options, "--log", log, status=1)
        assert f"--log: {'no-such' if log == 'no-such/x' else log} {message}" in done.stderr
        assert not (tmp_path / "masks" / "nns").exists()
