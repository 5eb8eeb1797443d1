"""Calibrate, export, run: the command, and what it measures by another way in numpy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

import supsup_runtime as supsup
from banks import make_bank
from commands import Done, run
from conftest import random_task
from supsup_export.bank_model.compose import Request
from supsup_export.exporter import export
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.calibration import Calibration
from supsup_runtime.data import load_dataset, make_stream
from supsup_runtime.errors import InputError
from supsup_runtime.evaluation import choose_samples, evaluate_task, measure
from supsup_runtime.files import exclusive
from supsup_runtime.model.inference import Inference, Method
from supsup_runtime.objectives import Score, evidence

Images = npt.NDArray[np.float32]
VERIFIED = Inference(method="verified")


def calibrate(*arguments: object, status: int = 0) -> Done:
    return run("supsup-calibrate", *arguments, status=status)


def loaded(folder: Path, *, tasks: int, real: int = 4) -> supsup.Model:
    bank = make_bank(folder / "masks", "mlp-7-9", outputs=6, real_outputs=real, tasks=tasks)
    export(bank, folder / "out.onnx", check=False)
    return supsup.load(folder / "out.onnx")


def samples(sizes: list[int]) -> list[Images]:
    rng = np.random.default_rng(len(sizes))
    return [rng.standard_normal((size, 5)).astype(np.float32) for size in sizes]


def best_by_hand(
    model: supsup.Model, x: Images, found: Calibration, candidates: int | None, without: int | None
) -> list[float]:
    """Best scores, with every pass made and every task ranked one image at a time."""
    best = []
    for image in x[:, None]:
        passes = [
            evidence(model.logits(image, i).astype(float), model.tasks[i].real_outputs, found.score)
            for i in range(model.num_tasks)
        ]
        if found.scale:
            passes = [s * p + t for s, p, t in zip(found.scale, passes, found.shift, strict=True)]
        order = np.argsort(-model.infer_task(image, method="one-shot").scores, kind="stable")
        left = [int(i) for i in order if i != without][:candidates]
        best.append(max(float(passes[i][0]) for i in left))
    return best


@pytest.mark.parametrize(
    ("method", "candidates"),
    [("exhaustive", None), ("verified", 1), ("verified", 2), ("verified", 4), ("verified", 9)],
)
@pytest.mark.parametrize("score", ["log-odds", "entropy", "max-probability"])
@pytest.mark.parametrize("sizes", [[1, 2], [7, 8, 9, 1, 2]])
def test_what_is_measured_is_numpys(
    tmp_path: Path, method: Method, candidates: int | None, score: Score, sizes: list[int]
) -> None:
    model, given = loaded(tmp_path, tasks=len(sizes)), samples(sizes)
    how = Inference(method=method, score=score, candidates=candidates)
    measured = measure(model, given, how=how, coverage=0.8)
    found = measured.calibration
    best = [best_by_hand(model, x, found, candidates, None) for x in given]
    held_out = [value for row in best for value in row[: -(-len(row) // 2)]]
    others = [value for row in best for value in row[-(-len(row) // 2) :]]
    assert (found.score, found.images) == (score, len(held_out))
    kept = sorted(held_out, reverse=True)[: int(np.ceil(0.8 * len(held_out)))]
    # float32 logits, of rows together and alone, differ by some 1e-6
    assert found.threshold == pytest.approx(kept[-1], rel=1e-5, abs=1e-5)
    assert found.coverage == len(kept) / len(held_out)
    assert found.accepted == np.mean([value >= kept[-1] for value in others])
    aurocs = []
    for left_out in range(len(sizes)):
        rows = [best_by_hand(model, x, found, candidates, left_out) for x in given]
        unknown = rows.pop(left_out)
        known = [value for row in rows for value in row]
        aurocs.append(roc_auc_score([1] * len(known) + [0] * len(unknown), known + unknown))
        rejected = np.mean([value < kept[-1] for value in unknown])
        assert measured.left_out[left_out].rejected == rejected
    assert [task.auroc for task in measured.left_out] == pytest.approx(aurocs, abs=1e-12)
    assert found.auroc == pytest.approx(np.mean(aurocs), abs=1e-12)


def test_a_bank_that_is_locked_is_noticed_before_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded(tmp_path, tasks=1)
    monkeypatch.setattr(
        "supsup_runtime.cli.calibrate.choose_samples", lambda *_: pytest.fail("measured")
    )
    with exclusive(tmp_path / "masks"):
        words = [tmp_path / "out.onnx", "permuted", "--bank", tmp_path / "masks"]
        assert "another process is writing" in calibrate(*words, status=1).stderr


def test_one_task_has_no_auroc_and_one_image_no_others(tmp_path: Path) -> None:
    measured = measure(loaded(tmp_path, tasks=1), samples([1]), how=VERIFIED, coverage=0.95)
    assert measured.left_out == ()
    assert (measured.calibration.auroc, measured.calibration.accepted) == (None, None)
    assert (measured.calibration.coverage, measured.calibration.images) == (1.0, 1)


def test_constant_images_tell_nothing_and_all_are_accepted(tmp_path: Path) -> None:
    """Zeros through a network without biases: every score is equal."""
    model = loaded(tmp_path, tasks=3)
    measured = measure(model, [np.zeros((5, 5), np.float32)] * 3, how=VERIFIED, coverage=0.5)
    assert measured.calibration.threshold == pytest.approx(np.log(2 / 4), abs=1e-12)  # own outputs
    assert measured.calibration.coverage == 1
    assert measured.calibration.accepted == 1
    assert [(task.auroc, task.rejected) for task in measured.left_out] == [(0.5, 0.0)] * 3


def test_without_superfluous_outputs_it_is_by_entropy(tmp_path: Path) -> None:
    model = loaded(tmp_path, tasks=3, real=6)
    given = samples([4, 4, 4])
    measured = measure(model, given, how=VERIFIED, coverage=0.9)
    assert measured.calibration.score == "entropy"
    assert measured.calibration.threshold <= 0  # minus an entropy
    how = Inference(method="verified", score="log-odds")
    with pytest.raises(InputError, match="score log-odds needs superfluous outputs"):
        measure(model, given, how=how, coverage=0.9)


@pytest.mark.parametrize(
    ("sizes", "method", "coverage", "message"),
    [
        ([2, 0], "verified", 0.9, r"samples must be at least one image .* got \[2, 0\]"),
        ([2], "verified", 0.9, r"of each of the 2 tasks, got \[2\]"),
        ([2, 2], "one-shot", 0.9, r"method must be one of .* got 'one-shot'"),
        ([2, 2], "exhaustive", 0.0, r"coverage must be in \(0, 1\], got 0"),
        ([2, 2], "exhaustive", 1.01, r"coverage must be in \(0, 1\], got 1.01"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, sizes: list[int], method: Method, coverage: float, message: str
) -> None:
    model = loaded(tmp_path, tasks=2)
    with pytest.raises(InputError, match=message):
        measure(model, samples(sizes), how=Inference(method=method), coverage=coverage)


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path, tasks=2)
    given = [samples([2])[0], np.full((2, 5), 3e38, np.float32)]  # overflows within
    with pytest.raises(InputError, match="logits are not finite in row 2: x is too large"):
        measure(model, given, how=VERIFIED, coverage=0.9)


def test_a_stale_calibration_is_left_out_and_said(tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=2)
    without = export(bank, tmp_path / "without.onnx", check=False)
    model = supsup.load(without.path)
    bank.set_calibration(measure(model, samples([4, 4]), how=VERIFIED, coverage=1).calibration)
    for outputs, kept in ((None, True), (("logits",), True), (("task", "logits"), False)):
        report = export(
            bank, tmp_path / "out.onnx", request=Request(outputs=outputs), check=False, force=True
        )
        assert (report.info.calibration is not None, report.left_out) == (kept, "")
    bank.add(random_task(bank.network, "new", seed=5))
    done = run("supsup-export", "--bank", bank.path, tmp_path / "stale.onnx", "--json")
    assert done.stderr == (
        f"supsup-export: {bank.path}: its calibration was not exported: task 'new' was added "
        "or renamed since; run supsup-calibrate on this model and export again\n"
    )
    assert json.loads(done.stdout)["calibrated"] is False
    assert supsup.load(tmp_path / "stale.onnx").info.calibration is None
    bank.remove("new")
    again = export(bank, tmp_path / "again.onnx", check=False)
    assert again.info.calibration is not None
    (bank.path / "calibration.json").write_text("{}")
    damaged = run("supsup-export", "--bank", bank.path, tmp_path / "no.onnx", status=3)
    assert "calibration.json: calibration format must be" in damaged.stderr
    assert not (tmp_path / "no.onnx").exists()
    assert "calibration format must be" in run("supsup-bank", "verify", bank.path, status=3).stderr
    (bank.path / "calibration.json").unlink()
    plain = export(bank, tmp_path / "plain.onnx", check=False)
    assert plain.path.read_bytes() == without.path.read_bytes()  # a model as it always was


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of permuted digits, in a bank and in a model that is not calibrated."""
    folder = tmp_path_factory.mktemp("calibrated")
    options = ["--model", "mlp-64-32", "--outputs", 20, "--lr", "1e-3", "--tasks", 3, "--quiet"]
    run("supsup-train", "permuted", *options, "--steps", 200, "--bank", folder / "masks")
    export(MaskBank.open(folder / "masks"), folder / "out.onnx", check=False)
    return folder


