from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from banks import make_bank
from commands import run
from conftest import small_network
from supsup_export.bank_model.compose import OUTPUTS, Request
from supsup_export.bank_model.layout import lay_out, row_bytes
from supsup_export.bank_model.weights import packed_part, unpack
from supsup_export.checking import Findings
from supsup_export.exporter import export
from supsup_export.graph import Graph
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.bank.task import TaskMasks
from supsup_runtime.errors import BankError, InputError, ParityError
from supsup_runtime.model.metadata import ModelInfo
from supsup_runtime.model.session import open_session


@pytest.fixture
def real_bank(tmp_path: Path) -> MaskBank:
    return make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize("model", ["mlp-7-9", "cnn", "lenet-300-100"])
def test_the_model_is_valid_plain_and_small(tmp_path: Path, model: str, target: str) -> None:
    bank = make_bank(tmp_path / "masks", model, outputs=7, real_outputs=4, tasks=9)
    request = Request(target=target)  # type: ignore[arg-type]  # parametrised
    path = export(bank, tmp_path / "out.onnx", request=request).path
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    assert loaded.ir_version == 8
    assert {o.domain: o.version for o in loaded.opset_import}[""] == 18
    assert not loaded.functions
    if target == "portable":
        assert {o.domain for o in loaded.opset_import} == {""}
    network = bank.network
    limit = 1.10 * 10 * row_bytes(network) + 2 * network.num_masked + (64 << 10)
    assert path.stat().st_size - 4 * 9 * network.num_state <= limit


def test_an_upgraded_bank_gives_the_same_model(tmp_path: Path, real_bank: MaskBank) -> None:
    network, forward, gradient = real_bank.network, real_bank.forward, real_bank.gradient
    old = MaskBank.create(tmp_path / "old", network, forward=forward, gradient=gradient)
    index = old.path / "bank.json"
    index.write_text(index.read_text().replace('"format": 2', '"format": 1'))
    old = MaskBank.open(old.path)
    old.extend(real_bank)
    numbers = {"threshold": 1.0, "coverage": 1.0, "images": 10, "auroc": None, "accepted": None}
    old.set_calibration(Calibration.from_dict({"score": "entropy", **numbers}))
    before = export(old, tmp_path / "before.onnx").path.read_bytes()
    old.upgrade()
    assert MaskBank.open(old.path).format == 2
    assert export(old, tmp_path / "after.onnx").path.read_bytes() == before
    calibrations = [tmp_path / "old" / "calibration.json", real_bank.path / "calibration.json"]
    calibrations[0].unlink()
    plain = export(old, tmp_path / "plain.onnx").path.read_bytes()
    assert plain != before
    # task files of another format have other hashes, the models nothing else
    revision, other = old.revision.encode(), real_bank.revision.encode()
    assert revision != other
    new = export(real_bank, tmp_path / "new.onnx").path.read_bytes()
    assert new == plain.replace(revision, other)


