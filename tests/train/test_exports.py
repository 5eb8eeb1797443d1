"""What tests share is what they would have made: equal keys are equal programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import supsup_train.networks.create_bank
from exports import key_of, remembering
from networks import NoGradient
from supsup_train.networks.models import Mlp
from supsup_train.programs.programs import Programs, export_programs

OPTIONS: dict[str, Any] = {
    "input_shape": (4,),
    "parameters": ["layers.0.weight"],
    "state": [],
    "real_outputs": 2,
    "require_gradient": True,
}
ALL = {"parameters": ["layers.0.weight", "layers.1.weight"]}


def mlp(seed: int = 0, sizes: tuple[int, ...] = (4, 5, 3)) -> Mlp:
    torch.manual_seed(seed)
    return Mlp([*sizes])


def scaled(factor: float) -> nn.Module:
    """A class that differs by what it closes over."""

    class Scaled(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * factor

    torch.manual_seed(0)
    return Scaled([4, 5, 3])


def changed(change: Callable[[Mlp], object]) -> Mlp:
    module = mlp()
    change(module)
    return module


def test_values_of_inputs_do_not_matter() -> None:
    """As test_programs.py shows of the programs."""
    one, two = mlp(0), mlp(1)
    assert all((a != b).any() for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert key_of(one, **{**OPTIONS, **ALL}) == key_of(two, **{**OPTIONS, **ALL})
    norms = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)) for _ in range(2)]
    norms[1].get_buffer("1.running_mean").fill_(1.0)
    names = ["0.weight", "0.bias"]
    state = ["1.running_mean", "1.running_var"]
    options = {**OPTIONS, "parameters": names, "state": state}
    assert key_of(norms[0], **options) == key_of(norms[1], **options)
    options = {**OPTIONS, "parameters": names}
    assert key_of(norms[0], **options) != key_of(norms[1], **options)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (mlp(seed=1), {}),  # another constant
        (mlp(sizes=(4, 6, 3)), {}),
        (nn.Sequential(nn.Linear(4, 3)), {"parameters": ["0.weight"]}),
        (mlp(), {"real_outputs": 3}),
        (mlp(), {"require_gradient": False}),
        (mlp(), {"parameters": [], "state": ["layers.0.weight"]}),
        (mlp(), ALL),
        (changed(lambda m: m.layers[0].double()), {}),
        (changed(lambda m: setattr(m, "slope", 0.1)), {}),
        (changed(lambda m: m.layers.append(m.layers[1])), {}),
        (changed(lambda m: setattr(m, "forward", torch.relu)), {}),
        (changed(lambda m: setattr(m, "table", torch.zeros(2))), {}),
        (changed(lambda m: m.layers[0].requires_grad_(requires_grad=False)), {}),
    ],
)
def test_other_networks_have_other_keys(module: nn.Module, options: dict[str, Any]) -> None:
    key = key_of(module, **{**OPTIONS, **options})
    assert key is not None
    assert key != key_of(mlp(), **OPTIONS)
    assert key_of(mlp(), **OPTIONS) == key_of(mlp(), **OPTIONS)


def test_ties_and_copies_differ() -> None:
    tied, copied = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    tied.append(tied[0])
    copied.append(nn.Linear(4, 4))
    options = {**OPTIONS, "parameters": [key for key, _ in copied.named_parameters()]}
    assert key_of(tied, **options) != key_of(copied, **options)


def test_code_counts_by_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What closes over a value, is patched or is a hook is another module."""
    plain = key_of(mlp(), **OPTIONS)
    first, second = scaled(1.0), scaled(1.0)
    keys = [plain, key_of(first, **OPTIONS), key_of(second, **OPTIONS)]
    hooks = [
        changed(lambda m: m.register_forward_hook(lambda _m, _x, y: y)),
        changed(lambda m: m.register_forward_hook(lambda _m, _x, y: 2 * y)),
    ]
    keys += [key_of(module, **OPTIONS) for module in hooks]
    monkeypatch.setattr(Mlp, "forward", lambda _self, x: x)
    keys.append(key_of(mlp(), **OPTIONS))
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_what_cannot_be_pickled_is_not_shared() -> None:
    unpicklable = changed(lambda m: setattr(m, "stream", (bit for bit in [0])))
    assert key_of(unpicklable, **OPTIONS) is None


def test_a_class_defined_again_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"__module__": "networks", "__qualname__": "Again"}
    keys = []
    for _ in range(2):
        again = type("Again", (Mlp,), dict(names))
        monkeypatch.setattr("networks.Again", again, raising=False)
        torch.manual_seed(0)
        keys.append(key_of(again([4, 5, 3]), **OPTIONS))
    assert None not in keys
    assert keys[0] != keys[1]


def test_equal_networks_are_exported_once() -> None:
    asked: list[nn.Module] = []

    def export(module: nn.Module, **_: object) -> Programs:
        asked.append(module)
        if len(asked) == 1:
            raise ValueError("at first")
        gradient = None if isinstance(module, NoGradient) else b"gradient"
        return Programs(forward=str(len(asked)).encode(), gradient=gradient)

    shared = remembering(export)
    with pytest.raises(ValueError, match="at first"):
        shared(mlp(), **OPTIONS)
    assert [shared(mlp(seed), **OPTIONS).forward for seed in (0, 0, 1, 0)] == [
        b"2",
        b"2",
        b"3",
        b"2",
    ]
    closed = {**OPTIONS, **ALL}
    assert shared(scaled(1.0), **closed) != shared(scaled(1.0), **closed)
    without = {**OPTIONS, "parameters": ["head.weight"]}
    assert shared(NoGradient(), **without) != shared(NoGradient(), **without)


def test_tests_share_exports() -> None:
    assert vars(supsup_train.networks.create_bank)["export_programs"] is not export_programs
