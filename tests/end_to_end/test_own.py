"""Own tasks from the shell: check, learn, add one, export, evaluate, calibrate; refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.example_pictures import make_tasks

import supsup_runtime as supsup
from commands import run
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.own import read_tasks
from supsup_runtime.errors import InputError
from supsup_runtime.preprocessing import Preprocessing

pytest.importorskip("PIL", reason="own pictures need Pillow")

FEW = ["--steps", 30, "--outputs", 20, "--batch-size", 32, "--threads", 1]
NAMES = ("digits-0-1", "digits-5-6-7-8-9", "turned-1-7")


def learn(data: Path, bank: Path, *more: object, model: str = "conv-8", status: int = 0) -> str:
    words = ["own", "--data", data, "--bank", bank, "--model", model, *FEW, *more]
    return run("supsup-train", *words, status=status).stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks in ``data``, learned into ``masks``, exported."""
    folder = tmp_path_factory.mktemp("own")
    make_tasks(folder / "data", tasks=NAMES, per_class=20)
    learn(folder / "data", folder / "masks")
    run("supsup-export", "--bank", folder / "masks", folder / "out.onnx")
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "own"))


def test_bank_and_model_carry_preprocessing_and_classes(made: Path) -> None:
    bank, model = MaskBank.open(made / "masks"), supsup.load(made / "out.onnx")
    assert bank.network.preprocessing == Preprocessing(mode="gray", size=(16, 16))
    assert model.info.network.preprocessing == bank.network.preprocessing
    assert (bank.network.input_shape, bank.network.real_outputs) == ((1, 16, 16), 10)
    assert [task.labels for task in model.tasks] == [
        ("0", "1"),
        ("5", "6", "7", "8", "9"),
        ("1", "7"),
    ]
    tasks = read_tasks(made / "data")
    for index, name in enumerate(NAMES):
        x = tasks.task(index, train=False).test_x
        assert set(model.predict(x, name).labels) <= set(model.task(name).labels)
        record = bank.task(name).training
        assert (record["stream"], record["data"]) == ("own", tasks.fingerprint(index))


def test_a_new_task_leaves_the_others_untouched(copied: Path) -> None:
    before = {file.name: file.read_bytes() for file in (copied / "masks/tasks").iterdir()}
    make_tasks(copied / "data", tasks=["negative-0-6-8"], per_class=20)
    said = learn(copied / "data", copied / "masks")
    assert said.count("already in the bank, skipped") == 3
    after = {file.name: file.read_bytes() for file in (copied / "masks/tasks").iterdir()}
    assert sorted(set(after) - set(before)) == ["negative-0-6-8.safetensors"]
    assert before == {name: after[name] for name in before}


def test_evaluate_and_calibrate_take_the_same_folder(copied: Path) -> None:
    words = [copied / "out.onnx", "own", "--data", copied / "data"]
    result = json.loads(run("supsup-eval", *words, "--per-task", 4, "--json").stdout)
    assert [row["task"] for row in result["tasks"]] == list(NAMES)
    assert result["method"] == "exhaustive"
    run("supsup-calibrate", *words, "--bank", copied / "masks", "--per-task", 3)
    assert MaskBank.open(copied / "masks").calibration() is not None


def test_check_says_what_there_is(made: Path, tmp_path: Path) -> None:
    text = run("supsup-train", "own", "--data", made / "data", "--check").stdout
    lines = text.splitlines()
    assert lines[0].split() == ["task", "classes", "train", "test", "size", "mean", "std"]
    assert lines[2].split()[:4] == ["digits-5-6-7-8-9", "5", "80", "20"]
    assert lines[-2:] == ["inputs: gray, 16 x 16", "nothing to mend"]
    data = Path(shutil.copytree(made / "data", tmp_path / "data"))
    (data / "turned-1-7/1/broken.png").write_text("no picture")
    words = ["own", "--data", data, "--check", "--size", 16, "--mode", "gray"]
    text = run("supsup-train", *words, "--skip-unreadable").stdout
    assert f"task 'turned-1-7': {data}/turned-1-7/1/broken.png: must be a picture (BMP, " in text
    done = run("supsup-train", *words, status=1)
    assert done.stdout == text
    assert "pictures that cannot be read: 1; mend or remove them, or leave them out" in done.stderr


