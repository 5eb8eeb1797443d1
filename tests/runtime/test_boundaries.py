"""The ground floor stays light: what an import brings in, and who may name onnxruntime."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import supsup_runtime

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
