"""Learn, export, run: through the commands, on the bundled digits, with kills and damage."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import supsup_runtime as supsup
import supsup_train as st
from commands import program, run, run_program, run_stopped
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data import load_dataset, make_stream
from supsup_runtime.evaluation import evaluate

SMALL = ["--model", "mlp-64-32", "--outputs", "20", "--lr", "1e-3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of permuted digits, in a bank and in a model."""
    folder = tmp_path_factory.mktemp("trained")
    options = [*SMALL, "--tasks", 3, "--steps", 200, "--bank", folder / "masks"]
    run_program("supsup-train", "permuted", *options)
    run_program("supsup-export", "--bank", folder / "masks", folder / "out.onnx")
    return folder


def test_the_library_learns_what_the_command_learns(trained: Path, tmp_path: Path) -> None:
    module = st.make_model("mlp-64-32", input_shape=(64,), outputs=20)
    bank = st.open_bank(tmp_path / "masks", module, input_shape=(64,), real_outputs=10)
    stream = make_stream("permuted", load_dataset(None), num_tasks=1)
    st.train_stream(bank, module, stream, recipe=st.Recipe(steps=200, learning_rate=1e-3))
    assert bank.entries == MaskBank.open(trained / "masks").entries[:1]


def test_evaluation_through_the_model(trained: Path) -> None:
    done = run_program("supsup-eval", trained / "out.onnx", "permuted", "--per-task", 20, "--json")
    result = json.loads(done.stdout)
    assert result["method"] == "exhaustive"
    assert result["known"] >= 0.9
    assert result["inferred"] >= 0.9
    assert len(result["tasks"]) == 3
    lines = (trained / "masks" / "train.jsonl").read_text().splitlines()
    for line, row in zip(map(json.loads, lines), result["tasks"], strict=True):
        assert line["task"] == row["task"]
        assert line["accuracy"] == pytest.approx(row["known"], abs=1e-9)  # torch = ONNX Runtime


