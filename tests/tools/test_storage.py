"""The network whose storage is measured is the paper's."""

from __future__ import annotations

import pytest
from tools.benchmarks.storage import resnet50

from supsup_train.masks.rules import Rule


@pytest.mark.parametrize(("multiplier", "percent"), [(4, 0.87), (8, 1.72), (16, 3.39), (32, 6.67)])
def test_resnet50_has_the_counts_and_densities_of_the_paper(
    multiplier: int, percent: float
) -> None:
    network = resnet50("float16")
    shapes = [p.shape for p in network.parameters]
    assert (network.num_masked, network.num_state) == (23_475_392, 2 * 26_560)
    densities = Rule(kind="top-k", density=multiplier, budget="er").densities(shapes)
    ones = sum(d * p.size for d, p in zip(densities, network.parameters, strict=True))
    assert round(100 * ones / network.num_masked, 2) == percent
