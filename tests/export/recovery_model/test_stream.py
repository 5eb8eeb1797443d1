from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from banks import make_bank
from commands import run
from stores import store_bank
from supsup_export.exporter import export_recovery
from supsup_export.graph import constants_of
from supsup_export.recovery_model.parity import check_stream
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import ModelError, ParityError
from supsup_runtime.hopfield.file import encode_into, read_store
from supsup_runtime.model.model import load
from supsup_runtime.model.session import Session, open_session
from supsup_runtime.recovery.descent import Descent, Recovery, constant, linear
from supsup_runtime.recovery.model import HopfieldModel, load_hopfield

Array = np.ndarray[Any, np.dtype[Any]]
KINDS = ("units", "units, float16", "weights")
CONTRACT = Path(__file__).resolve().parents[3] / "docs" / "CONTRACT.md"
_FOLDER = TemporaryDirectory()


class Made(NamedTuple):
    """A bank with a store, and what is exported of it."""

    bank: MaskBank
    path: Path
    stream: Session
    model: HopfieldModel


@cache
def made(kind: str) -> Made:
    """Units: BNNet, with state. Weights: a network without state."""
    folder = Path(_FOLDER.name) / kind
    dtype = "float16" if kind.endswith("16") else "float32"
    if kind == "weights":
        bank = make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
        encode_into(bank, bank.task_names)
    else:
        bank = store_bank(folder / "masks", tasks=3, dtype=dtype)
    export_recovery(bank, folder / "stream.onnx", stream=True)
    export_recovery(bank, folder / "step.onnx")
    stream = open_session(folder / "stream.onnx", place="stream.onnx")
    return Made(bank, folder / "stream.onnx", stream, load_hopfield(folder / "step.onnx"))


def stream_of(kind: str, steps: int, rows: int) -> dict[str, Array]:
    """A random stream with the paper's schedule, with a stronger energy, so that masks change."""
    shape = (steps, rows, *made(kind).bank.network.input_shape)
    x = np.random.default_rng(steps + rows).standard_normal(shape).astype(np.float32)
    shares = np.array([linear(step, steps) for step in range(steps)], np.float32)
    strengths = shares.reshape(steps, 2) * np.array([1, 0.02], np.float32)
    return {
        "batches": x,
        "entropy_strengths": np.ascontiguousarray(strengths[:, 0]),
        "energy_strengths": np.ascontiguousarray(strengths[:, 1]),
    }


def in_one_call(kind: str, feeds: dict[str, Array]) -> dict[str, Array]:
    session = made(kind).stream
    found = session.run(session.output_names, feeds)
    return dict(zip(session.output_names, found, strict=True))


def step_by_step(kind: str, feeds: dict[str, Array], how: Recovery) -> dict[str, Array]:
    """The runtime's own descent, to its end or to a step that is not finite."""
    model = made(kind).model
    start = model.store.mean if isinstance(how.start, str) else how.start
    descent = Descent(start, how)
    masks, looks = [], []
    for x, *strengths in zip(*feeds.values(), strict=True):
        masks.append(descent.mask == 1)
        step = model.step(x, descent.mask, *map(float, strengths), statistics=how.statistics)
        looks.append((step.entropy, step.energy))
        if not descent.step(step.gradient):
            break
    entropy, energy = np.array(looks, np.float64).reshape(-1, 2).T
    return {
        "mask": descent.mask,
        "next_scores": descent.scores,
        "entropy": entropy,
        "energy": energy,
        "masks": np.array(masks, np.bool_).reshape(-1, len(start)),
    }


def assert_same(got: dict[str, Array], want: dict[str, Array]) -> None:
    """Compare masks exactly, and other values to 1e-5 of the largest.

    These are float32 sums of some hundred terms, each rounded by 6e-8, whose order may differ.
    """
    for name, value in want.items():
        assert got[name].shape == value.shape, name
        if got[name].dtype == np.bool_ or name == "mask":
            np.testing.assert_array_equal(got[name], value, name)
        else:
            scale = float(np.abs(value).max(initial=0))
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "rows"), [(9, 8), (4, 7), (1, 5), (5, 1)])
def test_a_call_takes_the_steps_of_the_runtime(kind: str, steps: int, rows: int) -> None:
    feeds = stream_of(kind, steps, rows)
    got = in_one_call(kind, feeds)
    assert_same(got, step_by_step(kind, feeds, Recovery()))
    assert set(np.unique(got["mask"])) <= {0, 1}
    if steps > 1:
        assert (got["masks"] != got["masks"][0]).any()  # the masks changed
    assert [got[name].dtype for name in ("mask", "masks")] == [np.float32, np.bool_]


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_may_set_everything(kind: str) -> None:
    size = made(kind).bank.network.num_masked
    start = np.random.default_rng(1).uniform(-1, 1, size).astype(np.float32)
    how = Recovery(step_size=70, momentum=0.5, weight_decay=0.01, start=start, statistics="running")
    feeds = stream_of(kind, 6, 5)
    own: dict[str, Array] = {
        "scores": start,
        "step_size": np.array(70, np.float32),
        "momentum": np.array(0.5, np.float32),
        "weight_decay": np.array(0.01, np.float32),
    }
    if kind != "weights":
        own["state"] = made(kind).model.store.state
    got = in_one_call(kind, feeds | own)
    assert_same(got, step_by_step(kind, feeds, how))
    with pytest.raises(AssertionError):
        assert_same(in_one_call(kind, feeds), got)


