"""Valid files to start from, made by the commands that people make them with."""

from __future__ import annotations

import gzip
import os
import pickle
import sys
from pathlib import Path

import numpy as np

from cifar import cifar10
from commands import run
from supsup_runtime.bank.bank import MaskBank

FEATURES, CLASSES = 5, 3
TASKS = ("permuted-0000", "permuted-0001")
MODELS = ("full", "portable", "known", "infer", "recover", "one", "pictures")
BANKS = ("plain", "sparse", "units", "state", "old", "own")
"""Masks; masks that are stored sparse; masks over units with state in float16, a Hopfield
store and a calibration; state alone; masks in format 1; own tasks, with preprocessing and images
stored as negatives."""

LEARN = "permuted --data data.npz --steps 2 --outputs 5 --threads 1 --quiet"
OWN = "own --data own.toml --steps 2 --outputs 5 --max-classes 3 --threads 1 --quiet --model mlp-6"
OWN += " --negatives memory"
_LINES = f"""
supsup-train {LEARN} --tasks 2 --model mlp-6 --bank plain
supsup-train {LEARN} --tasks 2 --model mlp-64-48 --rule top-k --density 0.02 --bank sparse
supsup-train {LEARN} --tasks 2 --model bnnet-9-7 --state float16 --bank units
supsup-baseline batche {LEARN} --tasks 2 --model mlp-6 --bank state
supsup-hopfield encode --bank units
supsup-export --bank plain full.onnx
supsup-calibrate full.onnx permuted --data data.npz --bank plain
supsup-export --bank plain full.onnx --force --sidecar
supsup-export --bank plain portable.onnx --target portable
supsup-export --bank plain known.onnx --graph-outputs logits
supsup-export --bank plain infer.onnx --graph-outputs logits,task
supsup-export --bank units units.onnx
supsup-calibrate units.onnx permuted --data data.npz --bank units
supsup-export --bank units recover.onnx --hopfield
supsup-train {OWN} --bank own
supsup-export --bank own pictures.onnx --preprocess baked
supsup-export --bank plain one.onnx --task {TASKS[0]} --bits 2
"""


def make_seeds(folder: Path) -> None:
    """Fill a folder with banks, models, arrays and data sets; equal code makes equal bytes."""
    folder.mkdir(parents=True)
    _make_data(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for line in _LINES.strip().splitlines():
            run(*line.split())
    finally:
        os.chdir(before)
    _make_old(folder)
    for log in folder.rglob("train.jsonl"):
        log.unlink()  # it has times


def _make_old(folder: Path) -> None:
    """Make a bank of format 1, which no command makes any more."""
    plain = MaskBank.open(folder / "plain")
    path, forward, gradient = folder / "old", plain.forward, plain.gradient
    MaskBank.create(path, plain.network, forward=forward, gradient=gradient)
    index = path / "bank.json"
    index.write_text(index.read_text().replace('"format": 2', '"format": 1'))
    MaskBank.open(path).extend(plain)


def _make_data(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.standard_normal((4, FEATURES)).astype(np.float32))
    x = rng.integers(0, 256, (24, FEATURES), np.uint8)
    y = np.arange(24, dtype=np.int64) % CLASSES
    np.savez(folder / "data.npz", x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:])
    pictures = rng.integers(0, 256, (12, 4, 3), np.uint8)
    np.savez(folder / "pictures.npz", x_train=pictures, y_train=y[:12])
    tasks = [f'[[task]]\nname = "{name}"\ndata = "pictures.npz"\n' for name in "ab"]
    (folder / "own.toml").write_text("".join(tasks))
    np.save(folder / "pictures.npy", pictures[:2])
    _make_cifar(folder / "cifar")
    idx = folder / "idx"
    idx.mkdir()
    pictures = rng.integers(0, 256, (12, 3, 2), np.uint8)
    for part, end in (("train", ""), ("t10k", ".gz")):
        for what, magic, values in (
            ("images-idx3-ubyte", 0x803, pictures),
            ("labels-idx1-ubyte", 0x801, y[:12].astype(np.uint8)),
        ):
            header = np.array([magic, *values.shape], ">u4").tobytes()
            data = header + values.tobytes()
            data = gzip.compress(data, mtime=0) if end else data
            (idx / f"{part}-{what}{end}").write_bytes(data)


def _make_cifar(folder: Path) -> None:
    """Make CIFAR-10 of few pictures, the first files as Python 3 writes them."""
    cifar10(folder)
    for protocol, number in ((3, 2), (4, 3)):
        path = folder / f"data_batch_{number}"
        table = pickle.loads(path.read_bytes(), encoding="latin-1")  # noqa: S301 - made here
        path.write_bytes(pickle.dumps(table, protocol))


if __name__ == "__main__":
    make_seeds(Path(sys.argv[1]))