def test_unreadable_pictures_are_named_or_left_out_and_counted(copied: Path) -> None:
    broken = copied / "data/turned-1-7/1/broken.png"
    broken.write_text("no picture")
    options = ("--size", 16, "--mode", "gray")
    said = learn(copied / "data", copied / "other", *options, status=1)
    assert f"{broken}: " in said.splitlines()[-1]
    said = learn(copied / "data", copied / "other", *options, "--skip-unreadable")
    assert "turned-1-7: 1 pictures cannot be read and were left out, such as" in said
    assert "turned-1-7/1/broken.png" in said


def test_data_that_changed_are_not_learned_again_silently(copied: Path) -> None:
    (copied / "data/turned-1-7/1/0.png").unlink()
    said = learn(copied / "data", copied / "masks", status=1)
    assert "the data of task 'turned-1-7' changed since it was learned; give the same" in said


def test_evaluation_on_other_data_says_so(copied: Path) -> None:
    words = [copied / "out.onnx", "own", "--data", copied / "data", "--per-task", 0, "--json"]
    same = json.loads(run("supsup-eval", *words).stdout)["warnings"]
    assert not any("were learned" in line for line in same)
    (copied / "data/turned-1-7/1/0.png").unlink()
    said = json.loads(run("supsup-eval", *words).stdout)["warnings"][0]
    assert said.startswith("1 tasks, such as turned-1-7, were learned from other data, got ")
    assert said.endswith("; give the data and options of training, or train again")


def test_evaluation_with_another_seed_says_so(tmp_path: Path) -> None:
    words = ["permuted", "--tasks", 2, "--bank", tmp_path / "masks", *FEW, "--model", "mlp-8"]
    run("supsup-train", *words, "--seed", 3)
    run("supsup-export", "--bank", tmp_path / "masks", tmp_path / "out.onnx")
    words = [tmp_path / "out.onnx", "permuted", "--per-task", 0, "--json"]
    same = json.loads(run("supsup-eval", *words, "--seed", 3).stdout)["warnings"]
    assert not any("were learned" in line for line in same)
    said = json.loads(run("supsup-eval", *words).stdout)["warnings"][0]
    assert said.startswith("2 tasks, such as permuted-0000, were learned with seed 3, got 0;")


def toml_of(folder: Path, text: str) -> Path:
    (folder / "tasks.toml").write_text(text)
    return folder / "tasks.toml"


def test_a_file_of_arrays_with_more_classes_than_reserved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (36, 9, 7)).astype(np.uint8)
    np.savez(tmp_path / "many.npz", x_train=pictures, y_train=np.arange(36) % 12)
    np.savez(tmp_path / "few.npz", x_train=pictures, y_train=np.arange(36) % 3)
    few = '[[task]]\nname = "few"\ndata = "few.npz"\n'
    many = '[[task]]\nname = "many"\ndata = "many.npz"\n'
    bank = tmp_path / "masks"
    learn(toml_of(tmp_path, few), bank)
    assert MaskBank.open(bank).network.real_outputs == 10
    said = learn(toml_of(tmp_path, few + many), bank, status=1)
    assert said.endswith(
        "tasks.toml: task 'many' has 12 classes, outputs are reserved for 10; give another --bank, "
        "and --max-classes 12\n"
    )
    assert MaskBank.open(bank).task_names == ("few",)
    said = learn(toml_of(tmp_path, many), tmp_path / "b", "--max-classes", 11, status=1)
    assert "outputs are reserved for 11; give --max-classes 12" in said
    learn(toml_of(tmp_path, many), tmp_path / "b")
    assert MaskBank.open(tmp_path / "b").network.real_outputs == 12
    learn(toml_of(tmp_path, few), tmp_path / "c", "--max-classes", 3, model="mlp-8")
    network = MaskBank.open(tmp_path / "c").network
    assert (network.real_outputs, network.input_shape) == (3, (63,))