def test_equal_banks_give_equal_bytes(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        bank = make_bank(tmp_path / name, "cnn", outputs=6, real_outputs=4, tasks=2)
        paths.append(export(bank, tmp_path / f"{name}.onnx").path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_optimised_model_keeps_selected_masks_packed(tmp_path: Path) -> None:
    """ONNX Runtime must not fold the bank into 32 bits per weight."""
    import onnxruntime

    bank = make_bank(tmp_path / "masks", "lenet-300-100", outputs=10, real_outputs=10, tasks=40)
    request = Request(target="portable", outputs=("logits",))
    path = export(bank, tmp_path / "out.onnx", request=request).path
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    weights = 4 * bank.network.num_masked  # folded once, as intended
    assert (tmp_path / "optimised.onnx").stat().st_size < path.stat().st_size + 1.1 * weights


@pytest.mark.parametrize(
    ("outputs", "inputs", "mode"),
    [
        (("logits",), ["x", "tasks", "alphas"], "known"),
        (("logits", "parameters"), ["x", "tasks", "alphas"], "known"),
        (("task", "logits"), ["x"], "infer"),
        (("task_scores",), ["x"], "infer"),
        (("log_odds",), ["x", "tasks", "alphas"], "known"),
        (("task", "logits", "log_odds"), ["x"], "infer"),
        ((*OUTPUTS[:4], "log_odds"), ["x", "tasks", "alphas", "infer", "per_image"], "full"),
        (OUTPUTS[:4], ["x", "tasks", "alphas", "infer", "per_image"], "full"),
    ],
)
def test_outputs_trim_the_graph(
    tmp_path: Path, real_bank: MaskBank, outputs: tuple[str, ...], inputs: list[str], mode: str
) -> None:
    report = export(real_bank, tmp_path / "out.onnx", request=Request(outputs=outputs))
    session = open_session(report.path, place="out.onnx")
    assert list(session.input_names) == inputs
    assert set(session.output_names) == set(outputs)
    assert report.info.mode == mode
    assert ("MatMulNBits" in str(onnx.load(report.path).graph)) == (mode != "known")


def test_known_tasks_need_no_gradient_program(tmp_path: Path, real_bank: MaskBank) -> None:
    bank = MaskBank.create(tmp_path / "b", real_bank.network, forward=real_bank.forward)
    bank.extend(real_bank)
    with pytest.raises(BankError, match=r"no gradient program.*--graph-outputs logits"):
        export(bank, tmp_path / "out.onnx")
    export(bank, tmp_path / "out.onnx", request=Request(outputs=("logits", "parameters")))


def test_metadata_say_what_the_model_is(tmp_path: Path, real_bank: MaskBank) -> None:
    report = export(real_bank, tmp_path / "out.onnx", sidecar=True)
    info = ModelInfo.from_metadata(open_session(report.path, place="m").metadata, place="m")
    assert info == report.info
    assert info.forward == real_bank.forward
    assert [task.name for task in info.tasks] == list(real_bank.task_names)
    assert info.tasks[0].labels == ("no", "yes")
    assert (tmp_path / "out.onnx.json").exists()


@pytest.mark.parametrize("model", ["mlp-7-9", "cnn"])
def test_task_0_stays_bit_identical(tmp_path: Path, model: str) -> None:
    """Other tasks do not affect it; in the authors' code they do (FACTS, issues 10 and 11)."""
    bank = make_bank(tmp_path / "masks", model, outputs=6, real_outputs=4, tasks=3)
    shape = (4, *bank.network.input_shape)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    outputs = ["logits", "parameters", *(["state"] if bank.network.state else [])]

    def answers() -> list[bytes]:
        path = export(MaskBank.open(bank.path), tmp_path / "o.onnx", force=True).path
        session = open_session(path, place="o.onnx")
        one = np.ones(1, np.float32)
        feeds = {"x": x, "tasks": np.array([0]), "alphas": one, "infer": np.array(False)}
        return [a.tobytes() for a in session.run(outputs, feeds)]

    before = answers()
    extra = make_bank(tmp_path / "more", model, outputs=6, real_outputs=4, tasks=8)
    bank.extend(task.renamed(f"new-{i}") for i, task in enumerate(extra))
    assert answers() == before
    bank.remove("task-1")
    bank.rename("task-0", "first")
    assert answers() == before


def test_an_empty_bank_is_refused(tmp_path: Path) -> None:
    bank = MaskBank.create(tmp_path / "masks", small_network(), forward=b"f", gradient=b"g")
    with pytest.raises(BankError, match="the bank has no tasks; train or add one first"):
        export(bank, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_over_2_gb_is_refused(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supsup_export.graph.MAX_MODEL_BYTES", 100)
    with pytest.raises(BankError, match="one ONNX file holds at most 100 bytes, these 3 tasks"):
        export(real_bank, tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("request_of", "message"),
    [
        (lambda: Request(outputs=("logit",)), "must be among .* got 'logit'"),
        (lambda: Request(outputs=()), "got none"),
        (lambda: Request(outputs=("state", "logits")), "this network has no 'state'"),
    ],
)
def test_outputs_are_checked(
    tmp_path: Path, real_bank: MaskBank, request_of: type[Request], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(real_bank, tmp_path / "out.onnx", request=request_of())


def test_an_objective_the_network_lacks_is_refused(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=6, tasks=2)
    with pytest.raises(BankError, match=r"one of \['entropy'\] for this network \(0 superfluous"):
        export(bank, tmp_path / "out.onnx", request=Request(objective="superfluous"))


def test_a_calibration_that_the_network_cannot_have_makes_no_model(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=6, tasks=2)
    numbers = {"threshold": 1.0, "coverage": 1.0, "images": 10, "auroc": None, "accepted": None}
    bank.set_calibration(Calibration.from_dict({"score": "log-odds", **numbers}))
    with pytest.raises(BankError, match="score log-odds needs superfluous outputs"):
        export(bank, tmp_path / "out.onnx", check=False)
    assert not (tmp_path / "out.onnx").exists()


def test_each_task_is_read_once_to_lay_out_and_once_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = make_bank(tmp_path / "masks", "cnn", outputs=6, real_outputs=4, tasks=64)
    reads, task = [0] * 64, MaskBank.task

    def counted(self: MaskBank, key: int | str) -> TaskMasks:
        reads[self.index(key)] += 1
        return task(self, key)

    monkeypatch.setattr(MaskBank, "task", counted)
    words = ("--bank", bank.path, tmp_path / "out.onnx", "--force", "--scoring", "screened")
    run("supsup-export", *words, "--no-check")
    assert reads == [1] * 64
    run("supsup-export", *words)
    assert reads == [3] * 64


def test_a_damaged_task_is_refused_before_anything_is_written(
    tmp_path: Path, real_bank: MaskBank
) -> None:
    file = real_bank.path / "tasks" / "task-2.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for words in (["--no-check"], [], ["--hopfield"]):
        done = run("supsup-export", "--bank", real_bank.path, tmp_path / "o.onnx", *words, status=3)
        assert f"{file}: the file is damaged or was changed: SHA-256 must be" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


def test_an_array_given_again_is_not_looked_at_again(real_bank: MaskBank) -> None:
    graph, layout = Graph(), lay_out(real_bank)
    name = packed_part(graph, layout, 0)
    layout.masks[:] = 0  # shows whether it is read again
    assert packed_part(graph, layout, 0) == name
    assert graph.constant(np.arange(3)) == graph.constant(np.arange(3)) != name


def test_the_check_sees_wrong_scores(
    tmp_path: Path, real_bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, peaks: object = None, **_others: object) -> float:
        return 1.0 if peaks is None else 1e-12

    monkeypatch.setattr("supsup_export.bank_model.parity.score_tolerance", none)
    monkeypatch.setattr("supsup_export.bank_model.parity.MOVED", 0.0)
    with pytest.raises(ParityError, match="task_scores at all differs by"):
        export(real_bank, tmp_path / "out.onnx")


@pytest.mark.parametrize("outputs", [("task", "parameters"), ("task", "logits")])
def test_the_check_sees_the_wrong_mask_after_inferring(
    tmp_path: Path,
    real_bank: MaskBank,
    monkeypatch: pytest.MonkeyPatch,
    outputs: tuple[str, ...],
) -> None:
    """A graph that infers one task but runs others must not pass."""

    def more(graph: Graph, packed: str) -> str:
        return graph.op("Add", unpack(graph, packed), graph.constant(np.float32(1)))

    monkeypatch.setattr("supsup_export.bank_model.weights.unpack", more)
    with pytest.raises(ParityError, match=f"{outputs[1]} inferred differs by"):
        export(real_bank, tmp_path / "out.onnx", request=Request(outputs=outputs))


@pytest.mark.parametrize(
    ("part", "request_", "message"),
    [
        ("inference.row_scores", Request(), "task_scores of row 0 differs by"),
        (
            "shortlist.row_products",
            Request(scoring="screened"),
            "task_scores at all differs by",
        ),
        (
            "shortlist.row_products",
            Request(scoring="rounded"),
            "task_scores at all differs by",
        ),
    ],
)
def test_the_check_sees_wrong_scores_of_every_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    request_: Request,
    message: str,
) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-64-48", outputs=20, real_outputs=6, tasks=70)
    module, name = part.split(".")
    right = getattr(sys.modules[f"supsup_export.bank_model.{module}"], name)

    def doubled(graph: Graph, *arguments: object) -> str:
        return graph.op("Mul", right(graph, *arguments), graph.constant(np.float32(2)))

    monkeypatch.setattr(f"supsup_export.bank_model.{part}", doubled)
    with pytest.raises(ParityError, match=message):
        export(bank, tmp_path / "out.onnx", request=request_)
    assert not (tmp_path / "out.onnx").exists()


def test_nan_does_not_pass_the_check() -> None:
    findings = Findings()
    findings.compare("logits x", np.array([np.nan]), np.array([1.0]), 1e-4)
    findings.compare("logits x", np.zeros(2), np.zeros(3), 1e-4)
    assert len(findings.failures) == 2
