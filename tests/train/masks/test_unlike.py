"""Pictures that are not a task's, made of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supsup_train.masks.unlike import shuffled, turned


def numbered(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Pictures whose values all differ."""
    values = torch.arange(batch * channels * height * width, dtype=torch.float32)
    return values.reshape(batch, channels, height, width)


@given(
    channels=st.sampled_from([1, 3]),
    sides=st.tuples(st.integers(1, 13), st.integers(1, 13)).filter(lambda s: s[0] * s[1] > 1),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("change", [turned, shuffled])
def test_values_move_within_their_channel_and_no_picture_stays(
    change: object, channels: int, sides: tuple[int, int], seed: int
) -> None:
    x = numbered(5, channels, *sides)
    generator = torch.Generator().manual_seed(seed)
    y = {turned: turned, shuffled: shuffled}[change](x, generator)  # type: ignore[index]
    assert y.shape == x.shape
    flat = [each.flatten(2).sort(2).values for each in (x, y)]
    assert torch.equal(*flat)
    assert not (x == y).all((1, 2, 3)).any()
    assert torch.equal(x, numbered(5, channels, *sides))


def test_square_pictures_are_turned_by_each_quarter() -> None:
    x = numbered(60, 2, 4, 4)
    y = turned(x, torch.Generator().manual_seed(0))
    found = {
        next(k for k in range(4) if torch.equal(torch.rot90(a, k, (1, 2)), b))
        for a, b in zip(x, y, strict=True)
    }
    assert found == {1, 2, 3}
    wide = numbered(9, 1, 2, 3)
    assert torch.equal(turned(wide, torch.Generator()), torch.rot90(wide, 2, (2, 3)))


@pytest.mark.parametrize(
    ("sides", "patch"),
    [((28, 28), (7, 7)), ((32, 32), (8, 8)), ((30, 9), (7, 2)), ((3, 5), (1, 1))],
)
def test_patches_are_a_quarter_and_what_is_left_over_stays(
    sides: tuple[int, int], patch: tuple[int, int]
) -> None:
    x = numbered(1, 2, *sides)
    y = shuffled(x, torch.Generator().manual_seed(1)).numpy()[0]
    (height, width), (high, wide) = sides, patch
    down, across = height // high, width // wide

    def patches(values: np.ndarray) -> list[bytes]:
        return [
            values[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide].tobytes()
            for i in range(down)
            for j in range(across)
        ]

    was = x.numpy()[0]
    assert patches(y) != patches(was)
    assert sorted(patches(y)) == sorted(patches(was))
    np.testing.assert_array_equal(y[:, down * high :], was[:, down * high :])
    np.testing.assert_array_equal(y[:, :, across * wide :], was[:, :, across * wide :])