def test_another_order_of_classes_is_refused_by_eval(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pictures, y_train=np.arange(20) % 2)
    text = '[[task]]\nname = "a"\ndata = "a.npz"\nclasses = ["no", "yes"]'
    data = toml_of(tmp_path, text)
    learn(data, tmp_path / "masks")
    run("supsup-export", "--bank", tmp_path / "masks", tmp_path / "out.onnx")
    toml_of(tmp_path, text.replace('"no", "yes"', '"yes", "no"'))
    done = run("supsup-eval", tmp_path / "out.onnx", "own", "--data", data, status=1)
    assert "classes of task 'a' must be ('no', 'yes'), as the model has them" in done.stderr


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("supsup-train", ["own"], "--data: stream own needs a tasks.toml, or a folder of tasks"),
        ("supsup-train", ["own", "--data", "d", "--tasks", 3], "--tasks: goes with streams"),
        (
            "supsup-train",
            ["split", "--size", 3],
            "--size: goes with folders of pictures, got digits",
        ),
        (
            "supsup-train",
            ["split", "--skip-unreadable"],
            "--skip-unreadable: goes with folders of pictures",
        ),
        ("supsup-train", ["split", "--max-classes", 3], "--max-classes: goes with stream own"),
        ("supsup-train", ["split", "--check"], "--check: goes with stream own, got split"),
        ("supsup-train", ["own", "--data", "no-such"], "no-such"),
        (
            "supsup-train",
            ["split", "--model", "cnn", "--module", "net.py:make"],
            "--model: goes without --module; leave out one of them",
        ),
        ("supsup-baseline", ["heads", "own"], "--data: stream own needs a tasks.toml"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, command: str, words: list[Any], message: str
) -> None:
    bank = tmp_path / "masks"
    assert message in run(command, *words, "--bank", bank, status=1).stderr
    assert not bank.exists()


def test_sizes_and_a_missing_bank_are_usage_errors(made: Path) -> None:
    words = ["own", "--data", made / "data"]
    for size in ("0", "x", "16x", "100000", "16 x 16"):
        said = run("supsup-train", *words, "--check", "--size", size, status=2).stderr
        assert f"must be like 32 or 24x32 (height x width), got '{size}'" in said
    said = run("supsup-train", *words, status=2).stderr
    assert "the following arguments are required: --bank" in said


def test_a_baseline_learns_own_tasks(made: Path, tmp_path: Path) -> None:
    options = ["--model", "mlp-8", "--steps", 20, "--bank", tmp_path / "heads"]
    run("supsup-baseline", "heads", "own", "--data", made / "data", *options)
    bank = MaskBank.open(tmp_path / "heads")
    assert bank.task_names == NAMES
    assert bank.network.preprocessing == Preprocessing(mode="gray", size=(16, 16))


def test_a_module_of_pictures_on_flat_inputs_is_told_the_option(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\n"
        "def make(shape, outputs):\n"
        "    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())\n"
        "    return nn.Sequential(flat, nn.Linear(144, outputs))\n"
    )
    words = ["split", "--tasks", 5, "--module", f"{tmp_path / 'net.py'}:make", "--steps", 2]
    said = run("supsup-train", *words, "--bank", tmp_path / "masks", status=1).stderr
    assert said.endswith("; a module of (channels, height, width) needs --pictures\n")
    run("supsup-train", *words, "--bank", tmp_path / "masks", "--pictures", "--quiet")


