"""Negatives are normalised by the statistics of the own images, which they do not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

import supsup_train as st
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import Learning, initial_scores
from supsup_train.masks.own_statistics import own_statistics
from supsup_train.networks.create_bank import create_bank


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(3), (3,)),
        (nn.BatchNorm1d(3, affine=False), (3, 5)),
        (nn.BatchNorm2d(3, momentum=0.3), (3, 4, 2)),
        (nn.BatchNorm2d(3, momentum=None), (3, 4, 2)),
        (nn.BatchNorm3d(3), (3, 2, 2, 2)),
    ],
)
def test_statistics_are_of_the_first_rows(norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    own, more = torch.randn(6, *shape), torch.randn(2, *shape) * 5 + 9
    both = torch.cat([own, more]).requires_grad_()
    alone, wanted = own.clone().requires_grad_(), norm.state_dict()
    again = type(norm)(3, affine=norm.affine, momentum=norm.momentum)
    again.load_state_dict(wanted)
    with own_statistics(6, 8):
        y = norm(both)
    z = again(alone)
    assert torch.equal(y[:6], z)
    for name, value in again.state_dict().items():
        assert torch.equal(norm.state_dict()[name], value), name
    dims = [0, *range(2, own.dim())]
    sides = (1, -1, *[1] * len(shape[1:]))
    mean, var = own.mean(dims).view(sides), own.var(dims, correction=0).view(sides)
    torch.testing.assert_close(y[6:], (more - mean) / (var + 1e-5).sqrt())
    y[6:].sum().backward()  # own images get a gradient of the negatives, by the statistics
    assert both.grad is not None
    assert (both.grad[:6] != 0).any()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(norm(both)[6:], y[6:])  # those of all rows would be others


def test_rows_may_be_many_for_an_image_and_tasks_learned_at_once() -> None:
    torch.manual_seed(0)
    norm, x = nn.BatchNorm1d(3), torch.randn(2, 5, 4, 3)  # tasks, images, steps, values

    def normalised(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        with own_statistics(3, len(x)):
            y: torch.Tensor = functional_call(norm, state, (x.flatten(0, 1),))
        return y

    state = {
        name: value.expand(2, -1).clone() for name, value in norm.named_buffers() if value.ndim
    }
    single = [{name: value[i].clone() for name, value in state.items()} for i in range(2)]
    ys = vmap(normalised)(x, state)
    for i in range(2):
        torch.testing.assert_close(ys[i], normalised(x[i], single[i]))
        torch.testing.assert_close(ys[i][:12], norm(x[i, :3].flatten(0, 1)))
        for name, value in single[i].items():
            torch.testing.assert_close(state[name][i], value)
    with own_statistics(3, 5), pytest.raises(ValueError, match="batch normalisation of 7 rows"):
        norm(torch.randn(7, 3))
    norm.eval()
    with own_statistics(3, 5):
        assert torch.equal(norm(x[0, :, 0]), norm(x[0, :, 0]))


class Centred(nn.Module):
    """Statistics of its own, in plain arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean: torch.Tensor = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        y: torch.Tensor = self.head(x - self.mean)
        return y


def learning_of(module: nn.Module, path: Path, **options: object) -> Learning:
    bank = create_bank(path, module, input_shape=(4,), real_outputs=2, **options)  # type: ignore[arg-type]
    scores = initial_scores(bank.network, torch.Generator().manual_seed(0))
    learning = Learning(bank.network, module, st.Recipe(steps=3), scores)
    learning.module.train()
    return learning


def test_other_statistics_of_the_batch_are_refused(tmp_path: Path) -> None:
    for name, module in {
        "centred": Centred(),
        "bnnet": st.make_model("bnnet-5", input_shape=(4,), outputs=3),
    }.items():
        learning = learning_of(module, tmp_path / name)
        text = (
            r"^task a: negatives in a batch change '[a-z_.0-9]+' of its other images, by more than "
            r"nn.BatchNorm does; use that, or no negatives \(--negatives none\)$"
        )
        with pytest.raises(InputError, match=text):
            learning.check_own("task a", torch.randn(4, 4))


def test_looking_changes_nothing_and_noise_is_no_reason(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3, bias=False)
    )
    learning = learning_of(module, tmp_path / "b")
    before = {name: value.clone() for name, value in learning.state.items()}
    buffers = {name: value.clone() for name, value in learning.module.named_buffers()}
    noise = torch.get_rng_state()
    learning.check_own("task a", torch.randn(4, 4, generator=torch.Generator()))
    assert torch.equal(noise, torch.get_rng_state())
    assert before.keys() == {"1.running_mean", "1.running_var"}
    assert all(torch.equal(learning.state[name], value) for name, value in before.items())
    assert all(torch.equal(dict(learning.module.named_buffers())[n], v) for n, v in buffers.items())
    text = "task a: the module cannot learn from a batch of 1: .*; use a larger batch$"
    with pytest.raises(InputError, match=text):
        learning.check_own("task a", torch.randn(1, 4))