def test_what_may_be_left_out_has_the_values_of_the_contract() -> None:
    feeds = stream_of("units", 3, 4)
    store = made("units").model.store
    state = store.state.copy()
    state[[0, 131]] = 1  # the blends, each followed by two statistics of 65 and of 33 units
    said = {
        "scores": store.mean,
        "velocity": np.zeros(98, np.float32),
        "step_size": np.array(500, np.float32),
        "momentum": np.array(0.9, np.float32),
        "weight_decay": np.array(1e-4, np.float32),
        "state": state,
    }
    assert set(said | feeds) == set(made("units").stream.input_names)
    assert set(made("weights").stream.input_names) == set(said | feeds) - {"state"}
    for name, value in in_one_call("units", feeds | said).items():
        np.testing.assert_array_equal(in_one_call("units", feeds)[name], value)


def test_a_batch_of_one_row_has_the_statistics_of_the_store_whatever_the_blend() -> None:
    feeds, store = stream_of("units", 3, 1), made("units").model.store
    default, running = (
        in_one_call("units", feeds),
        in_one_call("units", feeds | {"state": store.state}),
    )
    for name, value in running.items():
        np.testing.assert_array_equal(default[name], value)
    assert (default["entropy"] < np.log(5)).all()  # rows are not normalised to 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_two_calls_in_a_row_are_one(kind: str, cut: int) -> None:
    feeds = stream_of(kind, 6, 7)
    whole = in_one_call(kind, feeds)
    first = in_one_call(kind, {name: value[:cut] for name, value in feeds.items()})
    onward = {"scores": first["next_scores"], "velocity": first["next_velocity"]}
    second = in_one_call(kind, {name: value[cut:] for name, value in feeds.items()} | onward)
    for name in ("mask", "next_scores", "next_velocity"):
        np.testing.assert_array_equal(second[name], whole[name])
    for name in ("entropy", "energy", "masks"):
        np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), whole[name])


@pytest.mark.parametrize("kind", KINDS)
def test_no_steps_change_nothing(kind: str) -> None:
    size = made(kind).bank.network.num_masked
    rng = np.random.default_rng(2)
    onward = {name: rng.standard_normal(size).astype(np.float32) for name in ("scores", "velocity")}
    onward["scores"][:2] = 0, -0.0  # both are at least 0
    got = in_one_call(kind, stream_of(kind, 0, 5) | onward)
    np.testing.assert_array_equal(got["next_scores"], onward["scores"])
    np.testing.assert_array_equal(got["next_velocity"], onward["velocity"])
    np.testing.assert_array_equal(got["mask"], onward["scores"] >= 0)
    shapes = [got[name].shape for name in ("entropy", "energy", "masks")]
    assert shapes == [(0,), (0,), (0, size)]


def test_it_is_the_way_that_recover_goes() -> None:
    feeds = stream_of("units", 8, 6)
    feeds["entropy_strengths"][:] = 1
    feeds["energy_strengths"][:] = 0.02
    found = made("units").model.recover(
        list(feeds["batches"]),
        schedule=constant,
        settings=Recovery(energy_strength=0.02, look_every=0),
    )
    got = in_one_call("units", feeds)
    np.testing.assert_allclose(got["entropy"], found.trace.entropy, rtol=1e-5)
    np.testing.assert_allclose(got["energy"], found.trace.energy, rtol=1e-5)


def test_a_step_to_infinity_is_not_taken_and_ends_the_stream() -> None:
    feeds = stream_of("units", 4, 5)
    feeds["energy_strengths"] *= [0, 1000, 1000, 1000]
    how = Recovery(step_size=1e38, weight_decay=0)
    own = {"step_size": np.array(1e38, np.float32), "weight_decay": np.array(0, np.float32)}
    got = in_one_call("units", feeds | own)
    assert len(got["entropy"]) == 2
    assert np.isfinite([got["next_scores"], got["next_velocity"]]).all()
    assert_same(got, step_by_step("units", feeds, how))


def test_nan_ends_the_stream() -> None:
    feeds = stream_of("units", 4, 5)
    whole = in_one_call("units", {name: value[:2] for name, value in feeds.items()})
    feeds["batches"][2, 1, 3] = np.nan
    got = in_one_call("units", feeds)
    np.testing.assert_array_equal(np.isnan(got["entropy"]), [False, False, True])
    for name in ("mask", "next_scores", "next_velocity"):
        np.testing.assert_array_equal(got[name], whole[name])


