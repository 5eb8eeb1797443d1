"""What is printed and logged of the decisions."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from supsup_train.masks.recipe import Recipe
from supsup_train.nns.learner import Decision
from supsup_train.nns.stream import learn_stream


def test_of_a_series_without_a_mask_left_the_first_is_printed_and_all_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["first", "full", "full", "same", "full", "known", "known", "full", "full"]
    made = iter(
        Decision(batch=batch, kind=kind, task="a", certainty=1.5, threshold=2)  # type: ignore[arg-type]  # one of them
        for batch, kind in enumerate(kinds)
    )
    learner = SimpleNamespace(
        batches=0, num_tasks=1, learn=lambda *_: next(made), checkpoint=lambda: None
    )
    batches = [(None, None)] * len(kinds)
    monkeypatch.setattr("supsup_train.nns.stream.unlabelled_batches", lambda *_, **__: batches)
    log = tmp_path / "log.jsonl"
    learn_stream(learner, SimpleNamespace(num_tasks=1), Recipe(), log, quiet=True, own=False)  # type: ignore[arg-type]  # stubs
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("batch")] == [
        f"batch {batch}" for batch in (0, 1, 4, 5, 6, 7)
    ]
    assert lines[-1] == "1 masks allocated; no mask left at 5 inferences"
    assert [json.loads(line)["kind"] for line in log.read_text().splitlines()] == kinds