def test_calibrate_export_run(trained: Path, tmp_path: Path) -> None:
    bank, x = tmp_path / "masks", tmp_path / "x.npy"
    shutil.copytree(trained / "masks", bank)
    stream = make_stream("permuted", load_dataset(None), num_tasks=9)
    unknown = np.concatenate([stream.task(i, train=False).test_x[:50] for i in range(3, 9)])
    np.save(x, np.concatenate([unknown, stream.task(0, train=False).test_x[:50]]))
    before = json.loads(run("supsup-run", trained / "out.onnx", x, "--json").stdout)
    assert before["accepted"] == [None] * 350
    options = ["permuted", "--bank", bank, "--per-task", 80, "--coverage", 0.9]
    done = calibrate(trained / "out.onnx", *options, "--json")
    value = json.loads(done.stdout)
    assert (value["score"], value["method"], value["images"]) == ("log-odds", "exhaustive", 120)
    assert 0.9 <= value["coverage"] < 0.92
    assert value["accepted"] >= 0.75  # 120 other images: 0.9 less five standard errors
    assert value["auroc"] >= value["auroc_min"] >= 0.8
    assert len(value["left_out"]) == 3
    model = supsup.load(trained / "out.onnx")
    given = choose_samples(
        model, make_stream("permuted", load_dataset(None), num_tasks=3), per_task=80
    )
    assert measure(model, given, coverage=0.9).to_dict() == value
    again = calibrate(trained / "out.onnx", *options).stdout
    assert "AUROC with a task left out" in again
    assert again.splitlines()[-1] == "  export the bank again to include the threshold in the model"

    export(MaskBank.open(bank), tmp_path / "out.onnx", check=False)
    model = supsup.load(tmp_path / "out.onnx")
    assert model.info.calibration is not None
    assert model.info.calibration.threshold == value["threshold"]
    for method in (None, "exhaustive"):
        assert np.mean(model.predict(unknown, per_image=True, method=method).known) <= 0.5  # type: ignore[arg-type]  # a literal
    assert model.infer_task(unknown[:1], method="one-shot").known is None
    assert model.infer_task(unknown[:1], method=replace(VERIFIED, score="entropy")).known is None
    assert model.predict(unknown[:2], 0).known == (None, None)
    _say_it(tmp_path / "out.onnx", bank, x)
    task = stream.task(1, train=False)
    row = evaluate_task(model, task, per_task=40)
    judged = [model.infer_task(image[None]) for image in task.test_x]
    assert 0 <= row["rejected"] <= 0.4
    right = [found for found in judged if found.task.index == 1]
    assert 0 < np.mean([found.known for found in right]) < 1
    assert "rejected" not in evaluate_task(model, task, per_task=5, method="one-shot")
    assert "rejected" not in evaluate_task(supsup.load(trained / "out.onnx"), task, per_task=5)