def test_shapes_that_do_not_fit_are_refused_by_onnx_runtime() -> None:
    feeds = stream_of("units", 4, 5)
    feeds["entropy_strengths"] = feeds["entropy_strengths"][:3]
    with pytest.raises(Exception, match=r"(?i)out of .*bounds"):
        in_one_call("units", feeds)


def test_loading_says_what_it_is_for() -> None:
    path = made("units").path
    for opened in (load, load_hopfield):
        with pytest.raises(ModelError, match=r"stream.onnx: .* hosts that call ONNX Runtime thems"):
            opened(path)


def test_equal_banks_give_equal_bytes(tmp_path: Path) -> None:
    bank = made("units").bank
    export_recovery(MaskBank.open(bank.path), tmp_path / "again.onnx", stream=True, check=False)
    assert (tmp_path / "again.onnx").read_bytes() == made("units").path.read_bytes()


def test_a_file_that_holds_half_precision_is_smaller() -> None:
    """Two matrices of 65 and 33 units, two bytes per element less."""
    sizes = [made(kind).path.stat().st_size for kind in ("units", "units, float16")]
    assert sizes[0] - sizes[1] > 2 * (65**2 + 33**2) - 2000


def test_the_command(tmp_path: Path) -> None:
    bank, out = made("units").bank.path, tmp_path / "out.onnx"
    told = run("supsup-export", "--hopfield", "--stream", "--bank", bank, out, "--json").stdout
    said = json.loads(told)
    assert (said["mode"], said["num_tasks"]) == ("recover-stream", 3)
    assert set(said["parity"]) == {"entropy", "energy", "next_scores"}
    assert out.read_bytes() == made("units").path.read_bytes()
    assert json.loads(run("supsup-inspect", out, "--json").stdout)["mode"] == "recover-stream"
    alone = run("supsup-export", "--stream", "--bank", bank, tmp_path / "no.onnx", status=1)
    assert "--stream: requires --hopfield; add it, or leave out --stream" in alone.stderr
    assert not (tmp_path / "no.onnx").exists()


def damaged(path: Path, initializer: str, value: Array) -> None:
    model = onnx.load(made("units").path)
    constants_of(model.graph)[initializer].CopyFrom(numpy_helper.from_array(value, initializer))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("initializer", "value", "message"),
    [
        (
            "scores",
            np.ones(98, np.float32),
            "the mask of step 0 differs in .* places",
        ),
        ("step_size", np.array(499, np.float32), "next_scores differs by"),
        ("momentum", np.array(0.8, np.float32), "next_scores differs by|the mask"),
        ("weight_decay", np.array(0.1, np.float32), "next_scores differs by|the mask"),
        ("velocity", np.ones(98, np.float32), "the mask of step 1 differs in"),
        ("state", np.zeros(198, np.float32), "entropy differs by|the mask"),
    ],
)
def test_a_model_that_differs_is_refused(
    tmp_path: Path, initializer: str, value: Array, message: str
) -> None:
    bank = made("units").bank
    damaged(tmp_path / "bad.onnx", initializer, value)
    with pytest.raises(ParityError, match=message):
        check_stream(tmp_path / "bad.onnx", bank, read_store(bank), place="bad.onnx")


def test_a_model_that_takes_no_step_is_refused(tmp_path: Path) -> None:
    bank, model = made("units").bank, onnx.load(made("units").path)
    (loop,) = [node for node in model.graph.node if node.op_type == "Loop"]
    (go,) = [node.input[0] for node in model.graph.node if loop.input[1] in node.output]
    damaged(tmp_path / "bad.onnx", go, np.array(False))
    with pytest.raises(ParityError, match=r"masks must have shape \(3, 98\), got \(0, 98\)"):
        check_stream(tmp_path / "bad.onnx", bank, read_store(bank), place="bad.onnx")


def test_the_example_of_the_contract_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports only onnxruntime and numpy; the stream's last batch is shorter."""
    section = CONTRACT.read_text().split("\n## Recovering a stream in one call\n")[1]
    code = re.findall(r"^```python\n(import .*?)^```$", section, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "stream.onnx").write_bytes(made("units").path.read_bytes())
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(4).standard_normal((64 * 3 + 10, 30)).astype(np.float32)
    names: dict[str, Any] = {"images": images}
    exec(compile(code, str(CONTRACT), "exec"), names)  # noqa: S102 - the page is ours
    assert set(names) >= {"mask", "onnxruntime"}
    share = np.arange(1, 5, dtype=np.float32) / 4
    feeds: dict[str, Any] = {
        "batches": [images[start : start + 64] for start in range(0, len(images), 64)],
        "entropy_strengths": 1 - share,
        "energy_strengths": np.float32(1.5e-3) * share,
    }
    want = step_by_step("units", feeds, Recovery())
    np.testing.assert_array_equal(names["mask"], want["mask"])
    assert_same({"next_scores": names["scores"]}, {"next_scores": want["next_scores"]})
