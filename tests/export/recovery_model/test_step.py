from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from banks import make_bank
from commands import run
from stores import store_bank, unit_task
from supsup_export.exporter import export_recovery
from supsup_export.graph import Graph, constants_of
from supsup_export.recovery_model import step
from supsup_export.recovery_model.parity import RecoveryCheck
from supsup_export.recovery_model.step import compose_recovery
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import BankError, OutputExistsError, ParityError
from supsup_runtime.hopfield.file import STORE_FILE, encode_into, read_store
from supsup_runtime.hopfield.metadata import HopfieldInfo
from supsup_runtime.hopfield.store import HopfieldStore
from supsup_runtime.model.metadata import PREFIX, ModelInfo
from supsup_runtime.model.session import open_session

INPUTS = ["x", "mask", "entropy_strength", "energy_strength", "state"]
OUTPUTS = [
    *("logits", "entropy", "energy", "entropy_gradient", "energy_gradient"),
    *("loss", "gradient"),
]


@pytest.fixture
def bank(tmp_path: Path) -> MaskBank:
    return store_bank(tmp_path / "masks")


@pytest.mark.parametrize("rule", ["hebb", "storkey"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_model_is_valid_and_plain(tmp_path: Path, rule: str, dtype: str) -> None:
    bank = store_bank(tmp_path / "masks", rule=rule, dtype=dtype)
    report = export_recovery(bank, tmp_path / "recover.onnx")
    assert report.parity is not None
    assert set(report.parity.worst) == set(OUTPUTS)
    assert max(report.parity.worst.values()) <= 1e-5
    loaded = onnx.load(report.path)
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.ir_version == 8
    assert {o.domain: o.version for o in loaded.opset_import} == {"": 18}
    assert not loaded.functions
    assert [value.name for value in loaded.graph.input] == INPUTS
    assert [value.name for value in loaded.graph.output] == OUTPUTS
    constants = constants_of(loaded.graph).values()
    kinds = {t.name: t.data_type for t in constants if t.dims[:] == [65, 65]}
    assert set(kinds.values()) == {
        onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.FLOAT
    }
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    info = ModelInfo.from_metadata(metadata, place="m")
    assert (info.mode, info.objective, info.target) == ("recover", "entropy", "portable")
    assert info.hopfield is not None
    assert (info.hopfield.rule, info.hopfield.dtype) == (rule, dtype)
    assert [task.name for task in info.tasks] == ["task-0", "task-1"]


def test_a_layer_is_in_the_graph_once(tmp_path: Path, bank: MaskBank) -> None:
    """The forward and the gradient program share their fixed weights."""
    loaded = onnx.load(export_recovery(bank, tmp_path / "recover.onnx").path)
    shapes = [tuple(t.dims) for t in constants_of(loaded.graph).values()]
    for layer in ((30, 65), (65, 33)):
        assert shapes.count(layer) + shapes.count(layer[::-1]) == 1


def test_state_may_be_left_out(tmp_path: Path, bank: MaskBank) -> None:
    session = open_session(export_recovery(bank, tmp_path / "recover.onnx").path, place="m")
    mean = np.concatenate([v.reshape(-1) for v in read_store(bank).mean_state().values()])
    feeds = {
        "x": np.ones((3, 30), np.float32),
        "mask": np.ones(98, np.float32),
        "entropy_strength": np.array(1, np.float32),
        "energy_strength": np.array(1, np.float32),
    }
    left_out = session.run(OUTPUTS, feeds)
    for got, want in zip(left_out, session.run(OUTPUTS, feeds | {"state": mean}), strict=True):
        np.testing.assert_array_equal(got, want)
    other = session.run(OUTPUTS, feeds | {"state": mean + 1})
    assert not np.array_equal(other[0], left_out[0])


def test_a_network_without_state_has_no_such_input(tmp_path: Path) -> None:
    """A store may also hold masks over weights, if they are few."""
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    encode_into(bank, bank.task_names)
    path = export_recovery(bank, tmp_path / "recover.onnx").path
    assert [value.name for value in onnx.load(path).graph.input] == INPUTS[:4]


def test_equal_banks_give_equal_bytes_and_a_sidecar(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        bank = store_bank(tmp_path / name)
        paths.append(export_recovery(bank, tmp_path / f"{name}.onnx", sidecar=True).path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    sidecar = json.loads((tmp_path / "a.onnx.json").read_text())
    assert sidecar[PREFIX + "mode"] == "recover"
    with pytest.raises(OutputExistsError):
        export_recovery(bank, paths[0])


def test_a_store_of_another_network_is_refused(tmp_path: Path, bank: MaskBank) -> None:
    other = HopfieldStore(bank.network, "another digest")
    other.encode(bank.task(0))
    with pytest.raises(BankError, match=f"must belong to network {bank.digest}, got another"):
        compose_recovery(bank, other)
    far = make_bank(tmp_path / "far", "mlp-7-9", outputs=6, real_outputs=4, tasks=1)
    (far.path / STORE_FILE).write_bytes((bank.path / STORE_FILE).read_bytes())
    with pytest.raises(BankError, match="the Hopfield store belongs to another network"):
        export_recovery(far, tmp_path / "recover.onnx")


def test_what_is_missing_is_said(
    tmp_path: Path, bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = make_bank(tmp_path / "none", "mlp-7-9", outputs=6, real_outputs=4, tasks=1)
    with pytest.raises(BankError, match=r"has no Hopfield store, .* supsup-hopfield encode"):
        export_recovery(none, tmp_path / "recover.onnx")
    with pytest.raises(BankError, match="the Hopfield store is empty; encode a task first"):
        compose_recovery(bank, HopfieldStore(bank.network, bank.digest))
    plain = MaskBank.create(tmp_path / "plain", bank.network, forward=bank.forward)
    plain.add(bank.task(0))
    encode_into(plain, plain.task_names)
    with pytest.raises(BankError, match="no gradient program, which recovery requires"):
        export_recovery(plain, tmp_path / "recover.onnx")
    monkeypatch.setattr("supsup_export.graph.MAX_MODEL_BYTES", 100)
    with pytest.raises(BankError, match=r"at most 100 bytes, .* take \d+; encode with --dtype"):
        export_recovery(bank, tmp_path / "recover.onnx")
    assert not (tmp_path / "recover.onnx").exists()


def test_the_check_sees_what_is_wrong(
    tmp_path: Path, bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong part of a model is refused, and nothing is written."""
    other = read_store(store_bank(tmp_path / "other", entropy=0.5))  # the same masks
    other.encode(unit_task(bank.network, "more", seed=9))
    path = tmp_path / "recover.onnx"
    path.write_text("precious")

    def refused(part: str, wrong: object, message: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(part, wrong)
            with pytest.raises(ParityError, match=message):
                export_recovery(bank, path, force=True)

    energy, default = step.add_energy, Graph.default
    refused(
        "supsup_export.recovery_model.step.add_energy",
        lambda graph, _, mask, names: energy(graph, other, mask, names=names),
        "energy differs",
    )
    refused(
        "supsup_export.recovery_model.step._times_weights",
        lambda graph, _, flat: graph.op("Mul", flat, graph.constant(np.float32(2))),
        "logits differs by",
    )
    refused(
        "supsup_export.graph.Graph.default",
        lambda graph, name, value: default(graph, name, value + 1),
        "logits differs by",
    )
    with monkeypatch.context() as patch:
        patch.setattr("supsup_export.recovery_model.step.HopfieldInfo", _Forgetful)
        with pytest.raises(ParityError, match="metadata hopfield must match the store"):
            export_recovery(bank, path, force=True)
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


class _Forgetful:
    """Metadata of a store without its entropies."""

    @staticmethod
    def of(store: HopfieldStore) -> HopfieldInfo:
        return replace(HopfieldInfo.of(store), entropies=(None,) * len(store))


def test_nan_does_not_pass_the_check(bank: MaskBank, tmp_path: Path) -> None:
    path = export_recovery(bank, tmp_path / "recover.onnx", check=False).path
    check = RecoveryCheck(path, bank, read_store(bank), place="m")
    want = {"energy": np.array(1.0), "terms": np.array(1.0)}
    check.compare("energy", np.array(np.nan), want, lambda: want)
    with pytest.raises(ParityError, match="energy differs by nan"):
        check.report()


def test_the_command(bank: MaskBank, tmp_path: Path) -> None:
    path = tmp_path / "recover.onnx"
    done = run("supsup-export", "--hopfield", "--bank", bank.path, path)
    assert f"{path}: recovers 2 tasks, {path.stat().st_size:,} bytes, checked" in done.stdout
    assert done.stderr == ""
    again = ["--hopfield", "--bank", bank.path, path]
    assert "exists" in run("supsup-export", *again, status=1).stderr
    said = json.loads(run("supsup-export", *again, "--force", "--json").stdout)
    assert (said["mode"], said["num_tasks"], said["bytes"]) == ("recover", 2, path.stat().st_size)
    assert set(said["parity"]) == set(OUTPUTS)
    unchecked = run("supsup-export", *again, "--force", "--no-check").stdout
    assert "not checked" in unchecked
    for option, value in (("--target", "cpu"), ("--task", "task-0"), ("--bits", 2)):
        done = run("supsup-export", *again, option, value, status=1)
        assert f"{option}: does not apply to a model that recovers masks; leave out" in done.stderr
    inspected = json.loads(run("supsup-inspect", path, "--json").stdout)
    assert inspected["hopfield"] == {"rule": "storkey", "dtype": "float32"}
    assert "times as much" not in run("supsup-inspect", path).stdout


def test_tasks_whose_entropy_is_not_known_are_named(tmp_path: Path) -> None:
    bank = store_bank(tmp_path / "masks", tasks=4, entropy=None)
    path = tmp_path / "recover.onnx"
    for options in (["--hopfield"], ["--hopfield", "--stream"]):
        done = run("supsup-export", *options, "--bank", bank.path, path, "--force")
        assert done.stderr.startswith(
            "supsup-export: 4 tasks have no recorded entropy "
            "(task-0, task-1, task-2, ...), so recovery cannot reject streams of unknown "
        )
        assert done.stderr.count("\n") == 1
