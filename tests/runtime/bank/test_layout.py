from __future__ import annotations

import numpy as np

from conftest import small_network
from supsup_runtime.bank.layout import cut, join, spans


def test_a_flat_array_is_cut_into_its_tensors() -> None:
    network = small_network(state=True)
    assert spans(network.parameters) == [slice(0, 9), slice(9, 16)]
    assert spans([]) == []
    flat = np.arange(16)
    parts = cut(network.parameters, flat)
    assert list(parts) == ["first", "second"]
    np.testing.assert_array_equal(parts["first"], np.arange(9).reshape(3, 3))
    np.testing.assert_array_equal(parts["second"], np.arange(9, 16).reshape(1, 7))
    assert np.shares_memory(parts["second"], flat)
    assert cut([], np.zeros(0)) == {}


def test_joined_tensors_are_what_was_cut() -> None:
    network, flat = small_network(), np.arange(16.0)
    np.testing.assert_array_equal(join(cut(network.parameters, flat).values()), flat)
    assert join([], np.bool_).dtype == np.bool_
