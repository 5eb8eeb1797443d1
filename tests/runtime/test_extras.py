"""The version, and what an import says where an extra is missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import supsup_runtime
from supsup_runtime import console
from supsup_runtime.console import version
from supsup_runtime.errors import explained

ROOT = Path(__file__).resolve().parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def missing(_name: str) -> str:
    raise metadata.PackageNotFoundError("supsup")


def test_the_version_is_that_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supsup_runtime.__version__ == version() == DECLARED
    monkeypatch.setattr(metadata, "version", missing)
    assert version() == DECLARED  # of the checkout


def test_a_copy_without_a_project_has_no_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(console, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    assert version() == "0+unknown"
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert version() == "0+unknown"
    (tmp_path / "pyproject.toml").write_text("[")
    assert version() == "0+unknown"


def test_another_attribute_is_missing() -> None:
    with pytest.raises(AttributeError, match=r"^module 'supsup_runtime' has no attribute 'nope'$"):
        supsup_runtime.nope  # noqa: B018


@pytest.mark.parametrize(
    ("package", "needed", "extra"),
    [
        ("supsup_train", "torch", "train"),
        ("supsup_train", "onnxscript", "train"),
        ("supsup_train.masks.recipe", "torch", "train"),
        ("supsup_export", "onnx", "export,cpu"),
        ("supsup_export.exporter", "onnx", "export,cpu"),
    ],
)
def test_an_import_without_its_extra_says_what_to_install(
    package: str, needed: str, extra: str
) -> None:
    code = f"import sys\nsys.modules[{needed!r}] = None\nimport {package}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    top = package.partition(".")[0]
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {top} needs {needed}, which is not installed; "
        f"pip install 'supsup[{extra}]'"
    )
    assert done.stderr.count("Error") == 1  # one message, not a chain


def test_a_missing_module_of_our_own_is_a_defect() -> None:
    error = ModuleNotFoundError("No module named 'supsup_train.x'", name="supsup_train.x")
    assert explained(error, "supsup_train", "train") is error
