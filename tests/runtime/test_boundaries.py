"""What an import brings in, who may name onnxruntime, and that the import contracts can fail."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import supsup_runtime

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "runtime/supsup_runtime/bank/bits.py": ("torch", "supsup_runtime.cli.run"),
    "export/supsup_export/graph.py": (
        "supsup_train",
        "supsup_export.cli",
        "supsup_runtime.cli.run",
    ),
    "train/supsup_train/programs/programs.py": (
        "supsup_train.cli.train",
        "supsup_runtime.model.session",
    ),
}
HEAVY = (
    "torch",
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "typer",
    "rich",
    "scipy",
    "sklearn",
)


def loaded(code: str) -> list[str]:
    """Heavy modules in `sys.modules` after `code`."""
    script = f"import sys\n{code}\nprint(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "supsup_runtime",
        "supsup_runtime.data.streams",
        "supsup_runtime.cli.bank",
        "supsup_runtime.cli.run",
    ],
)
def test_importing_the_runtime_brings_in_nothing_heavy(module: str) -> None:
    assert loaded(f"import {module}") == []


def test_the_check_can_fail() -> None:
    assert loaded("import onnxruntime") == ["onnxruntime"]


def naming_onnxruntime(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "onnxruntime" for name in names):
                found.add(path.name)
    return found


def test_one_module_knows_onnxruntime(tmp_path: Path) -> None:
    assert naming_onnxruntime(Path(supsup_runtime.__file__).parent) == {"session.py"}
    (tmp_path / "other.py").write_text("from onnxruntime.capi import x")
    assert naming_onnxruntime(tmp_path) == {"other.py"}


def test_every_import_contract_can_fail(tmp_path: Path) -> None:
    for folder in ("runtime", "export", "train"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, modules in FORBIDDEN.items():
        with (tmp_path / file).open("a") as source:
            source.writelines(f"import {module}\n" for module in modules)
    roots = os.pathsep.join(str(tmp_path / folder) for folder in ("runtime", "export", "train"))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": roots, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert done.returncode == 1
    for contract in contracts["contracts"]:
        assert f"{contract['name']} BROKEN" in done.stdout
