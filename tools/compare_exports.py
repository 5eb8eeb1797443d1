"""Export the same banks here and at another revision, and compare the models byte by byte.

`python tools/compare_exports.py 2acc81a`: every kind of model, target, objective and scoring, of
banks with masks, state, both, a Hopfield store, one task, a calibration. Exits with 1 and names the
models that differ or that one side refuses. Where the other revision needs packages that are not
installed here, give the interpreter of an environment that has them: ``--python``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from supsup_runtime.bank.calibration import Calibration

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tools.benchmarks.models import masks_bank, store_bank
from tools.revision import ROOT, checked_out, environment

CHILD = """
import contextlib, hashlib, io, json, pathlib, sys
from supsup_export import cli
requests, folder = json.load(sys.stdin), pathlib.Path(sys.argv[1])
renamed = "graph-outputs" in pathlib.Path(cli.__file__).read_text()
found = {}
for name, words in requests.items():
    words = [word if renamed else word.replace("--graph-outputs", "--outputs") for word in words]
    sys.argv = ["supsup-export", *words, str(folder / "model.onnx"), "--force", "--no-check"]
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as done:
            failed = done.code
    data = (folder / "model.onnx").read_bytes()
    found[name] = "refused: " + errors.getvalue() if failed else hashlib.sha256(data).hexdigest()
print(json.dumps(found))
"""
"""Exports each request with the packages of its environment: SHA-256 by name, or the refusal."""


def main() -> None:
    """Compare with the revision on the command line."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("revision", help="as git names it")
    made.add_argument("--python", default=sys.executable, help="of the other revision")
    arguments = made.parse_args()
    with TemporaryDirectory() as folder, checked_out(arguments.revision) as other:
        requests = _requests(Path(folder))
        different = differences(requests, other, Path(folder), python=arguments.python)
    print(*different, sep="\n", end="\n" if different else "")
    print(f"{len(requests) - len(different)} of {len(requests)} models are the same byte by byte")
    sys.exit(bool(different))


def differences(
    requests: dict[str, list[str]], there: Path, folder: Path, *, python: str = sys.executable
) -> list[str]:
    """A line for each model that this checkout and another make differently or one refuses.

    `requests` are, by name, the words of supsup-export but for the output; models are written into
    `folder`, each over the one before; `python` runs the checkout that is `there`.
    """
    one = _export(requests, ROOT, folder, sys.executable)
    other = _export(requests, there, folder, python)
    return [
        f"{name}: {one[name].strip()} here, {other[name].strip()} there"
        for name in requests
        if one[name] != other[name] or one[name].startswith("refused")
    ]


def _export(
    requests: dict[str, list[str]], root: Path, folder: Path, python: str
) -> dict[str, str]:
    done = subprocess.run(
        [python, "-c", CHILD, str(folder)],
        input=json.dumps(requests),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(root),
        cwd=folder,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _requests(folder: Path) -> dict[str, list[str]]:
    """By name of a model, the words of supsup-export that make it."""
    return {
        f"{name} {options}": ["--bank", str(folder / name), *options.split()]
        for name, options in _cases(folder)
    }


def _cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Banks made in a folder, and options of supsup-export to try with each."""
    bank = masks_bank(folder / "masks", "mlp-64-48", tasks=70)
    numbers = {"threshold": 1.5, "coverage": 0.95, "auroc": 0.9, "accepted": 0.9}
    bank.set_calibration(Calibration.from_dict({"score": "log-odds", "images": 9, **numbers}))
    masks_bank(folder / "state", "cnn", tasks=3)
    masks_bank(folder / "single", "mlp-7-9", tasks=1)
    _state_bank(folder / "plain")
    targets = ("cpu", "cuda", "portable")
    for name, target in product(("masks", "state", "single", "plain"), targets):
        for more in ("", "--objective entropy", "--graph-outputs logits", "--sidecar"):
            yield name, f"--target {target} {more}"
        for outputs in ("task,logits", "task_scores", "task"):
            yield name, f"--target {target} --graph-outputs {outputs}"
    for scoring, target in product(("exact", "rounded", "screened"), ("cpu", "cuda")):
        for outputs in ("", "--graph-outputs task,logits"):
            yield "masks", f"--target {target} --scoring {scoring} {outputs}"
    for name, bits in product(("masks", "state"), (32, 2)):
        yield name, f"--task task-0000 --bits {bits}"
    yield "plain", "--task permuted-0000"
    for dtype, rule in (("float32", "storkey"), ("float16", "hebb")):
        store_bank(folder / dtype, dtype=dtype, rule=rule)
        yield dtype, "--hopfield"
        yield dtype, "--hopfield --stream"


def _state_bank(path: Path) -> Path:
    """A bank whose tasks are state alone: BatchE's vectors, hardly learned."""
    words = "batche permuted --tasks 3 --model mlp-16 --outputs 20 --steps 1 --quiet --bank"
    program = Path(sys.executable).with_name("supsup-baseline")
    subprocess.run([program, *words.split(), str(path)], check=True, stderr=subprocess.DEVNULL)
    return path


if __name__ == "__main__":
    main()
