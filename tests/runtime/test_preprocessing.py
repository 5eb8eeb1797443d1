from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supsup_runtime.errors import InputError
from supsup_runtime.preprocessing import EPSILON, GRAY, MAX_SIDE, Preprocessing, sampling


def plain(mode: str = "rgb", size: tuple[int, int] = (4, 4), **options: Any) -> Preprocessing:
    values = {"scale": 1.0, "mean": 0.0, "std": 1.0, **options}
    return Preprocessing(mode=mode, size=size, **values)  # type: ignore[arg-type]  # as given


def by_hand(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Linear interpolation in float64, pixel by pixel."""
    (height, width), (rows, columns) = picture.shape, size
    scale = max(rows / height, columns / width)
    reach = max(1.0, 1 / scale)
    out = np.zeros(size)
    for i in range(rows):
        for j in range(columns):
            y = (i + 0.5 - rows / 2) / scale + height / 2
            x = (j + 0.5 - columns / 2) / scale + width / 2
            wy = np.maximum(0, 1 - np.abs(np.arange(height) + 0.5 - y) / reach)
            wx = np.maximum(0, 1 - np.abs(np.arange(width) + 0.5 - x) / reach)
            out[i, j] = (wy / wy.sum()) @ picture @ (wx / wx.sum())
    return out


@given(
    have=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    want=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_resizing_is_linear_interpolation(
    have: tuple[int, int], want: tuple[int, int], seed: int
) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, have).astype(np.uint8)
    got = plain("gray", want).apply(picture)
    assert got.shape == (1, 1, *want)
    np.testing.assert_allclose(got[0, 0], by_hand(picture.astype(float), want), atol=2e-3)


def test_a_picture_of_the_size_is_left_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    got = plain(size=(5, 7)).apply(picture)
    np.testing.assert_array_equal(got, picture.transpose(0, 3, 1, 2).astype(np.float32))


def test_a_wide_picture_loses_both_ends_alike() -> None:
    picture = np.arange(12, dtype=np.uint8)[None, :].repeat(4, axis=0)
    np.testing.assert_allclose(plain("gray").apply(picture)[0, 0, 0], [4, 5, 6, 7], atol=1e-5)


def test_gray_and_colour() -> None:
    gray = np.full((3, 3), 7, np.uint8)
    np.testing.assert_array_equal(plain(size=(3, 3)).apply(gray), np.full((1, 3, 3, 3), 7.0))
    colour = np.array([[[10, 20, 30]]], np.uint8)
    got = plain("gray", (1, 1)).apply(colour)
    np.testing.assert_allclose(got.item(), np.dot(GRAY, [10, 20, 30]), rtol=1e-6)
    np.testing.assert_allclose(
        plain("gray", (3, 3)).apply(gray), np.full((1, 1, 3, 3), 7.0), rtol=1e-6
    )


def test_values_are_normalised_by_the_picture_or_by_numbers() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    fixed = Preprocessing(mode="rgb", size=(4, 4), mean=0.5, std=0.25).apply(pictures)
    x = pictures.transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(fixed, (x - 0.5) / 0.25, atol=1e-5)
    own = Preprocessing(mode="rgb", size=(4, 4)).apply(pictures)
    axes = (1, 2, 3)
    want = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + EPSILON)
    np.testing.assert_allclose(own, want, atol=1e-5)
    constant = Preprocessing(mode="gray", size=(2, 2)).apply(np.full((2, 2), 9, np.uint8))
    np.testing.assert_array_equal(constant, np.zeros((1, 1, 2, 2)))


def test_float_pictures_and_batches_are_as_single_uint8_ones() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (3, 9, 13, 3)).astype(np.uint8)
    how = Preprocessing(mode="rgb", size=(7, 8))
    whole = how.apply(pictures)
    for each in (
        how.apply(pictures.astype(np.float64)),
        how.apply(list(pictures)),
        np.concatenate([how.apply(picture) for picture in pictures]),
    ):
        np.testing.assert_allclose(each, whole, atol=1e-6)
    assert how.apply([pictures[0], pictures[1][:5], pictures[2][:, :, 0]]).shape == (3, 3, 7, 8)
    assert how.output_shape == (3, 7, 8)


def test_rows_of_the_matrices_sum_to_one() -> None:
    for have, want in (((1, 1), (9, 7)), ((640, 480), (8, 8)), ((5, 300), (4, 4))):
        for matrix in sampling(have, want):
            assert matrix.dtype == np.float32
            np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (np.zeros((4, 4), np.int64), "must be uint8 or float arrays, got int64"),
        (np.zeros((4, 4), np.uint16), "must be uint8 or float, got uint16; divide by 257"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.zeros((4, 4, 4), np.uint8), r"1 or 3 channels .*, got \(4, 4, 4\); a batch"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"got \(0, 4, 4, 3\)"),
        (np.zeros((1, 2, 4, 4, 3), np.uint8), r"got \(1, 2, 4, 4, 3\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.zeros((MAX_SIDE + 1, 1), np.uint8), r"sides of at most 32768"),
        ("picture.png", "pictures must be uint8 or float arrays|array or a list"),
        ([], "must be an array or a list of arrays, got list"),
        (None, "must be an array or a list of arrays, got NoneType"),
        ([[1, 2]], "must be uint8 or float arrays, got list"),
    ],
)
def test_other_pictures_are_refused(pictures: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain().apply(pictures)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "cmyk"}, r"mode must be one of \['gray', 'rgb'\], got 'cmyk'"),
        ({"size": (0, 4)}, r"size must be two integers in \[1, 32768\], got \(0, 4\)"),
        ({"size": (4,)}, "size must be two integers"),
        ({"size": (4, True)}, "size must be two integers"),
        ({"std": None}, "mean and std must be given together, or neither"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"std": float("inf")}, "std must be positive and finite, got inf"),
        ({"mean": float("nan")}, "mean must be finite, got nan"),
    ],
)
def test_other_steps_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"preprocessing: {message}"):
        plain(**options)


def test_json_and_back() -> None:
    for how in (plain(), Preprocessing(mode="gray", size=(28, 30))):
        assert Preprocessing.from_dict(how.to_dict()) == how
    good = plain().to_dict()
    for change in (
        {"mode": 3},
        {"size": "ab"},
        {"size": [1.5, 2]},
        {"scale": None},
        {"scale": True},
        {"mean": "0"},
        {"mean": 10**400},
        {"more": 1},
    ):
        with pytest.raises(InputError, match=r"^preprocessing: "):
            Preprocessing.from_dict({**good, **change})
    with pytest.raises(InputError, match="fields must be"):
        Preprocessing.from_dict([])


def test_each_channel_has_its_mean_and_deviation() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    steps = Preprocessing(mode="rgb", size=(3, 2), mean=mean, std=std)
    assert Preprocessing.from_dict(json.loads(json.dumps(steps.to_dict()))) == steps
    x = np.random.default_rng(0).integers(0, 256, (3, 2, 3)).astype(np.uint8)
    wanted = ((x / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(steps.apply(x)[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5] * 3}, "mean and std must be one number each, or of rgb three"),
        ({"mean": [0.5] * 2, "std": [0.5] * 2}, "or of rgb three, got"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3, "mode": "gray"}, "or of rgb three, got"),
        ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "std must be positive and finite"),
        ({"mean": [0.5, None, 0], "std": [0.5] * 3}, "mean must be finite"),
        ({"mean": [0.5, "a", 0], "std": [0.5] * 3}, "mean must be a number or null, got 'a'"),
        ({"mean": [[0.5]] * 3, "std": [0.5] * 3}, "mean must be a number or null"),
        ({"mean": [], "std": []}, "or of rgb three, got"),
    ],
)
def test_moments_of_channels_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    fields = {"mode": "rgb", "size": [3, 2], "scale": 255.0, "mean": 0.5, "std": 0.5, **changes}
    with pytest.raises(InputError, match=message):
        Preprocessing.from_dict(fields)
