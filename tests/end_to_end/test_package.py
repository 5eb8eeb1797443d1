"""The wheel, as a device gets it: installed with `[cpu]` alone, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from banks import make_bank, picture_bank
from commands import SCRIPTS
from supsup_export.exporter import export
from supsup_runtime.model.model import load
from supsup_runtime.preprocessing import Preprocessing

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("supsup_export", "supsup_runtime", "supsup_train")

_PREDICT = """
import json, sys
import numpy as np
import supsup_runtime as supsup

model = supsup.load("out.onnx")
x = np.load("x.npy")
known, inferred = model.predict(x, task="task-1"), model.predict(x)
modules = sys.modules.items()
files = {name.partition(".")[0]: str(getattr(module, "__file__", "")) for name, module in modules}
installed = [name for name, file in files.items() if "site-packages" in file]
answers = {"known": known.logits.tolist(), "inferred": inferred.task.name}
print(json.dumps({**answers, "imported": sorted(installed), "file": supsup.__file__}))
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run([*command, str(REPOSITORY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_has_the_packages_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == "supsup-0.2.0-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {*PACKAGES, "supsup_commands.py", "supsup-0.2.0.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    sources = {
        path.relative_to(REPOSITORY / room).as_posix()
        for room in ("export", "runtime", "train")
        for path in (REPOSITORY / room).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources


def test_the_sdist_can_be_tested(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "tests/conftest.py", "docs/FORMAT.md"} <= names
    assert not any(name.startswith((".venv", "build", "demo", "dist")) for name in names)


def test_the_wheel_runs_a_model_with_onnxruntime_alone(dist: Path, tmp_path: Path) -> None:
    bank = make_bank(tmp_path / "masks", "mlp-7-9", outputs=6, real_outputs=4, tasks=3)
    path = export(bank, tmp_path / "out.onnx").path
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    steps = Preprocessing(mode="rgb", size=(4, 4))
    export(picture_bank(tmp_path / "own", "mlp-7-9", steps, tasks=3), tmp_path / "own.onnx")
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    np.save(tmp_path / "frame.npy", frame)
    (wheel,) = dist.glob("*.whl")
    venv.create(tmp_path / "fresh", with_pip=True, symlinks=True)
    programs = tmp_path / "fresh" / "bin"

    def run(*words: object, status: int = 0) -> str:
        hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
        done = subprocess.run(
            [str(programs / str(words[0])), *map(str, words[1:])],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if key not in hidden},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout or done.stderr

    constraints = REPOSITORY / "constraints.txt"
    run("pip", "install", "--quiet", "--constraint", constraints, f"{wheel}[cpu]")
    found = json.loads(run("python", "-c", _PREDICT))
    assert Path(found["file"]).is_relative_to(tmp_path / "fresh")
    base = {"bitarray", "numpy", "onnxruntime", "safetensors", "supsup_runtime"}
    assert base <= set(found["imported"])
    assert not {"onnx", "torch", "supsup_export", "supsup_train"} & set(found["imported"])
    model = load(path)
    np.testing.assert_array_equal(
        np.array(found["known"], np.float32), model.predict(x, task="task-1").logits
    )
    assert found["inferred"] == model.predict(x).task.name

    for command in SCRIPTS:
        assert run(command, "--version") == f"{command} 0.2.0\n"
    assert "task-2" in run("supsup-bank", "list", "masks")
    assert run("supsup-run", "out.onnx", "x.npy", "--task", "task-1")
    shown = json.loads(run("supsup-run", "own.onnx", "frame.npy", "--json"))
    assert shown["tasks"] == [load(tmp_path / "own.onnx").predict(frame).task.name]
    done = run("supsup-run", "own.onnx", "frame.png", status=1)
    assert "pictures need Pillow, which is not installed; pip install 'supsup[pictures]'" in done
    for command, missing, extra in (
        ("supsup-export", "onnx", "export,cpu"),
        ("supsup-train", "torch", "train"),
        ("supsup-baseline", "torch", "train"),
    ):
        message = f"{command}: {missing} is not installed; pip install 'supsup[{extra}]'\n"
        assert run(command, "--help", status=1) == message
