"""torch = numpy = ONNX Runtime (= the onnx reference evaluator): scores, logits, the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from banks import make_bank
from parity.plain import numpy_logits, numpy_scores, plain_cnn, superposed, torch_scores
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.model.metadata import Target
from supsup_runtime.model.session import open_session

Array = npt.NDArray[Any]

# Both float64 references compute the same sums of at most 300,000 terms: 3e5 * 2**-53 = 3e-11 of
# their absolute sum, and scores cancel to some 1e-3 of it.
REFERENCE_RTOL = 1e-8
# The contract's tolerances. portable, cuda: float32 sums of P products, pairwise by blocks. cpu:
# two int8 rows leave out at most 1 / 254 / 254 = 1.6e-5 of a vector's peak per term, either sign.
TOLERANCE: dict[Target, float] = {"portable": 1e-5, "cpu": 3e-5, "cuda": 1e-5}
# float32 logits: three products of at most 784 terms, 784 * 6e-8 = 5e-5 at worst, 1e-6 typical.
LOGITS_TOLERANCE = 1e-5

CASES = [("mlp-7-9", 6, 4), ("mlp-7-9", 6, 6), ("lenet-300-100", 100, 10)]


def relative(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / (np.abs(want).max() or 1.0))  # dead units: all zero


def run(path: Path, **feeds: Array) -> dict[str, Array]:
    session = open_session(path, place=str(path))
    return dict(zip(session.output_names, session.run(session.output_names, feeds), strict=True))


def inputs(bank: MaskBank, batch: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(batch)
    return rng.standard_normal((batch, *bank.network.input_shape)).astype(np.float32)


def feeds(x: Array, tasks: list[int], alphas: list[float], *, infer: bool) -> dict[str, Array]:
    return {
        "x": x,
        "tasks": np.array(tasks, np.int64),
        "alphas": np.array(alphas, np.float32),
        "infer": np.array(infer),
    }


def spread(tasks: list[int], alphas: list[float], num_tasks: int) -> Array:
    """Alphas over all tasks; uniform where none are given."""
    if not tasks:
        return np.full(num_tasks, 1 / num_tasks)
    full = np.zeros(num_tasks)
    np.add.at(full, tasks, np.array(alphas, np.float32).astype(np.float64))
    return full


@pytest.mark.parametrize(("model", "outputs", "real"), CASES)
@pytest.mark.parametrize("num_tasks", [1, 3, 8])
def test_scores_of_every_task(
    tmp_path: Path, model: str, outputs: int, real: int, num_tasks: int
) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=outputs, real_outputs=real, tasks=num_tasks)
    last = num_tasks - 1
    for objective in bank.objectives:
        paths: dict[Target, Path] = {}
        for target in TOLERANCE:
            paths[target] = tmp_path / f"{target}-{objective}.onnx"
            export(bank, paths[target], request=Request(target=target, objective=objective))
        for tasks, alphas in (([], []), ([0], [1.0]), ([last, 0], [0.25, 0.75])):
            x = inputs(bank, 1 if tasks else 3)
            full = spread(tasks, alphas, num_tasks)
            want = numpy_scores(bank, x, full, objective)
            np.testing.assert_allclose(
                torch_scores(bank, x, full, objective),
                want,
                rtol=0,
                atol=REFERENCE_RTOL * np.abs(want).max(),
            )
            for target, path in paths.items():
                got = run(path, **feeds(x, tasks, alphas, infer=True))
                assert relative(got["task_scores"], want) <= TOLERANCE[target]
                best = int(got["task"][0])
                assert want.max() - want[best] <= TOLERANCE[target] * np.abs(want).max()
                chosen = numpy_logits(x, superposed(bank, spread([best], [1.0], num_tasks)))
                assert relative(got["logits"], chosen) <= LOGITS_TOLERANCE


@pytest.mark.parametrize(("model", "outputs", "real"), CASES)
@pytest.mark.parametrize("num_tasks", [1, 9])
def test_scores_of_every_row(
    tmp_path: Path, model: str, outputs: int, real: int, num_tasks: int
) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=outputs, real_outputs=real, tasks=num_tasks)
    path = tmp_path / "out.onnx"
    objective = export(bank, path).info.objective
    x = inputs(bank, 5)
    got = run(path, **feeds(x, [], [], infer=True), per_image=np.array(True))
    rows = got["task_scores"].reshape(5, num_tasks)
    full = spread([], [], num_tasks)
    for row, scores in enumerate(rows):
        want = numpy_scores(bank, x[row : row + 1], full, objective)
        assert relative(scores, want) <= TOLERANCE["portable"]  # rows are in float32
    np.testing.assert_array_equal(got["task"], rows.argmax(axis=1))
    np.testing.assert_array_equal(got["parameters"], 0)  # no mask: ignored


@pytest.mark.parametrize(("model", "outputs", "real"), CASES)
def test_logits_of_tasks_and_superpositions(
    tmp_path: Path, model: str, outputs: int, real: int
) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=outputs, real_outputs=real, tasks=3)
    path = tmp_path / "out.onnx"
    export(bank, path)
    x = inputs(bank, 4)
    for tasks, alphas in (([0], [1.0]), ([2], [1.0]), ([0, 1, 2], [0.5, -0.25, 0.75])):
        got = run(path, **feeds(x, tasks, alphas, infer=False))
        layers = superposed(bank, spread(tasks, alphas, 3))
        assert relative(got["logits"], numpy_logits(x, layers)) <= LOGITS_TOLERANCE
        flat = np.concatenate([layer.reshape(-1) for layer in layers])
        # one product of float32 and at most three sums: 4 roundings of 6e-8
        assert relative(got["parameters"], flat) <= 3e-7
        assert got["task"].tolist() == tasks
        assert got["task_scores"].shape == (0,)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_scores_of_a_bank_over_a_megabyte(tmp_path: Path, target: Target) -> None:
    """The CPU uses two int8 rows; the export's check enforces the tolerance."""
    bank = make_bank(tmp_path / "b", "lenet-300-100", outputs=100, real_outputs=10, tasks=40)
    for objective in bank.objectives:
        path = tmp_path / f"{objective}.onnx"
        export(bank, path, request=Request(target=target, objective=objective))
        x = inputs(bank, 1)
        got = run(path, **feeds(x, [], [], infer=True))["task_scores"]
        want = numpy_scores(bank, x, spread([], [], 40), objective)
        assert relative(got, want) <= TOLERANCE[target]


