"""Command lines: valid ones, and the same with odd, missing, doubled and unknown words."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TextIO

from exports import each_made_once
from fuzz.case import Case
from fuzz.seeds import LEARN, OWN, TASKS
from fuzz.target import Reach, Refused, Target, command
from supsup_runtime.data import download

_NOWHERE = "http://127.0.0.1:9/none.tar.gz"
_VALID = tuple(
    line.split()
    for line in f"""
supsup-bank list plain --json
supsup-bank verify units
supsup-bank add plain sparse/tasks/{TASKS[0]}.safetensors
supsup-bank add plain plain/tasks/{TASKS[0]}.safetensors --name other
supsup-bank add plain plain/tasks/{TASKS[0]}.safetensors --replace
supsup-bank remove plain {TASKS[1]}
supsup-bank rename plain {TASKS[0]} upright
supsup-bank upgrade old
supsup-run full.onnx x.npy --task 1 --json
supsup-run full.onnx x.npy --per-image --method verified --candidates 2
supsup-run full.onnx x.npy --method gradient --alpha-steps 2 --alpha-step-size 0.5
supsup-eval full.onnx permuted --data data.npz --per-task 3 --batch-size 2 --seed 0
supsup-eval known.onnx permuted --data data.npz --tasks 2 --method exhaustive --score entropy
supsup-eval full.onnx permuted --data data.npz --per-task 3 --report r.html --force
supsup-train {OWN} --bank own
supsup-train {OWN} --check
supsup-run pictures.onnx pictures.npy --json
supsup-eval full.onnx split --data cifar --classes-per-task 2 --class-seed 1 --tasks 2
supsup-data download cifar10 --to new --url {_NOWHERE} --json
supsup-export --bank own out.onnx --preprocess baked
supsup-calibrate full.onnx permuted --data data.npz --bank plain --coverage 0.9 --per-task 8
supsup-inspect plain
supsup-inspect units --storage --json
supsup-inspect full.onnx --threads 1 --time
supsup-hopfield encode --bank units --rule storkey --dtype float32 {TASKS[0]}
supsup-hopfield encode --bank units --delete-masks
supsup-hopfield recover recover.onnx x.npy --batch-size 2 --steps 2 --look-every 1 --momentum 0.9
supsup-export --bank plain out.onnx --target portable --sidecar
supsup-export --bank plain out.onnx --graph-outputs logits,task --objective entropy
supsup-export --bank plain out.onnx --task {TASKS[0]} --bits 2
supsup-export --bank plain full.onnx --force --no-check
supsup-export --bank units out.onnx --hopfield --stream
supsup-train {LEARN} --tasks 2 --model mlp-6 --bank plain
supsup-train {LEARN} --tasks 2 --model mlp-6 --bank new --lr 0.1 --rule top-k --density 0.5
supsup-train {LEARN} --tasks 2 --model mlp-6 --bank new --scenario NNs --period 1 --max-tasks 2
supsup-train {LEARN} --tasks 2 --model conv-4 --bank new --augment crop,flip --warmup 0.5
supsup-baseline psp {LEARN} --tasks 2 --model mlp-6 --bank new --every 1
supsup-baseline batche {LEARN} --tasks 2 --model mlp-6 --bank new --matrices --first-lr 0.1
""".strip().splitlines()
)
_ODD = (
    *("", " ", "-", "--", "-1", "0", "1.5", "nan", "inf", "1e400", "True", "9" * 30, "9" * 5000),
    *("2147483648", "18446744073709551616", "1000", "\udcff.onnx", "a" * 5000, "/", "/dev/null"),
    *(
        ".",
        "..",
        "x.npy",
        "plain",
        "full.onnx",
        "none",
        "../outside/secret",
        "é",
        "\x1b[31m",
        "a\nb",
    ),
    *(
        "--json",
        "--threads",
        "--help",
        "--version",
        "--bank",
        "-h",
        "--outputs",
        "--bogus",
        "@x",
        "%s",
    ),
    *("loop", "loop/x", "fifo", "x.npy/x", "a" * 300 + ".onnx"),
    *("0x10", "1_000", "٣", "plain/", "plain/bank.json", "data.npz", "idx", "units", "*", "~"),
)
_WORK = frozenset(
    (
        "--steps",
        "--tasks",
        "--alpha-steps",
        "--per-task",
        "--max-tasks",
        "--batch-size",
        "--outputs",
    )
)
"""Numbers that mean work which a person may want: no large ones."""
_LARGE = frozenset(("1000", "2147483648", "18446744073709551616", "9" * 30, "9" * 5000, "1_000"))
_OUT = ("", "", "", "", "", "", "none", "full", "pipe")
"""Standard output: kept, closed, on a full disk, a pipe that nobody reads."""


class CommandLine(Target):
    """One command in this process, in a folder with banks, models and data."""

    room = 1 << 30

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._once = each_made_once()
        self._once.__enter__()
        import supsup_train.cli.train  # noqa: F401 - seconds, which no case shall take

        for name, archive in download.ARCHIVES.items():  # nor ask the network
            download.ARCHIVES = {**download.ARCHIVES, name: replace(archive, url=_NOWHERE)}

    def make(self, rng: Random) -> Case:
        words = list(rng.choice(_VALID))
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            _change(rng, words)
        return Case(files={}, words={"line": words, "out": rng.choice(_OUT)})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        shutil.copytree(self.seeds, folder, dirs_exist_ok=True)
        os.chdir(folder)
        Path("loop").symlink_to("loop")
        os.mkfifo("fifo")
        out = _output(case.words["out"])
        status, _ = command(*case.words["line"], out=out, silent=case.words["out"] == "pipe")
        if status != 2:
            reach("header")
        if status:
            raise Refused
        reach("load")
        reach("call")


def _change(rng: Random, words: list[str]) -> None:
    at = rng.randrange(1, len(words)) if len(words) > 1 else 0
    how = rng.random()
    if at == 0:
        words.append(rng.choice(_ODD))
    elif how < 0.5:
        words[at] = _odd(rng, words[at - 1])
    elif how < 0.65:
        del words[at]
    elif how < 0.75:
        words.insert(at, words[at])
    elif how < 0.85:
        words.insert(at, _odd(rng, words[at - 1]))
    else:
        other = rng.choice(_VALID)
        words.append(rng.choice(other[1:]))


def _odd(rng: Random, option: str) -> str:
    value = rng.choice(_ODD)
    return "0" if option in _WORK and value in _LARGE else value


def _output(kind: str) -> TextIO | None:
    if kind == "full":
        return open("/dev/full", "w")  # noqa: PTH123 - as a shell opens it
    if kind == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
        return os.fdopen(writing, "w")
    return io.StringIO() if kind == "" else None
