from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tiny_data import tiny


@pytest.mark.parametrize("field", ["train_x", "train_y", "test_x", "test_y"])
def test_other_values_have_another_fingerprint(field: str) -> None:
    data, other = tiny(3, 3), tiny(3, 3)
    assert data.fingerprint == other.fingerprint
    other = tiny(3, 3)
    getattr(other, field).reshape(-1)[-1] ^= 1
    assert data.fingerprint != other.fingerprint


def test_another_normalisation_has_another_fingerprint() -> None:
    data = tiny(3, 3)
    others = [replace(data, mean=0.5), replace(data, std=0.25), replace(data, scale=1.0)]
    assert len({each.fingerprint for each in [data, *others]}) == 4


def test_shapes_and_types_count_as_well() -> None:
    flat, square = tiny(9), tiny(3, 3)
    np.testing.assert_array_equal(flat.train_x.reshape(-1), square.train_x.reshape(-1))
    assert flat.fingerprint != square.fingerprint