def test_unequal_lengths_are_an_error(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=4)
    export(bank, tmp_path / "out.onnx")
    for tasks, alphas in (([0, 1], [1.0]), ([3, 1, 2], [1.0]), ([0], [0.5, 0.5]), ([], [1.0])):
        with pytest.raises(Exception, match=r"MatMul|ShapeInferenceError|INVALID_ARGUMENT|FAIL"):
            run(tmp_path / "out.onnx", **feeds(inputs(bank, 1), tasks, alphas, infer=False))


def test_nothing_selected_is_the_mask_of_zeros(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    export(bank, tmp_path / "out.onnx")
    got = run(tmp_path / "out.onnx", **feeds(inputs(bank, 2), [], [], infer=False))
    np.testing.assert_array_equal(got["parameters"], 0)
    np.testing.assert_array_equal(got["logits"], 0)


def test_a_superposition_does_not_depend_on_the_order(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    export(bank, tmp_path / "out.onnx")
    x = inputs(bank, 2)
    one = run(tmp_path / "out.onnx", **feeds(x, [0, 2], [0.25, 0.75], infer=True))
    two = run(tmp_path / "out.onnx", **feeds(x, [2, 0], [0.75, 0.25], infer=True))
    assert relative(one["task_scores"], two["task_scores"]) <= 3e-7


@pytest.mark.parametrize("model", ["mlp-7-9", "cnn"])
@pytest.mark.parametrize("infer", [False, True])
def test_the_reference_evaluator_agrees(tmp_path: Path, model: str, *, infer: bool) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=6, real_outputs=4, tasks=3)
    path = tmp_path / "out.onnx"
    export(bank, path, request=Request(target="portable"))
    given: tuple[list[int], list[float]] = ([], []) if infer else ([1], [1.0])
    fed = feeds(inputs(bank, 2), *given, infer=infer)
    evaluator = ReferenceEvaluator(onnx.load(path))
    names = [value.name for value in evaluator.proto_.graph.output]
    by_numpy = dict(zip(names, evaluator.run(None, fed), strict=True))
    for name, value in run(path, **fed).items():
        if value.size:
            # the evaluator computes in float32 as well: both sides round
            assert relative(value, np.asarray(by_numpy[name])) <= 2e-5, name


@pytest.mark.parametrize("target", list(TOLERANCE))
@pytest.mark.parametrize("num_tasks", [1, 3, 8])
def test_state_is_selected_superposed_and_scored(
    tmp_path: Path, target: Target, num_tasks: int
) -> None:
    """The batch-normalised network, against torch's autograd through masks and statistics."""
    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=num_tasks)
    x, last = inputs(bank, 3), num_tasks - 1

    tasks = list(bank)

    def superpose(alphas: torch.Tensor) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        for p, weight in zip(bank.network.parameters, bank.network.weights(), strict=True):
            masks = np.stack([unpack_mask(task.masks[p.name], (p.size,)) for task in tasks])
            mixed = (alphas[:, None] * torch.from_numpy(masks.astype(np.float64))).sum(0)
            tensors[p.name] = torch.from_numpy(weight).double() * mixed.reshape(p.shape)
        for s in bank.network.state:
            values = torch.from_numpy(np.stack([t.state[s.name] for t in tasks])).double()
            tensors[s.name] = (alphas[:, None] * values).sum(0)
        return tensors

    for objective in bank.objectives:
        path = tmp_path / f"{objective}.onnx"
        export(bank, path, request=Request(target=target, objective=objective))
        alphas = torch.full((num_tasks,), 1 / num_tasks, dtype=torch.float64, requires_grad=True)
        logits = plain_cnn(superpose(alphas), torch.from_numpy(x).double())
        if objective == "entropy":
            value = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        else:
            value = torch.where(torch.arange(6) < 4, logits.detach(), logits).logsumexp(1).mean()
        (gradient,) = torch.autograd.grad(value, alphas)
        got = run(path, **feeds(x, [], [], infer=True))
        assert relative(got["task_scores"], -gradient.numpy()) <= TOLERANCE[target]
        one = run(path, **feeds(x, [last], [1.0], infer=False))
        tensors = superpose(torch.eye(num_tasks, dtype=torch.float64)[last])
        want = plain_cnn(tensors, torch.from_numpy(x).double())
        assert relative(one["logits"], want.detach().numpy()) <= LOGITS_TOLERANCE
        flat = np.concatenate([bank.task(last).state[s.name] for s in bank.network.state])
        np.testing.assert_array_equal(one["state"], flat)
