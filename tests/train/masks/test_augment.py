"""Random changes of pictures, against the same picture by picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.masks.augment import augmented
from supsup_train.masks.recipe import Recipe
from supsup_train.masks.train_task import train_task
from supsup_train.networks.create_bank import create_bank
from supsup_train.networks.models import Mlp


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, height: int = 5, width: int = 7) -> torch.Tensor:
    """Pictures of two channels, whose values are all different and above 0."""
    one = torch.arange(1.0, 1 + 2 * height * width).view(2, height, width)
    return one.repeat(count, 1, 1, 1)


def test_none_changes_nothing() -> None:
    x, generator = numbered(3), seeded(0)
    assert augmented(x, "none", generator) is x
    assert torch.equal(generator.get_state(), seeded(0).get_state())


def test_crops_are_windows_of_the_padded_picture() -> None:
    x = numbered(2000)
    padded = np.pad(x[0].numpy(), ((0, 0), (4, 4), (4, 4)))
    windows = {
        padded[:, i : i + 5, j : j + 7].tobytes(): (i, j) for i in range(9) for j in range(9)
    }
    got = augmented(x, "crop", seeded(0))
    assert got.shape == x.shape
    assert got.dtype == torch.float32
    found = Counter(windows[each.numpy().tobytes()] for each in got)
    assert len(found) == 81
    assert max(found.values()) < 60  # 25 expected


def test_half_of_the_pictures_are_mirrored() -> None:
    x = numbered(1000)
    got = augmented(x, "flip", seeded(0))
    mirrored = (got == x.flip(3)).flatten(1).all(1)
    assert ((got == x).flatten(1).all(1) | mirrored).all()
    assert 440 < int(mirrored.sum()) < 560


def test_resized_parts_are_within_the_picture() -> None:
    """A picture whose values are its coordinates says which part was taken."""
    down, across = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    got = augmented(torch.stack([down, across]).repeat(500, 1, 1, 1), "resized", seeded(0))
    assert got.shape == (500, 2, 40, 60)
    heights = (got[:, 0, -1, 30] - got[:, 0, 0, 30]) / 39
    widths = (got[:, 1, 20, -1] - got[:, 1, 20, 0]) / 59
    assert float(got.min()) >= 0
    assert float(got[:, 0].max()) <= 39
    assert float(got[:, 1].max()) <= 59
    area, ratio = heights * widths, widths / heights
    # the outermost samples are half a pixel from the edge, where they may be cut
    assert 0.07 < float(area.min()) < 0.12
    assert 0.9 < float(area.max()) <= 1.001
    assert 0.74 < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 1.35
    assert torch.allclose(got[:, 0].diff(dim=2), torch.zeros(()), atol=1e-4)  # not turned


@pytest.mark.parametrize("kind", ["crop,flip", "resized,flip"])
def test_the_seed_decides(kind: str) -> None:
    x = torch.randn(9, 3, 8, 8, generator=seeded(1))
    first, again, other = (augmented(x, kind, seeded(seed)) for seed in (2, 2, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_inputs_that_are_no_pictures_are_refused(tmp_path: object) -> None:
    module = Mlp([4, 3])
    bank = create_bank(f"{tmp_path}/masks", module, input_shape=(4,), real_outputs=2)
    x, y = np.ones((6, 4), np.float32), np.arange(6) % 2
    data = TaskData(name="a", labels=("no", "yes"), train_x=x, train_y=y, test_x=x, test_y=y)
    message = (
        r"task a: augment 'flip' needs inputs \(channels, height, width\), got shape \(4,\); use "
        "a model of pictures, or leave it out"
    )
    with pytest.raises(InputError, match=message):
        train_task(bank, module, data, recipe=Recipe(augment="flip", steps=2))
