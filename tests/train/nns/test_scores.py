"""Task scores in torch against numpy and against autograd through stacked masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from banks import INPUTS, make_bank
from parity.plain import numpy_scores, plain_cnn, stacked_masks
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import pack_mask
from supsup_train.networks.create_bank import fixed_copy
from supsup_train.networks.models import make_model
from supsup_train.nns.scores import MaskScorer, Objective, joined_mask, pack_parts, products

# float32 passes with float64 sums: a few roundings of 6e-8; scores cancel to a tenth.
TOLERANCE = 1e-5


def scorer_of(bank: MaskBank, model: str, objective: Objective, count: int) -> MaskScorer:
    """Score the first masks of a bank; each replaces another one."""
    outputs = bank.network.outputs
    module = fixed_copy(make_model(model, input_shape=INPUTS[model], outputs=outputs)).eval()
    scorer = MaskScorer(bank.network, module, objective)
    tasks = list(bank)
    for index in range(count):
        scorer.put(index, joined_mask(tasks[-1], bank.network), tasks[-1].state)
        scorer.put(index, joined_mask(tasks[index], bank.network), tasks[index].state)
    return scorer


def inputs(model: str, batch: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(batch).standard_normal((batch, *INPUTS[model])).astype(np.float32)


def check(got: npt.NDArray[np.float64], want: npt.NDArray[np.float64]) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max())


@pytest.mark.parametrize("objective", ["entropy", "superfluous"])
@pytest.mark.parametrize("num_tasks", [1, 2, 5, 9])
def test_scores_are_those_of_numpy(tmp_path: Path, num_tasks: int, objective: Objective) -> None:
    model = "mlp-64-48"
    bank = make_bank(tmp_path / "masks", model, outputs=20, real_outputs=6, tasks=num_tasks)
    x = inputs(model, 3)
    scorer = scorer_of(bank, model, objective, num_tasks)
    assert len(scorer) == num_tasks
    want = numpy_scores(bank, x, np.full(num_tasks, 1 / num_tasks), objective)
    check(scorer.scores(torch.from_numpy(x)), want)


@pytest.mark.parametrize("known", [1, 2, 4])
def test_references_count_like_masks(tmp_path: Path, known: int) -> None:
    model = "mlp-7-9"  # 5 * 7 + 7 * 9 + 9 * 6 weights: not a multiple of 8
    bank = make_bank(tmp_path / "masks", model, outputs=6, real_outputs=4, tasks=5)
    x = inputs(model, 2)
    references = [joined_mask(task, bank.network) for task in list(bank)[known:]]
    scorer = scorer_of(bank, model, "entropy", known)
    want = numpy_scores(bank, x, np.full(5, 0.2), "entropy")
    for _ in range(2):  # references leave no trace
        check(scorer.scores(torch.from_numpy(x), references), want)
    alone = numpy_scores(bank, x, np.r_[np.full(known, 1 / known), np.zeros(5 - known)], "entropy")
    check(scorer.scores(torch.from_numpy(x)), alone[:known])


@pytest.mark.parametrize("num_tasks", [1, 5])
def test_running_statistics_have_their_share(tmp_path: Path, num_tasks: int) -> None:
    """As in an exported model; torch cannot differentiate running statistics."""
    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=num_tasks)
    x = inputs("cnn", 3)
    alphas = torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64, requires_grad=True)
    tensors = {}
    weights, masks = bank.network.weights(), stacked_masks(bank)
    for p, weight, mask in zip(bank.network.parameters, weights, masks, strict=True):
        stacked = torch.from_numpy(mask * weight.astype(np.float64))
        tensors[p.name] = torch.tensordot(alphas, stacked, dims=1)
    for s in bank.network.state:
        stacked = torch.from_numpy(np.stack([task.state[s.name] for task in bank])).double()
        tensors[s.name] = torch.tensordot(alphas, stacked, dims=1)
    logits = plain_cnn(tensors, torch.from_numpy(x).double())
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    (gradient,) = torch.autograd.grad(entropy, alphas)
    got = scorer_of(bank, "cnn", "entropy", num_tasks).scores(torch.from_numpy(x))
    check(got, -gradient.numpy())


def test_masks_are_joined_without_padding() -> None:
    masks = [torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1.0], [1.0], [0.0]])]
    assert pack_parts(masks).tolist() == [0b011101]


@pytest.mark.parametrize("size", [1, 7, 8, 9, 8191, 8192, 8193, 20_000])
@pytest.mark.parametrize("count", [0, 1, 32, 33])
def test_products_are_sums_over_masks(size: int, count: int) -> None:
    rng = np.random.default_rng(size)
    bits = rng.random((count, size)) < 0.5
    vector = rng.standard_normal(size).astype(np.float32)
    found = products(torch.from_numpy(vector), [pack_mask(row) for row in bits])
    exact = bits.astype(np.float64) @ vector.astype(np.float64)
    allowed = 8192 * 2.0**-24 * np.abs(vector).sum()  # float32 sums of at most 8192 values
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=0, atol=allowed)
