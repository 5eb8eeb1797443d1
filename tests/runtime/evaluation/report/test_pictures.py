from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from supsup_runtime.arrays import Array
from supsup_runtime.evaluation.report.pictures import data_uri, from_values, png

PIL = pytest.importorskip("PIL.Image", reason="Pillow reads what was written")


def read(data: bytes) -> Array:
    image = PIL.open(io.BytesIO(data))
    image.load()
    return np.asarray(image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (3, 5, 1), (7, 2, 3), (160, 1, 3)])
def test_png_is_the_picture(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(read(png(picture)), picture[..., 0] if shape[2:] == (1,) else picture)


def test_a_large_picture_is_shown_small() -> None:
    picture = np.zeros((100, 900, 3), np.uint8)
    uri = data_uri(picture)
    assert uri.startswith("data:image/png;base64,")
    small = read(base64.b64decode(uri.partition(",")[2]))
    assert small.shape == (17, 150, 3)


def test_values_from_the_least_to_the_largest() -> None:
    x = np.array([[[-1.0, 0.0], [1.0, 3.0]]], np.float32)
    assert from_values(x).tolist() == [[[0], [64]], [[128], [255]]]
    assert from_values(np.full((3, 1, 2), 7.0, np.float32)).tolist() == [[[0, 0, 0], [0, 0, 0]]]
