from __future__ import annotations

import numpy as np
import pytest

from supsup_runtime.data.streams import TaskData
from supsup_train.masks.train_task import seen
from supsup_train.reporting import loss_curve


@pytest.mark.parametrize("steps", [0, 1, 2, 49, 50, 51, 99, 100, 101, 1000])
def test_a_loss_curve_has_at_most_fifty_means(steps: int) -> None:
    losses = [float(step) for step in range(1, steps + 1)]
    curve = loss_curve(losses)
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