def test_run_and_inspect(trained: Path, tmp_path: Path) -> None:
    data = make_stream("permuted", load_dataset(None), num_tasks=3).task(1)
    np.save(tmp_path / "x.npy", data.test_x[:4])
    model, x = trained / "out.onnx", tmp_path / "x.npy"
    for options in ([], ["--task", "permuted-0001"], ["--task", "1"], ["--per-image"]):
        value = json.loads(run("supsup-run", model, x, "--json", *options).stdout)
        assert len(value["labels"]) == 4
        assert np.array(value["logits"]).shape == (4, 10)
    assert value["tasks"] == ["permuted-0001"] * 4
    text = run_program("supsup-run", model, x).stdout
    assert text.splitlines()[0].split() == ["row", "task", "label", "logit"]
    about = json.loads(run_program("supsup-inspect", model, "--json").stdout)
    assert about["tasks"] == ["permuted-0000", "permuted-0001", "permuted-0002"]
    assert json.loads(run("supsup-inspect", trained / "masks", "--json").stdout)["kind"] == "bank"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{x}", "--task", "7"], 1, "task index must be in [0, 3), got 7"),
        (["{x}", "--task", "-1"], 1, "task index must be in [0, 3), got -1"),
        (["{x}", "--task=²"], 1, "task '²': not among the 3"),
        (["{x}", "--task=--5"], 1, "task '--5': not among the 3"),
        (["{x}", "--task", "nope"], 1, "task 'nope': not among the 3"),
        (["{nan}"], 1, "x must be finite"),
        (["{wrong}"], 1, "x must have shape (batch, 64)"),
        (["{text}"], 1, "must be a .npy array"),
        (["missing.npy"], 1, "no such file"),
        (["{x}", "--threads", "0"], 2, "must be an integer of at least 1"),
        (["{x}", "--method", "magic"], 2, "invalid choice"),
        (["{x}", "--task=0", "--method=verified"], 1, "--method: applies only if the task"),
        (["{x}", "--task=0", "--per-image"], 1, "--per-image: applies only if the task"),
        (["{x}", "--task=0", "--score=entropy"], 1, "--score: applies only if the task"),
        (["{x}", "--task=0", "--candidates=3"], 1, "--candidates: applies only if the task"),
        (["{x}", "--steps", "2"], 2, "--steps: is called --alpha-steps now"),
        (["{x}", "--step-size", "2"], 2, "--step-size: is called --alpha-step-size now"),
        (["{x}", "--recover"], 2, "--recover: is called supsup-hopfield recover now"),
        (["{x}", "--device", "cuda"], 5, "device 'cuda' needs CUDAExecutionProvider"),
    ],
)
def test_bad_input_of_run(
    trained: Path, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    if "cuda" in arguments and _has_cuda():
        pytest.skip("a CUDA device is available")
    files = {key: tmp_path / f"{key}.npy" for key in ("x", "nan", "wrong", "text")}
    np.save(files["x"], np.zeros((1, 64), np.float32))
    np.save(files["nan"], np.full((1, 64), np.nan, np.float32))
    np.save(files["wrong"], np.zeros((1, 63), np.float32))
    files["text"].write_text("not an array")
    filled = [argument.format(**files) for argument in arguments]
    done = run("supsup-run", trained / "out.onnx", *filled, status=status)
    assert message in done.stderr
    assert status == 2 or done.stderr.count("\n") == 1


def test_a_name_of_digits_is_a_name(trained: Path, tmp_path: Path) -> None:
    bank, model, x = tmp_path / "masks", tmp_path / "out.onnx", tmp_path / "x.npy"
    shutil.copytree(trained / "masks", bank)
    run("supsup-bank", "rename", bank, "permuted-0000", "1")
    run("supsup-export", "--bank", bank, model)
    np.save(x, np.zeros((1, 64), np.float32))
    for given, expected in (("1", "1"), ("2", "permuted-0002"), ("0", "1")):
        done = run("supsup-run", model, x, "--task", given, "--json")
        assert json.loads(done.stdout)["tasks"] == [expected]


def test_json_of_one_task_is_json(trained: Path, tmp_path: Path) -> None:
    bank, model, x = tmp_path / "masks", tmp_path / "out.onnx", tmp_path / "x.npy"
    shutil.copytree(trained / "masks", bank)
    for name in ("permuted-0001", "permuted-0002"):
        run("supsup-bank", "remove", bank, name)
    run("supsup-export", "--bank", bank, model)
    np.save(x, np.zeros((1, 64), np.float32))
    done = run("supsup-run", model, x, "--json")
    assert "Infinity" not in done.stdout
    assert json.loads(done.stdout)["margins"] == [None]


def _has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_task_keeps_the_finished_ones(tmp_path: Path) -> None:
    bank = tmp_path / "masks"
    arguments = ["permuted", *SMALL, "--steps", "20", "--tasks", 4, "--bank", bank]
    run_stopped(program("supsup-train"), *arguments, name="permuted-0002.safetensors")
    kept = MaskBank.open(bank)  # verified in full
    assert kept.task_names == ("permuted-0000", "permuted-0001")
    before = [task.masks for task in kept]
    done = run("supsup-train", *arguments)
    assert done.stderr.count("already in the bank, skipped") == len(kept)
    whole = MaskBank.open(bank)
    assert whole.task_names == tuple(f"permuted-{i:04}" for i in range(4))
    for masks, task in zip(before, whole, strict=False):
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask, task.masks[name])


@pytest.mark.slow
def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    bank = tmp_path / "masks"
    arguments = ["permuted", *SMALL, "--steps", "20", "--tasks", 3, "--bank", bank]
    name, stop = "permuted-0001.safetensors", signal.SIGINT
    done = run_stopped(program("supsup-train"), *arguments, name=name, stop=stop)
    assert done.stderr.splitlines()[-1] == "supsup-train: interrupted; finished work is kept"
    assert len(MaskBank.open(bank)) >= 1


def test_another_network_does_not_resume(trained: Path) -> None:
    bank = ["--bank", trained / "masks", "--tasks", 3]  # nothing is left to learn, and still
    done = run("supsup-train", "permuted", "--model", "mlp-9", *bank, status=1)
    assert "give the module that the bank was made of" in done.stderr
    done = run("supsup-train", "permuted", *SMALL, "--weight-seed", 5, *bank, status=1)
    assert "the bank was made with weight_seed 0, this run has 5" in done.stderr


def test_other_settings_do_not_resume(trained: Path, tmp_path: Path) -> None:
    bank = ["--bank", trained / "masks", "--tasks", 4]
    before = (trained / "masks" / "bank.json").read_bytes()
    rng = np.random.RandomState(0)
    x, y = rng.rand(20, 8, 8).astype(np.float32), np.arange(20) % 10
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for options, message in (
        (["--steps", 200, "--seed", 5], "was learned with seed 0, this run has 5"),
        (["--steps", 201], "was learned with steps 200, this run has 201"),
        (
            ["--steps", 200, "--data", tmp_path / "other.npz"],
            " changed since it was learned; give the same data, or supsup-bank remove",
        ),
    ):
        done = run("supsup-train", "permuted", *SMALL, *options, *bank, status=1)
        assert message in done.stderr
    assert (trained / "masks" / "bank.json").read_bytes() == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "foreign", "program"])