def test_a_model_of_floats_takes_no_bytes_and_no_file_that_prepares_otherwise(
    tmp_path: Path,
) -> None:
    pictures = np.random.default_rng(0).random((20, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x_train=pictures, y_train=np.arange(20) % 2)
    section = '[[task]]\nname = "a"\ndata = "a.npz"\n'
    data, model = toml_of(tmp_path, section), tmp_path / "out.onnx"
    learn(data, tmp_path / "masks", model="mlp-8")
    run("supsup-export", "--bank", tmp_path / "masks", model)
    shown = json.loads(run("supsup-run", model, data, "--json").stdout)
    assert shown["tasks"] == ["a"] * 4
    loaded = supsup.load(model)
    with pytest.raises(InputError, match="was trained on floats, of scale 1, so x must not be"):
        loaded.predict((pictures[0] * 255).astype(np.uint8))
    assert loaded.predict(loaded.prepare(pictures[:3, :, :, None])).logits.shape == (3, 20)
    words = ["--bank", tmp_path / "masks", tmp_path / "b.onnx", "--preprocess", "baked"]
    said = run("supsup-export", *words, status=1).stderr
    assert "preprocess: baked needs a bank of uint8 pictures" in said
    toml_of(tmp_path, "scale = 2\n" + section)
    said = run("supsup-run", model, data, status=1).stderr
    assert "prepared as by the bank or model: scale must be 1.0, got 2.0" in said
    toml_of(tmp_path, section)
    said = learn(data, tmp_path / "masks", "--scenario", "NNs", model="mlp-8", status=1)
    assert "--scenario NNs: goes with streams, got own tasks; leave it out" in said


def test_fewer_outputs_than_are_reserved_and_another_size_name_the_option(made: Path) -> None:
    words = ["own", "--data", made / "data", "--outputs", 9, "--bank", made / "few"]
    said = run("supsup-train", *words, status=1).stderr
    assert "--outputs: must be at least 10, reserved for classes (--max-classes), got 9" in said
    words = ["own", "--data", made / "data", "--size", 8, "--bank", made / "masks"]
    said = run("supsup-train", *words, status=1).stderr
    assert "--size: must be (16, 16), as the bank or model has it, got (8, 8)" in said


def test_baselines_of_as_many_outputs_as_classes_infer_by_entropy(
    made: Path, tmp_path: Path
) -> None:
    """One score for all tasks, though one of them has a class for each output."""
    options = ["--model", "mlp-16", "--steps", 60, "--bank", tmp_path / "dense"]
    run("supsup-baseline", "dense", "own", "--data", made / "data", "--max-classes", 5, *options)
    run("supsup-export", "--bank", tmp_path / "dense", tmp_path / "out.onnx")
    tasks, model = read_tasks(made / "data", layout="flat"), supsup.load(tmp_path / "out.onnx")
    scores = model.infer_task(tasks.task(1, train=False).test_x).scores
    assert (scores <= 0).all()
    assert (scores >= -np.log(5) - 1e-6).all()


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        ("def make(shape, outputs):\n    return 1 / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n", 1, "ModuleNotFoundError: No module named"),
    ],
)
def test_a_module_that_fails_is_one_line(tmp_path: Path, code: str, line: int, reason: str) -> None:
    net = tmp_path / "net.py"
    net.write_text(code)
    words = ["split", "--tasks", 5, "--module", f"{net}:make", "--bank", tmp_path / "masks"]
    said = run("supsup-train", *words, status=1).stderr
    assert said.startswith(f"supsup-train: module: {net}:make: {net}:{line}: {reason}")
    assert said.count("\n") == 1


def test_a_bank_among_the_tasks_and_a_seed_that_changes_nothing_are_refused(made: Path) -> None:
    said = learn(made / "data", made / "data/masks", status=1)
    assert f"--bank: {made}/data/masks must not be in the folder of the tasks, {made}/data" in said
    assert not (made / "data/masks").exists()
    words = [made / "out.onnx", "own", "--data", made / "data", "--seed", 7]
    said = run("supsup-eval", *words, status=1).stderr
    assert "--seed: goes with streams, got own; leave it out" in said
