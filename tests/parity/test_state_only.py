"""Banks whose tasks have only state: export, runtime and commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from commands import run
from parity.plain import numpy_logits
from supsup_export import exporter
from supsup_export.bank_model.compose import Request
from supsup_export.bank_model.layout import lay_out
from supsup_export.exporter import export, export_task
from supsup_export.graph import constants_of
from supsup_runtime import load
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.task import decode_task, encode_task, make_task
from supsup_runtime.errors import BankError, InputError, ParityError
from supsup_runtime.model.inference import Inference
from supsup_runtime.model.metadata import Scoring, Target
from supsup_runtime.model.session import open_session
from supsup_runtime.objectives import Score
from supsup_train.networks.create_bank import create_bank
from supsup_train.networks.models import Mlp
from supsup_train.programs.programs import ProgramError, export_programs

Array = npt.NDArray[Any]
SIZES = [5, 7, 9, 6]
REAL = 4
# float32 sums of at most 9 terms in three layers, forward and back, against float64: some 100
# roundings of 6e-8, of values within a factor of ten of the largest.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    torch.manual_seed(1)
    module = Mlp(SIZES)
    names = [f"layers.{i}.weight" for i in range(3)]
    folder = tmp_path_factory.mktemp("state") / "bank"
    return create_bank(folder, module, input_shape=(5,), real_outputs=REAL, masked=[], state=names)


@pytest.fixture
def make(tmp_path: Path, programs: MaskBank) -> Callable[[int], MaskBank]:
    def made(tasks: int) -> MaskBank:
        bank = MaskBank.create(
            tmp_path / f"bank-{tasks}",
            programs.network,
            forward=programs.forward,
            gradient=programs.gradient,
        )
        for i in range(tasks):
            rng = np.random.default_rng(i)
            shapes = {s.name: s.shape for s in bank.network.state}
            state = {
                name: rng.standard_normal(shape).astype(np.float32)
                for name, shape in shapes.items()
            }
            bank.add(make_task(f"task-{i}", {}, state=state))
        return bank

    return made


def layers_of(bank: MaskBank) -> list[Array]:
    """Return a float64 ``(tasks, out, in)`` per layer."""
    names = [s.name for s in bank.network.state]
    return [np.stack([task.state[n] for task in bank]).astype(np.float64) for n in names]


def scores_by_hand(stacked: list[Array], x: Array, alphas: Array, objective: str) -> Array:
    """``-sum state_i * dO/dstate`` at a superposition, in float64."""
    layers = [np.tensordot(alphas, values, axes=1) for values in stacked]
    hidden: list[Array] = [x.astype(np.float64)]
    for layer in layers[:-1]:
        hidden.append(np.maximum(hidden[-1] @ layer.T, 0))
    logits = hidden[-1] @ layers[-1].T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    if objective == "entropy":
        delta = p * ((p * np.log(p)).sum(1, keepdims=True) - np.log(p))
    else:
        delta = p * (np.arange(p.shape[1]) >= REAL)
    delta /= len(x)
    scores = np.zeros(len(alphas))
    for i in reversed(range(3)):
        scores -= np.tensordot(stacked[i], delta.T @ hidden[i], axes=2)
        delta = (delta @ layers[i]) * (hidden[i] > 0)
    return scores


def images(rows: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(9).standard_normal((rows, 5)).astype(np.float32)


def close(got: Array, want: Array) -> bool:
    return bool(np.abs(got - want).max() <= TOLERANCE * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("target", ["cpu", "portable", "cuda"])
@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
@pytest.mark.parametrize("objective", ["entropy", "superfluous"])
def test_one_shot_equals_numpy(
    tmp_path: Path, make: Callable[[int], MaskBank], tasks: int, target: Target, objective: str
) -> None:
    bank = make(tasks)
    request = Request(target=target, objective=objective)
    model = load(export(bank, tmp_path / "out.onnx", request=request).path)
    stacked, x = layers_of(bank), images(3)
    want = scores_by_hand(stacked, x, np.full(tasks, 1 / tasks), objective)
    inference = model.infer_task(x, method="one-shot")
    assert close(inference.scores, want)
    assert inference.task.index == want.argmax()
    for index in range(tasks):
        got = model.predict(x, index).logits
        assert close(got, numpy_logits(x, [values[index] for values in stacked]))
    rows = images(30)  # enough for one pass over all rows
    found = model.infer_tasks(rows, method="one-shot")
    by_row = [scores_by_hand(stacked, r[None], np.full(tasks, 1 / tasks), objective) for r in rows]
    assert close(np.stack([one.scores for one in found]), np.stack(by_row))
    mixed = model.superpose(x, list(range(tasks)), np.linspace(0.2, 0.7, tasks))
    layers = [np.tensordot(np.linspace(0.2, 0.7, tasks), v, axes=1) for v in stacked]
    assert close(mixed, numpy_logits(x, layers))


@pytest.mark.parametrize("score", ["entropy", "max-probability", "log-odds"])
def test_every_task_is_tried(tmp_path: Path, make: Callable[[int], MaskBank], score: Score) -> None:
    bank = make(3)
    model = load(export(bank, tmp_path / "out.onnx").path)
    x = images(1)
    inference = model.infer_task(x, method=Inference(method="exhaustive", score=score))
    logits = np.stack([numpy_logits(x, [v[i] for v in layers_of(bank)])[0] for i in range(3)])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    real, other = np.exp(logits[:, :REAL]).sum(1), np.exp(logits[:, REAL:]).sum(1)
    judged: dict[str, Array] = {
        "entropy": (p * np.log(p)).sum(1),
        "max-probability": p.max(1),
        "log-odds": np.log(real / other),
    }
    assert inference.task.index == judged[score].argmax()


def test_the_model_has_no_parameters_and_no_mask_machinery(
    tmp_path: Path, make: Callable[[int], MaskBank]
) -> None:
    bank = make(8)
    path = export(bank, tmp_path / "out.onnx").path
    loaded = onnx.load(path)
    names = set(constants_of(loaded.graph))
    assert not names & {"masks", "signs", "bits", "plus_minus", "counts"}
    assert {o.domain for o in loaded.opset_import} == {""}
    session = open_session(path, place="out.onnx")
    fed = {
        "x": images(2),
        "tasks": np.array([1]),
        "alphas": np.ones(1, np.float32),
        "infer": np.array(False),
    }
    parameters, state = session.run(["parameters", "state"], fed)
    assert parameters.dtype == np.float32
    assert parameters.shape == (0,)
    want = np.concatenate([v.reshape(-1) for v in bank.task(1).state.values()])
    np.testing.assert_array_equal(np.sort(state), np.sort(want))
    single = export_task(bank, "task-1", tmp_path / "one.onnx").path
    (logits,) = open_session(single, place="one.onnx").run(["logits"], {"x": images(2)})
    assert close(logits, numpy_logits(images(2), [v[1] for v in layers_of(bank)]))


@pytest.mark.parametrize("outputs", [("logits",), ("task", "logits"), ("state",)])
def test_the_other_modes(
    tmp_path: Path, make: Callable[[int], MaskBank], outputs: tuple[str, ...]
) -> None:
    bank = make(3)
    report = export(bank, tmp_path / "out.onnx", request=Request(outputs=outputs))
    assert report.info.mode == ("infer" if "task" in outputs else "known")
    x = images(2)
    if outputs == ("task", "logits"):
        want = scores_by_hand(layers_of(bank), x, np.full(3, 1 / 3), "superfluous").argmax()
        assert load(report.path).predict(x).task.index == want
    elif outputs == ("logits",):
        logits = load(report.path).predict(x, "task-2").logits
        assert close(logits, numpy_logits(x, [v[2] for v in layers_of(bank)]))


def test_weights_are_kept_by_state_alone(tmp_path: Path, make: Callable[[int], MaskBank]) -> None:
    bank = make(3)
    size = 4 * bank.network.num_state
    path = export(bank, tmp_path / "out.onnx", request=Request(outputs=("logits", "state"))).path
    model = load(path, cache_bytes=2 * size)
    for task in (0, 1, 2):
        model.predict(images(1), task)
    assert model.cached_bytes == 2 * size
    model.warmup([0, 2])


def test_a_wrong_model_is_refused(
    tmp_path: Path, make: Callable[[int], MaskBank], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check covers state: one number of the model differs from the bank."""
    bank = make(3)

    def off(given: MaskBank) -> object:
        layout = lay_out(given)
        layout.state[1, 4] += 0.5
        return layout

    monkeypatch.setattr(exporter, "lay_out", off)
    with pytest.raises(ParityError, match="state of tasks"):
        export(bank, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_what_needs_masks_is_refused(tmp_path: Path, make: Callable[[int], MaskBank]) -> None:
    bank = make(2)
    with pytest.raises(InputError, match=r"bits: 2 requires masked weights, .* has none"):
        export_task(bank, "task-0", tmp_path / "one.onnx", bits=2)
    scorings: tuple[Scoring, ...] = ("rounded", "screened")
    for scoring in scorings:
        request = Request(scoring=scoring)
        with pytest.raises(InputError, match=f"scoring {scoring}: needs .*masked weights|at least"):
            export(bank, tmp_path / "out.onnx", request=request)
    task = bank.task(0)
    masked = make_task("new", {"layers.0.weight": np.ones((7, 5), np.bool_)}, state=task.state)
    with pytest.raises(BankError, match="masks must be of"):
        bank.add(masked)
    with pytest.raises(BankError, match="a masked parameter or a state tensor, got neither"):
        replace(bank.network, state=())
    with pytest.raises(ProgramError, match="name at least one parameter to mask, or a tensor as"):
        export_programs(Mlp(SIZES), input_shape=(5,), parameters=[], state=[], real_outputs=4)


def test_a_task_file_without_masks_is_frozen(make: Callable[[int], MaskBank]) -> None:
    bank = make(1)
    task = bank.task(0)
    data = encode_task(task, bank.network, bank.digest)
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])
    header = json.loads(described.pop("__metadata__")["supsup"])
    assert header["lengths"] == []
    assert set(described) == {"state"}
    back = decode_task(data, bank.network, bank.digest, place="f")
    assert not back.masks
    assert back.density(bank.network) == 0.0
    for name, value in task.state.items():
        np.testing.assert_array_equal(back.state[name], value)


def test_the_commands(tmp_path: Path, make: Callable[[int], MaskBank]) -> None:
    bank, out = make(2), tmp_path / "out.onnx"
    report = json.loads(run("supsup-export", "--bank", bank.path, out, "--json").stdout)
    assert report["num_tasks"] == 2
    found = json.loads(run("supsup-inspect", out, "--json").stdout)
    assert (found["masked_weights"], found["state_elements"]) == (0, 5 * 7 + 7 * 9 + 9 * 6)
    assert "as 2 float32 models" not in run("supsup-inspect", bank.path).stdout
    listed = json.loads(run("supsup-bank", "list", bank.path, "--json").stdout)
    assert [task["density"] for task in listed] == [None, None]
    assert " - " in run("supsup-bank", "list", bank.path).stdout
