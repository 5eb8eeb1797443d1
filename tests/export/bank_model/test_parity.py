from __future__ import annotations

import numpy as np
import pytest

from supsup_export.bank_model.parity import _contending


@pytest.mark.parametrize("rounded", [0.5, np.inf])
def test_only_tasks_that_were_given_up_may_be_off(rounded: float) -> None:
    allowed = 1e-3
    want = np.array([9.0, 8.0, 7.0, 6.0, 1.0, 0.0])

    def is_refused(*off: float) -> bool:
        return not np.array_equal(_contending(want + np.array(off), want, allowed, rounded), want)

    assert not is_refused(0, 0, 0, 0, 0, -0.49)
    assert is_refused(0, 0, 0, 0, 0, -0.51) == (rounded == 0.5)
    assert is_refused(*[-2 * allowed] * 6)  # none is exact
    assert is_refused(0, 0, 0, -0.1, -0.1, -0.1)  # three are exact, of four contenders
    assert is_refused(-0.1, 0, 0, 0, 0, 0)  # the best is off
    assert is_refused(0, 0, 0, 0, 0, 9.5)  # another one is the best