def test_a_damaged_bank_is_exit_3_and_loses_nothing(
    trained: Path, tmp_path: Path, damage: str
) -> None:
    bank = tmp_path / "masks"
    shutil.copytree(trained / "masks", bank)
    file = bank / "tasks" / "permuted-0001.safetensors"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:100])
    elif damage == "delete":
        file.unlink()
    elif damage == "foreign":
        file.write_bytes((bank / "tasks" / "permuted-0002.safetensors").read_bytes())
    else:
        (bank / "programs" / "forward.onnx").unlink()
    left = sorted(bank.rglob("*"))
    done = run("supsup-export", "--bank", bank, tmp_path / "out.onnx", status=3)
    assert done.stderr.count("\n") == 1
    assert ("forward.onnx" if damage == "program" else file.name) in done.stderr
    assert not (tmp_path / "out.onnx").exists()
    assert sorted(bank.rglob("*")) == left
    assert run("supsup-bank", "verify", bank, status=3).stderr.count("\n") == 1


def test_a_batch_normalised_network_keeps_its_statistics(tmp_path: Path) -> None:
    bank, path = tmp_path / "masks", tmp_path / "out.onnx"
    options = ["--tasks", 2, "--steps", 150, "--lr", "1e-2", "--outputs", 20]
    run("supsup-train", "permuted", "--model", "cnn", *options, "--bank", bank)
    run("supsup-export", "--bank", bank, path)
    result = json.loads(run("supsup-eval", path, "permuted", "--per-task", 10, "--json").stdout)
    assert result["known"] >= 0.8
    model = supsup.load(path)
    opened = MaskBank.open(bank)
    assert {s.name for s in opened.network.state} == {
        f"norm{i}.running_{kind}" for i in (1, 2) for kind in ("mean", "var")
    }
    one, two = opened.task(0).state, opened.task(1).state
    assert any(not np.array_equal(one[key], two[key]) for key in one)
    lines = (bank / "train.jsonl").read_text().splitlines()
    for line, row in zip(lines, result["tasks"], strict=True):
        assert json.loads(line)["accuracy"] == pytest.approx(row["known"], abs=1e-9)
    assert model.predict(np.zeros((1, 1, 8, 8), np.float32), 0).logits.shape == (1, 20)


@pytest.mark.parametrize("stream", ["rotated", "split"])
def test_other_streams(tmp_path: Path, stream: str) -> None:
    tasks = 5 if stream == "split" else 2
    options = ["--tasks", tasks, "--steps", 60, "--rule", "top-k", "--density", "0.3"]
    turned = ["--degrees", 36] if stream == "rotated" else []
    run("supsup-train", stream, *SMALL, *options, *turned, "--bank", tmp_path / "masks")
    run("supsup-export", "--bank", tmp_path / "masks", tmp_path / "out.onnx")
    done = run("supsup-eval", tmp_path / "out.onnx", stream, *turned, "--per-task", 5, "--json")
    assert json.loads(done.stdout)["known"] >= 0.5
    listed = json.loads(run("supsup-bank", "list", tmp_path / "masks", "--json").stdout)
    assert all(abs(task["density"] - 0.3) < 0.01 for task in listed)
    assert listed[1]["name"] == ("rotated-036" if turned else "split-2-3")


