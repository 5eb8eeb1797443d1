from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.network import MaskedParameter
from supsup_runtime.bank.weights import kaiming_constant, seeded_weight
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import InputError
from supsup_train.masks.learning import Learning, initial_scores, task_seed
from supsup_train.masks.train_task import batch_rows
from supsup_train.networks.bnnet import BatchBlend, BnNet
from supsup_train.nns.learner import NnsLearner
from supsup_train.programs.programs import export_programs

SIZES = [5, 9, 7, 4]
REAL = 3
WEIGHT_SEED = 11
RECIPE = st.Recipe(
    steps=40,
    batch_size=16,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="cosine",
    weight_decay=1e-4,
    score_init="zeros",
)
_FOLDER = TemporaryDirectory()


def network() -> nn.Module:
    return st.make_model(
        "bnnet-9-7", input_shape=(SIZES[0],), outputs=SIZES[-1], weight_seed=WEIGHT_SEED
    )


@cache
def bank() -> MaskBank:
    return st.create_bank(
        Path(_FOLDER.name) / "masks", network(), input_shape=(SIZES[0],), real_outputs=REAL
    )


def clouds(name: str = "clouds", images: int = 128) -> TaskData:
    """Make two Gaussian classes with the labels 1 and 2."""
    rng = np.random.default_rng(1)
    y = rng.integers(1, 3, images)
    x = (rng.standard_normal((images, SIZES[0])) + 3 * y[:, None]).astype(np.float32)
    half = images // 2
    return TaskData(
        name=name,
        labels=("0", "1", "2"),
        train_x=x[:half],
        train_y=y[:half],
        test_x=x[half:],
        test_y=y[half:],
    )


def drawn(blend: float) -> dict[str, np.ndarray]:
    """Draw a mask or superposition, and running statistics far from the batch's."""
    rng = np.random.default_rng(5)
    values: dict[str, np.ndarray] = {}
    for index, units in enumerate(SIZES[1:-1]):
        values[f"norms.{index}.weight"] = rng.uniform(0, 1, units)
        values[f"norms.{index}.blend"] = np.full(1, blend)
        values[f"norms.{index}.running_mean"] = rng.standard_normal(units)
        values[f"norms.{index}.running_var"] = rng.uniform(0.5, 2, units)
    return {name: value.astype(np.float32) for name, value in values.items()}


