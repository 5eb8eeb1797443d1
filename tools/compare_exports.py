"""Compare models exported here and at another revision byte by byte.

`python tools/compare_exports.py 2acc81a` covers every kind of model, target, objective and scoring,
and banks with masks, state, both, a Hopfield store, one task, a calibration. Exits with 1 and lists
models that differ or were refused. ``--python`` is an interpreter with the revision's packages.
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
main = getattr(cli, "main", None) or __import__("supsup_commands").main
requests, folder = json.load(sys.stdin), pathlib.Path(sys.argv[1])
renamed = "graph-outputs" in pathlib.Path(cli.__file__).read_text()
found = {}
for name, words in requests.items():
    words = [word if renamed else word.replace("--graph-outputs", "--outputs") for word in words]
    sys.argv = ["supsup-export", *words, str(folder / "model.onnx"), "--force", "--no-check"]
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as done:
            failed = done.code
    data = (folder / "model.onnx").read_bytes()
    found[name] = "refused: " + errors.getvalue() if failed else hashlib.sha256(data).hexdigest()
print(json.dumps(found))
"""
"""Exports each request: SHA-256, or the refusal, by name."""


def main() -> None:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("revision", help="git revision")
    made.add_argument("--python", default=sys.executable, help="its interpreter")
    arguments = made.parse_args()
    with TemporaryDirectory() as folder, checked_out(arguments.revision) as other:
        requests = _requests(Path(folder))
        different = differences(requests, other, Path(folder), python=arguments.python)
    print(*different, sep="\n", end="\n" if different else "")
    print(f"{len(requests) - len(different)} of {len(requests)} models are identical")
    sys.exit(bool(different))


def differences(
    requests: dict[str, list[str]], there: Path, folder: Path, *, python: str = sys.executable
) -> list[str]:
    """Return a line per model that differs between this checkout and another, or is refused.

    `requests` has arguments of supsup-export by name, without the output. Models are written into
    `folder`, each over the one before. `python` runs the other checkout, which is in `there`.
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
    return {
        f"{name} {options}": ["--bank", str(folder / name), *options.split()]
        for name, options in _cases(folder)
    }


def _cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Make banks in a folder; yield their names and options of supsup-export."""
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
    """Make a bank of BatchE, whose tasks have only state."""
    words = "batche permuted --tasks 3 --model mlp-16 --outputs 20 --steps 1 --quiet --bank"
    program = Path(sys.executable).with_name("supsup-baseline")
    subprocess.run([program, *words.split(), str(path)], check=True, stderr=subprocess.DEVNULL)
    return path


if __name__ == "__main__":
    main()
