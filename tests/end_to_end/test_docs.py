"""Every example of the README, the guides and docstrings runs, in order, in an empty folder."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = tuple(REPOSITORY / name for name in ("runtime", "export", "train"))
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)

# What examples of docstrings may take as there: a network, a task's data, a bank, a model of it.
_GIVEN = """```python
import numpy as np
import supsup_train as st
from supsup_export import export
from supsup_runtime.data import TaskData

x, y = np.zeros((4, 784), np.float32), np.arange(4)
module = st.Mlp([784, 10])
names = [f"rotated-{degrees:03d}" for degrees in (0, 90)]
tasks = [
    TaskData(name=name, labels=("0",) * 10, train_x=x, train_y=y, test_x=x, test_y=y)
    for name in names
]
bank = st.create_bank("bank", module, input_shape=(784,), real_outputs=10)
for data in tasks:
    bank.add(st.train_task(bank, module, data, recipe=st.Recipe(steps=1)))
export(bank, "out.onnx")
```
"""

# What the contract's examples take as there: two models, and inputs of their network.
_GIVEN_MODELS = """```sh
supsup-train permuted --tasks 4 --model mlp-32-16 --outputs 30 --steps 20 --bank masks/
supsup-hopfield encode --bank masks/
supsup-export --bank masks/ out.onnx
supsup-export --bank masks/ stream.onnx --hopfield --stream
```
```python
import numpy as np

images = x = np.zeros((100, 64), np.float32)
```
"""
# What the guide to one's own tasks takes as there, and for the README some of it.
_TWELVE_TASKS = f"""```sh
python {REPOSITORY}/tools/example_pictures.py pictures/
```
"""
_GIVEN_PICTURES = f"""```sh
PYTHONPATH={REPOSITORY} python - <<'END'
from pathlib import Path
from tools.example_pictures import make_tasks
make_tasks(Path("pictures"), tasks=("digits-0-1", "negative-0-6-8", "turned-1-7"), per_class=20)
END
```
"""
GIVEN = {
    "docs/CONTRACT.md": _GIVEN_MODELS,
    "docs/guide-own-tasks.md": _TWELVE_TASKS,
    "README.md": _GIVEN_PICTURES,
}

# One process per document: its Python blocks share one namespace, its shell blocks run in between.
_DRIVER = """
import json, pathlib, subprocess, sys

document, blocks = sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text())
namespace = {"__name__": "__main__"}
for block in blocks:
    print(f"{document}:{block['line']}: {block['kind']}", flush=True)
    if block["kind"] == "sh":
        subprocess.run(["bash", "-e", "-c", block["code"]], check=True)
    else:
        code = "\\n" * block["line"] + block["code"]  # tracebacks show the document's own lines
        exec(compile(code, document, "exec"), namespace)
"""


def _blocks(text: str) -> list[dict[str, str | int]]:
    """The blocks fenced as `python` or `sh`; `sh no-run` and all others are for reading."""
    return [
        {"kind": found["info"], "line": text.count("\n", 0, found.start("code")), "code": code}
        for found in _FENCE.finditer(text)
        if found["info"] in {"python", "sh"} and (code := found["code"])
    ]


def _docstrings(*folders: Path) -> dict[str, str]:
    """The docstrings of all modules in some folders that have a block to run, by their place."""
    found = {}
    for path in sorted(file for folder in folders for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if _blocks(text):
                    found[":".join([path.parent.name, path.name, getattr(node, "name", "")])] = text
    return found


def _run(document: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    work, blocks = folder / "work", folder / "blocks.json"
    work.mkdir()
    blocks.write_text(json.dumps(_blocks(text)))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return subprocess.run(
        [sys.executable, "-c", _DRIVER, document, str(blocks)],
        cwd=work,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


EXAMPLES = {
    str(page.relative_to(REPOSITORY)): text for page in PAGES if _blocks(text := page.read_text())
}


@pytest.mark.slow
@pytest.mark.parametrize("document", EXAMPLES)
def test_examples_run(document: str, tmp_path: Path) -> None:
    done = _run(document, GIVEN.get(document, "") + EXAMPLES[document], tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_pages_with_examples_are_found() -> None:
    assert {"README.md", "docs/CONTRACT.md", "docs/guide-device.md"} <= EXAMPLES.keys()


DOCSTRINGS = _docstrings(*PACKAGES)


@pytest.mark.slow
@pytest.mark.parametrize("place", DOCSTRINGS)
def test_examples_of_docstrings_run(place: str, tmp_path: Path) -> None:
    done = _run(place, _GIVEN + DOCSTRINGS[place], tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_new_example_is_found(tmp_path: Path) -> None:
    assert {"supsup_runtime:__init__.py:", "supsup_train:__init__.py:"} <= DOCSTRINGS.keys()
    code = '''
class Thing:
    async def method(self) -> None:
        """A method.

        ```python
        1 / 0
        ```
        """
'''
    (tmp_path / "net.py").write_text(code + code.replace("python", "text").replace("method", "no"))
    (text,) = _docstrings(tmp_path).values()
    assert _run("here", text, tmp_path).returncode != 0


def test_blocks_share_a_folder_and_a_namespace(tmp_path: Path) -> None:
    text = "```sh\necho 7 > seven\n```\n```python\nseven = open('seven').read()\n```\n"
    done = _run("here.md", text + "```python\nassert seven == '7\\n'\n```\n", tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", ["```sh\nfalse\ntrue\n```\n", "```python\n1 / 0\n```\n"])
def test_a_failing_example_fails(block: str, tmp_path: Path) -> None:
    assert _run("here.md", block, tmp_path).returncode != 0


@pytest.mark.parametrize("info", ["text", "console", "sh no-run", "cpp", ""])
def test_other_blocks_are_not_run(info: str) -> None:
    assert _blocks(f"```{info}\nfalse\n```\n") == []


def test_markdown_links_lead_somewhere() -> None:
    for document in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_nothing_is_left_to_fill_in() -> None:
    for document in PAGES:
        assert "@@" not in document.read_text(), document.name
