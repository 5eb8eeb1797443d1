from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import FileError
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
    (inputs, labels), test = seen(data)
    assert len(inputs) == len(labels) == min(images, 1000)
    np.testing.assert_array_equal(inputs[:, 0], labels)
    assert set(labels.tolist()) == set(y)
    assert test == (data.test_x, data.test_y)


SEVERAL = [  # together, workers, times of tasks, rates and times left
    (1, 1, (10.0, 10.4, 10.8), ("", "150 a minute, 0:10:00 left", "150 a minute, 0:10:00 left")),
    (1, 2, (10.0, 10.1, 12.0, 12.1), ("", "", "31.6 a minute, 0:47:28 left", "60.0 a ")),
    (2, 1, (10.0, 10.0, 14.0, 14.0), ("", "", "30.0 a minute, 0:49:58 left", "30.0 a ")),
    (2, 2, (10.0, 10.0, 11.0, 11.0, 15.0), ("", "", "", "", "30.0 a minute")),
]


@pytest.mark.parametrize(("together", "workers", "times", "rates"), SEVERAL)
def test_a_line_tells_how_many_tasks_are_done_and_when_all_are(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    together: int,
    workers: int,
    times: tuple[float, ...],
    rates: tuple[str, ...],
) -> None:
    now = 10.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    how = {"together": together, "workers": workers}
    with reporting(tmp_path, tmp_path / "log", 1, 1503, quiet=True, **how) as reporter:
        reporter.report({"task": "zero", "index": 0, "kept": True})
        for index, now in enumerate(times, start=1):  # noqa: B007 - read above
            reporter.report({"task": "t", "index": index, "accuracy": 0.5, "seconds": 2.0})
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "zero: already in the bank, skipped"
    for done, (line, rate) in enumerate(zip(lines, rates, strict=True), start=2):
        text = f"t: accuracy 0.5000, 2.0 s ({done} of 1503"
        assert line.startswith(f"{text}, {rate}") if rate else line == f"{text})"


def test_a_log_on_a_full_disk_is_named(tmp_path: Path) -> None:
    line = {"task": "one", "index": 0, "accuracy": 0.5, "seconds": 2.0}
    text = "^/dev/full: cannot be written: No space left on device; "
    with (
        pytest.raises(FileError, match=text),
        reporting(tmp_path, Path("/dev/full"), 1, 1, quiet=True) as reporter,
    ):
        reporter.report(line)
