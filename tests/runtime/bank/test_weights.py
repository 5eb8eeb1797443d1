from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supsup_runtime.bank.bits import check_padding
from supsup_runtime.bank.weights import MAX_SEED, kaiming_constant, seeded_weight, sign_plane
from supsup_runtime.errors import InputError


def test_sign_planes_are_frozen() -> None:
    """Seeded weights, version 1: other bytes would be another network on every device."""
    assert sign_plane(0, 0, 64).tobytes().hex() == "9bd8e40864baf402"
    assert sign_plane(2**63, 5, 77).tobytes().hex() == "8cb455503b1ecd10ae0d"


@given(
    seed=st.integers(0, MAX_SEED),
    index=st.integers(0, 100),
    size=st.sampled_from([1, 7, 8, 9, 63, 64, 65, 1000]),
)
def test_a_plane_is_philox_bit_by_bit(seed: int, index: int, size: int) -> None:
    plane = sign_plane(seed, index, size)
    check_padding(plane, size, place="plane")
    key = np.array([seed, index], np.uint64)
    words = np.random.Philox(key=key).random_raw(-(-size // 64))
    for i in {0, size // 2, size - 1}:
        expected = (int(words[i // 64]) >> (i % 64)) & 1
        assert (plane[i // 8] >> (i % 8)) & 1 == expected


def test_planes_of_a_longer_parameter_start_the_same() -> None:
    np.testing.assert_array_equal(sign_plane(1, 2, 800)[:10], sign_plane(1, 2, 80))


@pytest.mark.parametrize("shape", [(5, 4), (8, 2, 3, 3), (6, 1, 3)])
def test_weights_are_plus_or_minus_the_kaiming_constant(shape: tuple[int, ...]) -> None:
    constant = kaiming_constant(shape)
    assert constant == math.sqrt(2 / math.prod(shape[1:]))
    weight = seeded_weight(7, 0, shape, constant)
    assert weight.dtype == np.float32
    assert weight.shape == shape
    np.testing.assert_array_equal(np.abs(weight), np.float32(constant))
    assert 0 < (weight > 0).mean() < 1


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(InputError, match=rf"weight_seed must be an integer in \[0, .*got {seed}"):
        sign_plane(seed, 0, 8)
