"""How far gradients of a program may be from those of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from supsup_train.programs import agreement
from supsup_train.programs.agreement import ProgramError, Trial, check_gradients


def check(monkeypatch: pytest.MonkeyPatch, factors: list[float], moved: list[float]) -> None:
    """Check a program whose gradients are `factors` times autograd's.

    A little noise in the input makes these `moved` times as large.
    """
    module = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    own: dict[str, Tensor] = dict(module.named_parameters())
    x = torch.ones(4, 4)
    trial = Trial(module=module, x=x, moved=x + 1, free=own, changed=[])
    wanted = [torch.ones_like(value) for value in own.values()]

    def gradients(_trial: Trial, rows: Tensor, *_: object) -> list[Tensor]:
        times = [1.0, 1.0] if rows is x else moved
        return [value * each for value, each in zip(wanted, times, strict=True)]

    monkeypatch.setattr(agreement, "_gradients", gradients)
    found = tuple(value * each for value, each in zip(wanted, factors, strict=True))
    check_gradients(trial, lambda *_: found, [], lambda logits: [logits])


@pytest.mark.parametrize(
    ("factors", "moved"),
    [
        ([1.0, 1.00003], [1.0, 1.0]),  # rounding
        ([1.0, 1.001], [1.0, 1.001]),  # as noise does to this gradient
        ([1.0, 1.01], [1.02, 1.0]),  # or to another: a unit was switched, as in a ResNet-50
        ([1.09, 1.0], [1.1, 1.0]),
    ],
)
def test_what_noise_explains_is_accepted(
    monkeypatch: pytest.MonkeyPatch, factors: list[float], moved: list[float]
) -> None:
    check(monkeypatch, factors, moved)


@pytest.mark.parametrize(
    ("factors", "moved"),
    [
        ([1.0, 1.001], [1.0, 1.0]),
        ([1.0, 1.05], [1.02, 1.0]),
        ([1.0, 1.05], [3.0, 1.0]),  # however large the noise of another
    ],
)
def test_what_noise_does_not_explain_is_refused(
    monkeypatch: pytest.MonkeyPatch, factors: list[float], moved: list[float]
) -> None:
    with pytest.raises(ProgramError, match="gradient differs from that of autograd"):
        check(monkeypatch, factors, moved)
