from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supsup_runtime.data.streams import TaskData
from supsup_train.masks.train_task import seen
from supsup_train.reporting import reporting
from supsup_train.resume import Losses


@pytest.mark.parametrize("steps", [0, 1, 2, 49, 50, 51, 99, 100, 101, 1000])
def test_a_loss_curve_has_at_most_fifty_means(steps: int) -> None:
    losses = [float(step) for step in range(1, steps + 1)]
    kept = Losses(None)
    for step, loss in enumerate(losses, start=1):
        kept(step, loss)
    curve = kept.curve()
    assert len(curve) == min(steps, -(-steps // max(1, -(-steps // 50))))
    assert len(curve) <= 50
    begin = 0
    for end, mean in curve:
        assert mean == pytest.approx(np.mean(losses[begin:end]), abs=1e-4)
        begin = end
    assert begin == steps


@pytest.mark.parametrize("images", [1, 10, 1000, 4000])
def test_training_accuracy_is_of_at_most_1000_images_of_every_class(images: int) -> None:
    y = np.arange(images) * 10 // images  # sorted by class
    x = y[:, None].astype(np.float32)
    data = TaskData(name="t", labels=(), train_x=x, train_y=y, test_x=x[:1], test_y=y[:1])
    found = seen(data)
    assert len(found.test_x) == len(found.test_y) == min(images, 1000)
    assert (found.test_x[:, 0] == found.test_y).all()
    assert set(found.test_y) == set(y)


TIMES = {"one": 10.0, "with it": 10.9, "two": 12.0, "three": 12.5, "many": 13.17}


def test_a_line_tells_how_many_tasks_are_done_and_when_all_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with reporting(tmp_path, tmp_path / "log", 1, 1502, quiet=True) as reporter:
        reporter.report({"task": "zero", "index": 0, "kept": True})
        for index, (name, now) in enumerate(TIMES.items(), start=1):  # noqa: B007 - read above
            line = {"task": name, "index": index, "accuracy": 0.5, "seconds": 2.0}
            reporter.report(line)
    assert capsys.readouterr().err.splitlines() == [
        "zero: already in the bank, skipped",
        "one: accuracy 0.5000, 2.0 s (2 of 1502)",
        "with it: accuracy 0.5000, 2.0 s (3 of 1502)",
        "two: accuracy 0.5000, 2.0 s (4 of 1502, 30.0 a minute, 0:49:56 left)",
        "three: accuracy 0.5000, 2.0 s (5 of 1502, 48.0 a minute, 0:31:11 left)",
        "many: accuracy 0.5000, 2.0 s (6 of 1502, 56.8 a minute, 0:26:21 left)",
    ]