def test_bad_input_of_train_and_eval(trained: Path, tmp_path: Path) -> None:
    bank = ["--bank", tmp_path / "masks"]
    for arguments, status, message in (
        (["sorted", *bank], 2, "sorted"),
        (["permuted", *bank, "--lr", "-1"], 1, "learning_rate: must be positive"),
        (["permuted", *bank, "--rule", "magic"], 2, "--rule: invalid choice: 'magic'"),
        (["permuted", *bank, "--density", "0.1"], 1, "go with --rule top-k"),
        (["permuted", *bank, "--er", "2"], 1, "go with --rule top-k"),
        (["permuted", *bank, "--degrees", "9"], 1, "--degrees: goes with stream rotated or mixed"),
        (["rotated", *bank, "--degrees", "nan"], 1, "degrees must be finite and at least"),
        (["permuted", *bank, "--rule", "top-k", "--er", "2", "--density", "0.1"], 1, "one of them"),
        (["permuted", *bank, "--pictures"], 1, "goes with --module"),
        (["permuted", *bank, "--data", "nowhere"], 1, "nowhere"),
        (["split", *bank, "--tasks", "11"], 1, "11"),
        (["permuted", *bank, "--outputs", "3"], 3, "real_outputs must be an integer in"),
        (["permuted", *bank, "--images"], 2, "--images: is called --pictures now"),
        (["permuted", *bank, "--schedule", "cosine"], 2, "is called --lr-schedule now"),
        (["permuted", *bank, "--threshold", "1.2"], 2, "is called --certainty now"),
    ):
        done = run("supsup-train", *arguments, status=status)
        assert status == 2 or done.stderr.count("\n") == 1, done.stderr
        assert message in done.stderr
        assert not (tmp_path / "masks").exists()
    for options, status, message in (
        (["permuted", "--images", 9], 2, "--images: is called --per-task now"),
        (["permuted", "--batch", 9], 2, "--batch: is called --batch-size now"),
        (["permuted", "--per-task", -1], 2, "must be an integer of at least 0, got '-1'"),
        (["permuted", "--batch-size", 0], 2, "must be an integer of at least 1, got '0'"),
        (["permuted", "--tasks", 0], 2, "--tasks: must be an integer of at least 1, got '0'"),
        (["rotated"], 1, "task 'rotated-000': not among the 3"),
    ):
        done = run("supsup-eval", trained / "out.onnx", *options, status=status)
        assert message in done.stderr


def test_methods_and_their_settings_from_the_shell(trained: Path, tmp_path: Path) -> None:
    model = trained / "out.onnx"
    np.save(tmp_path / "x.npy", np.zeros((2, 64), np.float32))
    for method, settings, passes in (
        ("binary", [], 2),
        ("gradient", ["--alpha-steps", 1, "--alpha-step-size", 0.2], 1),
        ("verified", ["--candidates", 2, "--score", "entropy"], 3),
        ("exhaustive", ["--score", "max-probability"], 3),
    ):
        options = ["--method", method, *settings, "--json"]
        result = json.loads(run("supsup-run", model, tmp_path / "x.npy", *options).stdout)
        assert result["method"] == method
        assert result["passes"] == [passes]
    done = run("supsup-run", model, tmp_path / "x.npy", "--alpha-steps", 2, status=1)
    assert "steps applies only to gradient, got 2 with exhaustive; omit it" in done.stderr


def test_batches_of_one_task_are_evaluated_together(trained: Path) -> None:
    """GNs counts labels alone, GNu only where the task is right: never more."""
    common: list[object] = [trained / "out.onnx", "permuted", "--per-task", 30, "--json"]
    one, many = (
        json.loads(run("supsup-eval", *common, "--batch-size", size).stdout) for size in (1, 16)
    )
    assert (one["batch"], many["batch"]) == (1, 16)
    for result in (one, many):
        for row in result["tasks"]:
            assert row["images"] == 30
            assert row["unknown"] <= min(row["shared"], row["inferred"])
    assert many["inferred"] >= one["inferred"] - 0.1  # a batch tells more than an image
    assert many["known"] == one["known"]
    stream = make_stream("permuted", load_dataset(None), num_tasks=3)
    model = supsup.load(trained / "out.onnx")
    assert _untimed(evaluate(model, stream, per_task=30, batch_size=16)) == _untimed(many)


def test_a_tracker_is_measured_beside_single_frames(trained: Path) -> None:
    options = ["--per-task", 25, "--stay", 10, "--switch", 0.1]
    command: list[object] = [trained / "out.onnx", "permuted", *options]
    found = json.loads(run("supsup-eval", *command, "--json").stdout)["tracked"]
    assert (found["frames"], found["stay"], found["switch"]) == (60, 10, 0.1)  # two runs of each
    assert found["refused"] is None
    assert 0 <= found["unknown"] <= found["inferred"] <= 1
    text = run("supsup-eval", *command).stdout
    assert f"tracked: inferred {found['inferred']:.4f}, single frames {found['single']:.4f}" in text
    assert "(60 frames, stay 10, switch 0.1)" in text
    done = run("supsup-eval", *command[:-1], 1.5, status=1)
    assert done.stderr == "supsup-eval: switch must be a number in [0, 1], got 1.5\n"


def _untimed(value: dict[str, Any]) -> dict[str, Any]:
    rows = [{key: row[key] for key in row if "_ms" not in key} for row in value["tasks"]]
    return {key: value[key] for key in value if "_ms" not in key} | {"tasks": rows}
