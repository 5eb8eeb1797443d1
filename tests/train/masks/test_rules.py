from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supsup_runtime.errors import InputError
from supsup_train.masks.rules import Budget, Rule, er_densities, kept_of
from supsup_train.networks.models import make_model


def test_threshold_keeps_scores_of_at_least_zero_straight_through() -> None:
    scores = torch.tensor([-1.0, -0.0, 0.0, 0.5], requires_grad=True)
    mask = Rule().mask(scores, 1.0)
    assert mask.tolist() == [0, 1, 1, 1]
    (mask * torch.tensor([1.0, 2, 3, 4])).sum().backward()  # type: ignore[no-untyped-call]  # torch
    assert scores.grad is not None
    assert scores.grad.tolist() == [1, 2, 3, 4]


@given(
    size=st.sampled_from([1, 7, 8, 9, 100]),
    density=st.floats(0.01, 1),
    seed=st.integers(0, 10),
)
def test_top_k_keeps_the_largest_magnitudes(size: int, density: float, seed: int) -> None:
    scores = torch.from_numpy(np.random.default_rng(seed).standard_normal(size))
    mask = Rule(kind="top-k", density=density).mask(scores, density)
    kept = size - int((1 - density) * size)  # the reference code's rounding
    assert int(mask.sum()) == kept
    if kept < size:
        assert scores.abs()[mask == 1].min() >= scores.abs()[mask == 0].max()


def test_top_k_gradient_carries_the_sign() -> None:
    scores = torch.tensor([-2.0, 1.0, 3.0], requires_grad=True)
    Rule(kind="top-k", density=0.3).mask(scores, 0.3).sum().backward()  # type: ignore[no-untyped-call]  # torch
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1, 1, 1]


@pytest.mark.parametrize("rule", [Rule(), Rule(kind="top-k", density=0.4)])
def test_a_masked_weight_is_weight_times_mask_gradient_and_all(rule: Rule) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, values, upstream = (torch.randn(7, 9, generator=generator) for _ in range(3))
    results = []
    for fused in (True, False):
        scores = values.clone().requires_grad_()
        masked = rule.masked(weight, scores, 0.4) if fused else weight * rule.mask(scores, 0.4)
        (gradient,) = torch.autograd.grad(masked, scores, upstream)
        results.append((masked.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_of_equal_magnitudes_those_that_come_first_are_kept() -> None:
    rule = Rule(kind="top-k")
    assert rule.mask(-torch.ones(10), 0.5).tolist() == [1] * 5 + [0] * 5
    scores = torch.tensor([[1.0, -2, 3], [-2, 2, 1]])
    assert rule.mask(scores, 0.5).tolist() == [[0, 1, 1], [1, 0, 0]]


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    density=st.floats(0.03, 1),
)
def test_top_k_is_a_stable_sort_by_magnitude(values: list[int], density: float) -> None:
    scores = torch.tensor(values, dtype=torch.float32)
    count = len(values) - int((1 - density) * len(values))
    first = sorted(range(len(values)), key=lambda i: -abs(values[i]))[:count]
    mask = Rule(kind="top-k", density=density).mask(scores, density)
    assert mask.nonzero().flatten().tolist() == sorted(first)


def test_er_densities_follow_the_formula() -> None:
    shapes = [(300, 784), (100, 300), (64, 32, 3, 3), (2, 2)]
    got = er_densities(shapes, 2)
    want = [2 * (o + i) / (o * i * k) for (o, i, k) in ((300, 784, 1), (100, 300, 1), (64, 32, 9))]
    assert got == pytest.approx([*want, 0.5])
    assert Rule(kind="top-k", density=2, budget="er").densities(shapes) == got
    assert Rule(kind="top-k", density=0.2).densities(shapes) == [0.2] * 4


@pytest.mark.parametrize(
    ("name", "outputs", "percent"),
    [
        ("gem-resnet18", 5, {1: ".26", 2: ".53", 4: "1.03", 8: "2.01", 16: "3.91", 32: "7.46"}),
        ("resnet-50", 10, {4: ".87", 8: "1.72", 16: "3.39", 32: "6.67"}),
    ],
)
def test_er_densities_of_the_papers_networks(
    name: str, outputs: int, percent: dict[int, str]
) -> None:
    with torch.device("meta"):
        module = make_model(name, input_shape=(3, 32, 32), outputs=outputs)
    shapes = [tuple(each.shape) for each in module.parameters()]
    counts = [each.numel() for each in module.parameters()]
    for multiplier, wanted in percent.items():
        densities = Rule(kind="top-k", density=multiplier, budget="er").densities(shapes)
        assert max(densities) <= 0.5
        kept = sum(map(kept_of, counts, densities))
        assert f"{100 * kept / sum(counts):.2f}".lstrip("0") == wanted


@pytest.mark.parametrize(("density", "budget"), [(1e-20, "er"), (1e-20, "layer")])
def test_a_layer_that_keeps_nothing_is_refused(density: float, budget: Budget) -> None:
    rule = Rule(kind="top-k", density=density, budget=budget)
    message = (
        f"density: top-k with the budget '{budget}' must keep a weight of every layer, {density} "
        r"keeps none of shape \(8, 5\); give a larger one"
    )
    with pytest.raises(InputError, match=message):
        rule.densities([(8, 5)])
    Rule(density=1e-20).densities([(8, 5)])  # of thresholds, unused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "magic"}, "rule: must be one of"),
        ({"budget": "erk"}, "budget: must be one of"),
        ({"density": 0.0}, r"density: must be in \(0, 1\], got 0"),
        ({"density": 1.5}, r"density: must be in \(0, 1\], got 1.5"),
        ({"density": float("nan")}, "density"),
    ],
)
def test_bad_rules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rule(**options)  # type: ignore[arg-type]  # refused
