"""Recovery in torch, by autograd, against ONNX Runtime: energies, entropies, gradients, paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from banks import INPUTS
from stores import MODEL, store_bank
from supsup_export.exporter import export_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.hopfield.file import read_store
from supsup_runtime.recovery.descent import Descent, Recovery, Statistics, linear
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield
from supsup_train.networks.models import make_model

# Relative to the largest value. Sums of at most 98 float32 terms are typically off by 1e-6; the
# reference is float64.
TOLERANCE = 1e-5
# The statistics of two rows are their difference: if it is near zero for a unit, dividing by it
# increases rounding errors tenfold.
OF_TWO = 1e-4


class Torch:
    """The network and the energy in torch, in one dtype."""

    def __init__(self, bank: MaskBank, statistics: Statistics, dtype: torch.dtype) -> None:
        store = read_store(bank)
        outputs = bank.network.outputs
        module = make_model(MODEL, input_shape=INPUTS[MODEL], outputs=outputs)
        self.module = module.to(dtype).eval()
        self.dtype = dtype
        self.parameters = bank.network.parameters
        self.psi = [
            torch.from_numpy(store.matrices[p.name].psi()).to(dtype) for p in self.parameters
        ]
        mean = {name: torch.from_numpy(v).to(dtype) for name, v in store.mean_state().items()}
        blend = float(statistics == "batch")
        self.state = {k: torch.full_like(v, blend) if "blend" in k else v for k, v in mean.items()}

    def terms(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entropy of a batch, and the energy, at a relaxed mask."""
        parts = torch.split(mask, [p.size for p in self.parameters])
        names = [p.name for p in self.parameters]
        tensors = dict(zip(names, parts, strict=True)) | self.state
        logits = torch.func.functional_call(self.module, tensors, (x,))
        entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        signs = [2 * part - 1 for part in parts]
        energies = [-0.5 * z @ psi @ z for z, psi in zip(signs, self.psi, strict=True)]
        return entropy, torch.stack(energies).sum()

    def gradients(self, x: Tensor, mask: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of the graph by name."""
        relaxed = torch.from_numpy(mask).to(self.dtype).requires_grad_()
        entropy, energy = self.terms(x.to(self.dtype), relaxed)
        (of_entropy,) = torch.autograd.grad(entropy, relaxed)
        (of_energy,) = torch.autograd.grad(energy, relaxed)
        found = {"entropy": entropy, "energy": energy}
        found |= {"entropy_gradient": of_entropy, "energy_gradient": of_energy}
        return {name: value.detach().numpy() for name, value in found.items()}


class StraightThrough(torch.autograd.Function):
    """1 where the score is at least 0; its gradient is the mask's."""

    @staticmethod
    def forward(_: Any, scores: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        return (scores >= 0).to(scores.dtype)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        return gradient


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[MaskBank, HopfieldModel]:
    folder = tmp_path_factory.mktemp("recovery")
    bank = store_bank(folder / "masks", tasks=3)
    export_recovery(bank, folder / "recover.onnx")
    return bank, load_hopfield(folder / "recover.onnx")


def stream(rows: int, count: int, seed: int) -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, 30))
    picks = rng.integers(5, size=(count, rows))
    noise = rng.standard_normal((count, rows, 30))
    return list((centres[picks] + 0.5 * noise).astype(np.float32))


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_all_outputs_are_those_of_autograd(
    made: tuple[MaskBank, HopfieldModel], rows: int, statistics: Statistics
) -> None:
    bank, model = made
    wanted: Statistics = statistics if rows > 1 else "running"
    reference = Torch(bank, wanted, torch.float64)
    for seed, x in enumerate(stream(rows, 5, rows)):
        mask = np.random.default_rng(seed).random(bank.network.num_masked, np.float32)
        want = reference.gradients(torch.from_numpy(x), mask)
        # relative to the energy's terms z_i (Psi z)_i / 2, which may cancel
        terms = np.abs((2 * mask - 1) * want["energy_gradient"]).sum() / 4
        for strengths in ((1.0, 0.0), (0.0, 1.0), (0.25, 1.5e-3)):
            got = model.step(x, mask, *strengths, statistics=statistics)
            assert got.entropy == pytest.approx(want["entropy"], rel=TOLERANCE)
            assert got.energy == pytest.approx(want["energy"], rel=0, abs=TOLERANCE * terms)
            gradient = sum(
                s * want[f"{name}_gradient"]
                for s, name in zip(strengths, ("entropy", "energy"), strict=True)
            )
            error = np.abs(got.gradient - gradient).max() / np.abs(gradient).max()
            assert error <= (OF_TWO if rows == 2 else TOLERANCE)


@pytest.mark.parametrize("start", ["mean", "random"])
@pytest.mark.parametrize("rows", [8, 33])
def test_whole_recoveries_take_the_same_path(
    made: tuple[MaskBank, HopfieldModel], rows: int, start: str
) -> None:
    """torch.optim.SGD through a straight-through threshold against the runtime, step by step.

    The start is not zero, because a first gradient of only rounding would decide signs.
    """
    bank, model = made
    reference = Torch(bank, "batch", torch.float32)
    size, steps = bank.network.num_masked, 20
    batches = stream(rows, steps, seed=rows)
    own = np.random.default_rng(rows).standard_normal(size).astype(np.float32)
    first = model.store.mean if start == "mean" else own
    scores = torch.from_numpy(first.copy()).requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=500, momentum=0.9, weight_decay=1e-4)
    descent = Descent(first, Recovery())
    turned = 0
    for number, x in enumerate(batches):
        of_entropy, of_energy = linear(number, steps)
        before = descent.mask
        mask = StraightThrough.apply(scores)  # type: ignore[no-untyped-call]  # torch
        np.testing.assert_array_equal(mask.detach().numpy(), before)
        entropy, energy = reference.terms(torch.from_numpy(x), mask)
        loss = of_entropy * entropy + 1.5e-3 * of_energy * energy
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
        found = model.step(x, before, of_entropy, 1.5e-3 * of_energy)
        assert descent.step(found.gradient)
        turned += int((descent.mask != before).sum())
    assert turned > size / 10  # the mask changed
    np.testing.assert_array_equal((scores >= 0).float().numpy(), descent.mask)
    recovered = model.recover(batches, settings=Recovery(start=first, look_every=0))
    last = recovered.trace.distance[-1]
    settled, _ = model.settle(descent.mask.astype(np.bool_))
    cut = np.split(settled != descent.mask.astype(np.bool_), [bank.network.parameters[0].size])
    assert last == max(part.mean() for part in cut)  # the runtime's loop ends there