def _say_it(model: Path, bank: Path, x: Path) -> None:
    """What the other commands print of a calibrated model."""
    command = "supsup-run"
    table = run(command, model, x, "--per-image").stdout.splitlines()
    assert table[0].split() == ["row", "task", "label", "logit", "accepted"]
    words = [line.split()[-1] for line in table[1:]]
    assert set(words) == {"yes", "no"}
    value = json.loads(run(command, model, x, "--per-image", "--json").stdout)
    assert [{"yes": True, "no": False}[word] for word in words] == value["accepted"]
    for path in (model, bank):
        about = json.loads(run("supsup-inspect", path, "--json").stdout)
        assert about["calibration"]["score"] == "log-odds"
        text = run("supsup-inspect", path).stdout
        assert "  calibration: score log-odds, threshold " in text
    evaluated = run("supsup-eval", model, "permuted", "--per-task", 10, "--json")
    total = json.loads(evaluated.stdout)
    assert total["rejected"] == pytest.approx(np.mean([r["rejected"] for r in total["tasks"]]))
    options = ["permuted", "--per-task", 10, "--method", "one-shot"]
    header = run("supsup-eval", model, *options).stdout.splitlines()[0]
    assert "rejected" not in header


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["permuted", "--per-task", 0], 2, "must be an integer of at least 1, got '0'"),
        (["permuted", "--coverage", 0], 1, "coverage must be in (0, 1], got 0.0"),
        (["permuted", "--coverage", "nan"], 1, "coverage must be in (0, 1], got nan"),
        (["permuted", "--coverage", 1.5], 1, "coverage must be in (0, 1], got 1.5"),
        (["permuted", "--method", "one-shot"], 2, "invalid choice"),
        (["permuted", "--images", 9], 2, "--images: is called --per-task now"),
        (["permuted", "--method", "exhaustive", "--candidates", 2], 1, "candidates applies only"),
        (["rotated"], 1, "rotated stream: must have each task of"),
        (["permuted", "--bank", "nowhere"], 3, "not a mask bank"),
    ],
)
def test_bad_input_is_one_line(
    trained: Path, arguments: list[object], status: int, message: str
) -> None:
    bank = [] if "--bank" in arguments else ["--bank", trained / "masks"]
    done = calibrate(trained / "out.onnx", *arguments, *bank, status=status)
    assert message in done.stderr
    assert status == 2 or done.stderr.count("\n") == 1
    assert not (trained / "masks" / "calibration.json").exists()


def test_models_of_other_banks_are_refused(trained: Path, tmp_path: Path) -> None:
    loaded(tmp_path, tasks=3)
    options = ["permuted", "--bank", trained / "masks"]
    done = calibrate(tmp_path / "out.onnx", *options, status=1)
    assert "its network's digest must be" in done.stderr
    shutil.copytree(trained / "masks", tmp_path / "other")
    bank = MaskBank.open(tmp_path / "other")
    options = ["permuted", "--bank", bank.path]
    bank.rename("permuted-0001", "other")
    done = calibrate(trained / "out.onnx", *options, status=1)
    assert "expected 'other', got 'permuted-0001'; export the bank again" in done.stderr
    bank.rename("other", "permuted-0001")
    bank.remove("permuted-0002")
    done = calibrate(trained / "out.onnx", *options, status=1)
    assert "expected 2 tasks, got 3; export the bank again" in done.stderr
    assert not (bank.path / "calibration.json").exists()
    export(
        MaskBank.open(trained / "masks"), tmp_path / "i.onnx", request=Request(outputs=("task",))
    )
    done = calibrate(
        tmp_path / "i.onnx", "permuted", "--bank", trained / "masks", "--per-task", 2, status=1
    )
    assert "exported" in done.stderr
