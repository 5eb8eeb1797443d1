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

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the script's own folder is there, `tools.revision` is not
    sys.path.insert(0, str(ROOT))

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
    from tools.revision import checked_out

    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("revision", help="as git names it")
    made.add_argument(
        "--python", default=sys.executable, metavar="FILE", help="of the other revision"
    )
    arguments = made.parse_args()
    revision: str = arguments.revision
    with TemporaryDirectory() as folder, checked_out(revision) as other:
        requests = _requests(Path(folder))
        different = differences(requests, ROOT, other, Path(folder), python=arguments.python)
    print(*different, sep="\n", end="\n" if different else "")
    print(f"{len(requests) - len(different)} of {len(requests)} models are the same byte by byte")
    sys.exit(bool(different))


def differences(
    requests: dict[str, list[str]],
    here: Path,
    there: Path,
    folder: Path,
    *,
    python: str = sys.executable,
) -> list[str]:
    """A line for each model that two checkouts make differently, or that one of them refuses.

    `requests` are, by name, the words of supsup-export but for the output; models are written into
    `folder`, each over the one before; `python` runs the checkout that is `there`.
    """
    one = _export(requests, here, folder, sys.executable)
    other = _export(requests, there, folder, python)
    return [
        f"{name}: {one[name].strip()} here, {other[name].strip()} there"
        for name in requests
        if one[name] != other[name] or one[name].startswith("refused")
    ]


def _export(
    requests: dict[str, list[str]], root: Path, folder: Path, python: str
) -> dict[str, str]:
    from tools.revision import environment

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
    made: dict[str, list[str]] = {}
    for bank, options in _cases(folder):
        words = options.split()
        made[" ".join([bank.name, *words])] = ["--bank", str(bank), *words]
    return made


def _cases(folder: Path) -> Iterator[tuple[Path, str]]:
    """Banks, and options of supsup-export to try with each."""
    masks = masks_bank(folder / "masks", "mlp-64-48", tasks=70, calibrated=True)
    state = masks_bank(folder / "state", "cnn", tasks=3)
    single = masks_bank(folder / "single", "mlp-7-9", tasks=1)
    plain = _state_bank(folder / "plain")
    targets = ("cpu", "cuda", "portable")
    for bank, target in product((masks, state, single, plain), targets):
        for more in ("", "--objective entropy", "--graph-outputs logits", "--sidecar"):
            yield bank, f"--target {target} {more}"
        for outputs in ("task,logits", "task_scores", "task"):
            yield bank, f"--target {target} --graph-outputs {outputs}"
    for scoring, target in product(("exact", "rounded", "screened"), ("cpu", "cuda")):
        for outputs in ("", "--graph-outputs task,logits"):
            yield masks, f"--target {target} --scoring {scoring} {outputs}"
    for bank, bits in product((masks, state), (32, 2)):
        yield bank, f"--task task-0 --bits {bits}"
    yield plain, "--task permuted-0000"
    for dtype, rule in (("float32", "storkey"), ("float16", "hebb")):
        store = store_bank(folder / f"store-{dtype}", dtype=dtype, rule=rule)
        yield store, "--hopfield"
        yield store, "--hopfield --stream"


def masks_bank(path: Path, model: str, *, tasks: int, calibrated: bool = False) -> Path:
    """A bank of random masks and positive state, made by the packages here."""
    from supsup_runtime.bank.bank import MaskBank
    from supsup_runtime.bank.calibration import Calibration
    from supsup_runtime.bank.task import make_task
    from supsup_train import create_bank, make_model

    shape = (1, 8, 8) if model == "cnn" else (30,)
    module = make_model(model, input_shape=shape, outputs=20)
    bank: MaskBank = create_bank(path, module, input_shape=shape, real_outputs=6)
    rng = np.random.default_rng(0)  # means and blends are small: activations stay finite, not 0
    state = [(s.name, s.shape, 1 if "_var" in s.name else 0.1) for s in bank.network.state]
    bank.extend(
        make_task(
            f"task-{index}",
            {p.name: rng.random(p.shape) < 0.5 for p in bank.network.parameters},
            state={name: (k * rng.uniform(0.5, 2, shape)).astype("f4") for name, shape, k in state},
            training={"entropy": 1.0},
        )
        for index in range(tasks)
    )
    if calibrated:
        numbers = {"threshold": 1.5, "coverage": 0.95, "auroc": 0.9, "accepted": 0.9}
        bank.set_calibration(Calibration.from_dict({"score": "log-odds", "images": 9, **numbers}))
    return path


def store_bank(path: Path, *, dtype: str, rule: str) -> Path:
    """A bank of random masks of units, all of them encoded."""
    from supsup_runtime.bank.bank import MaskBank
    from supsup_runtime.hopfield.file import encode_into

    masks_bank(path, "bnnet-65-33", tasks=2)
    bank = MaskBank.open(path)
    encode_into(bank, bank.task_names, rule=rule, dtype=dtype)
    return path


def _state_bank(path: Path) -> Path:
    """A bank whose tasks are state alone: BatchE's vectors, hardly learned."""
    words = "batche permuted --tasks 3 --model mlp-16 --outputs 20 --steps 1 --quiet --bank"
    program = Path(sys.executable).with_name("supsup-baseline")
    subprocess.run([program, *words.split(), str(path)], check=True, stderr=subprocess.DEVNULL)
    return path


if __name__ == "__main__":
    main()
