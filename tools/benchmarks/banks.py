"""Banks of random masks, kept in a cache folder.

Times depend on the number and size of masks, not on their training.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

import supsup_export
import supsup_runtime
import supsup_train
from supsup_export.exporter import export
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import TaskMasks, make_task

INPUT_SHAPE = (784,)
REAL_OUTPUTS = 10
MODELS = {"lenet-300-100": 100, "fc-1024-1024": 500}
"""Networks, and their number of outputs in the paper for 250 tasks."""
DENSITY = 0.5
"""As after training with a threshold of 0."""
ROW_BITS = 256
"""Rows of the packed bank are padded to a multiple of this (docs/CONTRACT.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchBank:
    """A bank and its exported model file."""

    bank: MaskBank
    model: Path

    @property
    def row_bytes(self) -> int:
        """Bytes of one task in the model."""
        return -(-self.bank.network.num_masked // ROW_BITS) * ROW_BITS // 8

    @property
    def packed_bytes(self) -> int:
        """Bytes of all tasks in the model."""
        return len(self.bank) * self.row_bytes

    @property
    def float_bytes(self) -> int:
        """Bytes of all masks, or of one weight tensor per task, in float32."""
        return len(self.bank) * self.bank.network.num_masked * 4


def bench_bank(cache: Path, *, model: str, outputs: int, tasks: int) -> BenchBank:
    """Return a bank of random masks and its model, from the cache or new.

    `model` is a key of `MODELS`; `REAL_OUTPUTS` of the `outputs` are labels. File names contain a
    hash of the sources, so changed code makes new files.
    """
    training = _source_hash(supsup_train)
    folder = cache / f"{model}-{outputs}x{tasks}-{training}"
    torch.manual_seed(0)
    module = supsup_train.make_model(model, input_shape=INPUT_SHAPE, outputs=outputs)
    bank = cached_bank(folder / "masks", module, lambda bank: random_tasks(bank, tasks))
    file = folder / f"model-{_source_hash(supsup_export, supsup_runtime)}.onnx"
    if not file.exists():
        for old in folder.glob("model-*.onnx"):  # of earlier sources
            old.unlink()
        export(bank, file, check=False)
    return BenchBank(bank=bank, model=file)


def cached_bank(
    path: Path, module: torch.nn.Module, tasks: Callable[[MaskBank], Iterable[TaskMasks]]
) -> MaskBank:
    """Return the bank of a module, from `path` or new.

    It is written beside `path` and then renamed, so an interrupted bank is never used.
    """
    if not path.exists():
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        bank = supsup_train.create_bank(
            part, module, input_shape=INPUT_SHAPE, real_outputs=REAL_OUTPUTS
        )
        bank.extend(tasks(bank))
        part.rename(path)
    return MaskBank.open(path, verify=False)


def random_tasks(bank: MaskBank, tasks: int) -> Iterator[TaskMasks]:
    """Yield tasks with random masks and random state."""
    for index in range(tasks):
        rng = np.random.default_rng(index)
        masks = {p.name: rng.random(p.shape, np.float32) < DENSITY for p in bank.network.parameters}
        state = {}
        for tensor in bank.network.state:
            values = rng.uniform(0.5, 2, tensor.shape).astype(np.float32)
            if "_var" not in tensor.name:  # small means and blends keep activations finite
                values *= 0.1
            state[tensor.name] = values
        yield make_task(f"task-{index:04d}", masks, state=state, training={"entropy": 1.0})


def _source_hash(*packages: object) -> str:
    total = hashlib.sha256()
    for package in packages:
        (folder,) = package.__path__  # type: ignore[attr-defined]  # of packages
        for file in sorted(Path(folder).rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()[:12]


def normal_images(count: int) -> npt.NDArray[np.float32]:
    """Return the same standard normal inputs every time, ``float32 (count, 784)``."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *INPUT_SHAPE)).astype(np.float32)


def packed_rows(bench: BenchBank) -> npt.NDArray[np.uint8]:
    """Return masks as a model stores them: ``uint8 (tasks, row_bytes)``, padding zero."""
    parameters = bench.bank.network.parameters
    rows = np.zeros((len(bench.bank), bench.row_bytes), np.uint8)
    for row, task in zip(rows, bench.bank, strict=True):
        bits = np.concatenate([unpack_mask(task.masks[p.name], (p.size,)) for p in parameters])
        packed = np.packbits(bits, bitorder="little")
        row[: len(packed)] = packed
    return rows


def float_masks(rows: npt.NDArray[np.uint8], num_masked: int) -> torch.Tensor:
    """Unpack rows into ``float32 (tasks, num_masked)`` of ones and zeros."""
    masks = torch.empty((len(rows), num_masked), dtype=torch.float32)
    for mask, row in zip(masks.numpy(), rows, strict=True):
        mask[:] = np.unpackbits(row, count=num_masked, bitorder="little")
    return masks


def task_weights(bank: MaskBank, index: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return the masked weights of a task by name."""
    masks = bank.task(index).masks
    pairs = zip(bank.network.parameters, bank.network.weights(), strict=True)
    return {p.name: weight * unpack_mask(masks[p.name], p.shape) for p, weight in pairs}


def float_model(bank: MaskBank, index: int, *, overridable: bool = False) -> bytes:
    """Return a plain float32 ONNX model of a task: `x` in, `logits` out.

    With `overridable` the weights are inputs too, so that a caller can replace them.
    """
    model = onnx.load_from_string(bank.forward)
    for name, weight in task_weights(bank, index).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    if not overridable:
        inputs = [value for value in model.graph.input if value.name == "x"]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
    data: bytes = model.SerializeToString()
    return data
