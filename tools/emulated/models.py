"""Banks and models of every kind that `tools/arm.py` runs, made on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tools.benchmarks.models import masks_bank, store_bank
from tools.benchmarks.screened import TRAINED, trained_tasks
from tools.emulated.guest import Case, exported

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import make_stream
from supsup_runtime.errors import SupSupError
from supsup_train import create_bank, make_model

BIG = "LeNet 300-100, 250 tasks"
"""The bank whose models' instructions are counted; its exports are checked on the host alone."""
_SHARED = Path(__file__).resolve().parents[3] / "shared/data"
_TRAINING = "permuted --tasks 4 --outputs 30 --steps 100 --lr 1e-3 --threads 1 --quiet"
_TARGETS = {"cpu": "", "cuda": "--target cuda", "portable": "--target portable"}
_ROUNDED = {"rounded": "--scoring rounded"}
_SCREENED = {"screened": "--scoring screened"}
_PARTS = {"known": "--graph-outputs logits", "infer": "--graph-outputs task,logits"}
_TASK = {"one task": "--task {0}", "one task, 2 bits": "--task {0} --bits 2"}
_STORE = {"recovery": "--hopfield"}
Made = tuple[str, Path, Path | None, Mapping[str, str]]
"""Name, bank, file of inputs, and options of supsup-export by model; ``{0}`` is a task."""


def make(folder: Path) -> list[Case]:
    """Make models in a new folder; `BIG` is trained if the shared data are there."""
    folder.mkdir()
    cases: list[Case] = []
    for bank, path, inputs, models in _banks(folder):
        task = MaskBank.open(path, verify=False).task_names[0]
        for model, options in models.items():
            file = str(folder / f"{len(cases)}.onnx")
            words = ["--bank", str(path), *options.format(task).split()]
            if error := exported(words, Path(file)):
                raise SupSupError(f"{bank}, {model}, on this machine: {error}")
            case = {"bank": bank, "model": model, "file": file, "words": words}
            cases.append(
                case | {"checked": not bank.startswith(BIG), "inputs": inputs and str(inputs)}
            )
    return cases


def _banks(folder: Path) -> Iterator[Made]:
    for model in ("mlp-48", "cnn"):
        path, program = folder / model, Path(sys.executable).with_name("supsup-train")
        words = [*_TRAINING.split(), "--model", model, "--bank", str(path)]
        subprocess.run([program, *words], check=True)
        yield f"{model}, digits", path, _images(path, "digits", 5), _TARGETS | _PARTS | _TASK
    path = masks_bank(folder / "masks", "mlp-64-48", tasks=70).path
    yield "mlp-64-48, 70 tasks", path, None, _ROUNDED | _SCREENED
    yield "bnnet-65-33, two masks stored", store_bank(folder / "store").path, None, _STORE
    path = masks_bank(folder / "fc", "fc-1024-1024", tasks=2, inputs=784, outputs=500).path
    yield "FC 1024-1024, 2 tasks", path, None, _TARGETS
    path, data = folder / "big", Path(os.environ.get("SUPSUP_DATA") or _SHARED)
    if (data / "permuted-mnist-lenet-250").is_dir():
        module = make_model("lenet-300-100", input_shape=(784,), outputs=100)
        bank = create_bank(path, module, input_shape=(784,), real_outputs=10)
        bank.extend(trained_tasks(data, TRAINED))
        yield BIG, path, _images(path, data / "mnist", 1), _TARGETS | _SCREENED | _TASK
    else:
        masks_bank(path, "lenet-300-100", tasks=TRAINED, inputs=784, outputs=100)
        np.save(file := path.with_suffix(".npy"), np.eye(4, 784, dtype=np.float32))
        yield f"{BIG}, random masks", path, file, _TARGETS | _SCREENED | _TASK


def _images(bank: Path, source: str | Path, each: int) -> Path:
    """Save test images of four tasks, `each` per task, beside a bank."""
    stream = make_stream("permuted", load_dataset(source), num_tasks=4)
    images = np.concatenate([stream.task(k, train=False).test_x[:each] for k in range(4)])
    shape = MaskBank.open(bank, verify=False).network.input_shape
    np.save(file := bank.with_suffix(".npy"), images.reshape(-1, *shape))
    return file