def plain_logits(x: np.ndarray, values: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the network in float64."""
    x = x.astype(np.float64)
    own = {name: value.astype(np.float64) for name, value in values.items()}
    for index, shape in enumerate(zip(SIZES[1:], SIZES, strict=False)):
        weight = seeded_weight(WEIGHT_SEED, index, shape, kaiming_constant(shape))
        x = x @ weight.T.astype(np.float64)
        if index == len(SIZES) - 2:
            break
        blend, norm = own[f"norms.{index}.blend"], f"norms.{index}"
        mean = blend * x.mean(0) + (1 - blend) * own[f"{norm}.running_mean"]
        var = blend * x.var(0) + (1 - blend) * own[f"{norm}.running_var"]
        y = (x - mean) / np.sqrt(var + 1e-5) * own[f"{norm}.weight"]
        x = y / (1 + np.exp(-y))
    return x


def run(program: bytes | None, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    assert program is not None
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def assert_close(got: np.ndarray, expected: np.ndarray, scale: float, what: str) -> None:
    """Compare within 1e-5 of a scale, about 80 float32 roundings."""
    assert got.dtype == np.float32, what
    assert got.shape == expected.shape, what
    assert np.isfinite(got).all(), what
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * scale, err_msg=what)


def reference_tensors(values: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Return float64 tensors, with a blend per unit: their gradients sum to the blend's."""
    tensors = {name: torch.from_numpy(value).double() for name, value in values.items()}
    for name, value in tensors.items():
        if name.endswith("blend"):
            units = tensors[name.replace("blend", "weight")].shape
            tensors[name] = value.expand(units).clone()
    return {name: value.requires_grad_() for name, value in tensors.items()}


@pytest.mark.parametrize("blend", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("batch", [1, 7, 8])
def test_programs_blend_statistics_and_differentiate_through_them(blend: float, batch: int) -> None:
    values = drawn(blend)
    x = np.random.default_rng(batch).standard_normal((batch, SIZES[0])).astype(np.float32)
    expected = plain_logits(x, values)
    logits = run(bank().forward, {"x": x, **values})["logits"]
    assert_close(logits, expected, float(np.abs(expected).max()) or 1.0, "logits")

    free = reference_tensors(values)
    z = functional_call(network().double().eval(), free, (torch.from_numpy(x).double(),))
    np.testing.assert_allclose(z.detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    objectives = {
        "entropy": -(z.softmax(1) * z.log_softmax(1)).sum(1).mean(),
        "superfluous": torch.cat([z[:, :REAL].detach(), z[:, REAL:]], 1).logsumexp(1).mean(),
    }
    got = run(bank().gradient, {"x": x, **values})
    for objective, value in objectives.items():
        found = torch.autograd.grad(value, list(free.values()), retain_graph=True)
        for name, terms in zip(free, found, strict=True):
            key, blends = f"{objective}.{name}", name.endswith("blend")
            # the blend's gradient is a sum that may cancel: use the scale of its terms
            scale = float(terms.abs().sum() if blends else terms.abs().max())
            gradient = terms.sum(0, keepdim=True) if blends else terms
            # float64 zeros may be float32 rounding errors of 1e-7
            assert_close(got[key], gradient.numpy(), scale if scale > 1e-12 else 1e-2, key)


def test_weights_depend_on_seed_and_layer_alone() -> None:
    module = BnNet(SIZES, weight_seed=WEIGHT_SEED)
    assert dict(module.named_parameters()).keys() == {"norms.0.weight", "norms.1.weight"}
    for index, layer in enumerate(module.layers):
        shape = (SIZES[index + 1], SIZES[index])
        weight = seeded_weight(WEIGHT_SEED, index, shape, kaiming_constant(shape))
        np.testing.assert_array_equal(layer.weight.numpy(), weight.T)  # type: ignore[operator]  # a buffer's type is Tensor | Module to torch
    other = BnNet(SIZES, weight_seed=WEIGHT_SEED + 1)
    with pytest.raises(InputError, match=r"constants \['layers.0.weight'.* must have the values"):
        st.train_task(bank(), other, clouds())


def test_both_programs_hold_the_same_constants() -> None:
    """A model then stores the fixed layers once; these widths prevent constant folding."""
    wide = st.make_model("bnnet-72-56", input_shape=(48,), outputs=40)
    programs = export_programs(
        wide,
        input_shape=(48,),
        parameters=["norms.0.weight", "norms.1.weight"],
        state=[name for name, _ in wide.named_buffers() if "norms" in name],
        real_outputs=10,
    )
    assert programs.gradient is not None
    held = [
        {t.raw_data for t in onnx.load_model_from_string(program).graph.initializer if t.dims[1:]}
        for program in (programs.forward, programs.gradient)
    ]
    assert held[0] == held[1]
    assert len(held[0]) == 3


def test_the_network_says_itself_what_is_masked() -> None:
    described = bank().network
    assert described.parameters == (
        MaskedParameter.ones("norms.0.weight", (9,)),
        MaskedParameter.ones("norms.1.weight", (7,)),
    )
    names = ("blend", "running_mean", "running_var")
    assert [s.name for s in described.state] == [f"norms.{i}.{n}" for i in (0, 1) for n in names]


class Mixed(nn.Module):
    """Masks weights and units, both in submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 6, bias=False), BatchBlend(6))
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(x))
        return logits


class Wrong(Mixed):
    masked_names: ClassVar[tuple[str, ...]] = ("tail.weight",)


def test_units_and_weights_are_masked_together(tmp_path: Path) -> None:
    made = st.create_bank(tmp_path / "a", Mixed(), input_shape=(4,), real_outputs=2)
    inits = {p.name: p.init for p in made.network.parameters}
    assert inits == {
        "block.0.weight": "signed-constant",
        "block.1.weight": "ones",
        "head.weight": "signed-constant",
    }
    with pytest.raises(
        InputError, match=r"its masked_names must be names .* got \['tail.weight'\]"
    ):
        st.create_bank(tmp_path / "b", Wrong(), input_shape=(4,), real_outputs=2)
    er = st.Rule(kind="top-k", density=2, budget="er")
    with pytest.raises(InputError, match=r"budget: 'er' needs weights of two .* got shape \(6,\)"):
        er.densities([p.shape for p in made.network.parameters])


def test_training_uses_the_batch_and_keeps_running_statistics() -> None:
    norm = BatchBlend(3).train()
    x = np.random.default_rng(0).normal(2, 3, (7, 3)).astype(np.float32)
    wide = x.astype(np.float64)
    got = norm(torch.from_numpy(x)).detach().numpy()
    # a few float32 operations on values of a few units
    expected = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(norm.running_mean, 0.1 * wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, 0.9 + 0.1 * wide.var(0, ddof=1), rtol=1e-5)
    assert norm.blend.item() == 0
    with pytest.raises(InputError, match=r"learns from batches of at least 2, got 1; use larger"):
        norm(torch.zeros(1, 3))


def test_a_plain_loop_learns_the_same_unit_masks() -> None:
    """A plain loop: zero scores, momentum 0.9, weight decay, half a cosine over the steps."""
    data = clouds()
    task = st.train_task(bank(), network(), data, recipe=RECIPE)
    module = network().train()
    scores = {p.name: torch.zeros(p.shape) for p in bank().network.parameters}
    momenta = {name: torch.zeros_like(score) for name, score in scores.items()}
    generator = torch.Generator().manual_seed(task_seed(0, data.name))
    for step, rows in enumerate(batch_rows(len(data.train_x), RECIPE, generator)):
        free = {name: score.requires_grad_() for name, score in scores.items()}
        masks = {k: (s >= 0).float() + s - s.detach() for k, s in free.items()}
        x, y = torch.from_numpy(data.train_x)[rows], torch.from_numpy(data.train_y)[rows]
        loss = nn.functional.cross_entropy(functional_call(module, masks, (x,)), y)
        slopes = torch.autograd.grad(loss, list(free.values()))
        rate = 0.1 * (1 + math.cos(math.pi * step / RECIPE.steps)) / 2
        with torch.no_grad():
            for (name, score), slope in zip(free.items(), slopes, strict=True):
                momenta[name] = 0.9 * momenta[name] + slope + 1e-4 * score
                scores[name] = score - rate * momenta[name]
    for name, score in scores.items():
        got = unpack_mask(task.masks[name], tuple(score.shape))
        np.testing.assert_array_equal(got, (score >= 0).numpy())
        assert 0 < got.mean() < 1
    assert task.training["accuracy"] >= 0.9
    assert task.training["recipe"]["schedule"] == "cosine"
    assert [float(task.state[f"norms.{index}.blend"][0]) for index in (0, 1)] == [0, 0]


def test_scores_of_zero_begin_with_a_mask_of_ones() -> None:
    scores = initial_scores(bank().network, torch.Generator(), "zeros")
    learning = Learning(bank().network, network(), RECIPE, scores)
    for mask in learning.masks().values():
        assert bool((mask == 1).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, "schedule: must be one of .*, got 'linear'"),
        ({"weight_decay": -1.0}, "weight_decay: must be at least 0 and finite, got -1.0"),
        ({"weight_decay": float("nan")}, "weight_decay: must be at least 0 and finite, got nan"),
        ({"score_init": "ones"}, "score_init: must be one of .*, got 'ones'"),
        (
            {"score_init": "zeros", "rule": st.Rule(kind="top-k")},
            "score_init: 'zeros' goes with rule 'threshold', got 'top-k'",
        ),
        (
            {"score_init": "zeros", "transfer": "masks"},
            "score_init: transfer 'masks' scales random scores, got 'zeros'",
        ),
    ],
)
def test_recipes_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        st.Recipe(**options)  # type: ignore[arg-type]  # refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine"}, "schedule: scenario NNs, .* needs 'constant', got 'cosine'"),
        ({"score_init": "zeros"}, "score_init: scenario NNs, .* needs 'uniform', got 'zeros'"),
    ],
)
def test_nns_refuses_what_it_cannot_tell_apart(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NnsLearner(bank(), network(), recipe=st.Recipe(**options))  # type: ignore[arg-type]  # by name
