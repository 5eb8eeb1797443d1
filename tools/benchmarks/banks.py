"""Banks of random masks, made once and kept in the cache folder.

Times do not depend on what masks were trained for, only on how many there are and how large.
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
"""Networks, and the outputs that the paper gives them for 250 tasks."""
DENSITY = 0.5
"""Of ones, as training with a threshold of 0 leaves it."""
ROW_BITS = 256
"""A row of the packed bank is padded to a multiple of this (docs/CONTRACT.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchBank:
    """A bank and the model made of it.

    Attributes:
        bank: Open.
        model: The exported file.
    """

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
        """Bytes of all masks, or of one weight tensor a task, in float32."""
        return len(self.bank) * self.bank.network.num_masked * 4


def bench_bank(cache: Path, *, model: str, outputs: int, tasks: int) -> BenchBank:
    """A bank of random masks and its model, from the cache or made now.

    The sources of what makes them are part of their names, so a change of the code is measured.

    Args:
        cache: Folder; made if it is not there.
        model: A key of `MODELS`.
        outputs: Length of the logits, `REAL_OUTPUTS` of them labels.
        tasks: Number of tasks, `K`.
    """
    training = _source_hash(supsup_train)
    folder = cache / f"{model}-{outputs}x{tasks}-{training}"
    torch.manual_seed(0)
    module = supsup_train.make_model(model, input_shape=INPUT_SHAPE, outputs=outputs)
    bank = cached_bank(folder / "masks", module, lambda bank: random_tasks(bank, tasks))
    file = folder / f"model-{_source_hash(supsup_export, supsup_runtime)}.onnx"
    if not file.exists():
        for old in folder.glob("model-*.onnx"):  # of sources that changed since
            old.unlink()
        export(bank, file, check=False)
    return BenchBank(bank=bank, model=file)


def cached_bank(
    path: Path, module: torch.nn.Module, tasks: Callable[[MaskBank], Iterable[TaskMasks]]
) -> MaskBank:
    """The bank of a module, from the cache or made now.

    It is made beside its place: a bank that was cut short must not be taken for a whole one.
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
    """Random masks, and random state where the network has any."""
    for index in range(tasks):
        rng = np.random.default_rng(index)
        masks = {p.name: rng.random(p.shape, np.float32) < DENSITY for p in bank.network.parameters}
        state = {}
        for tensor in bank.network.state:
            values = rng.uniform(0.5, 2, tensor.shape).astype(np.float32)
            if "_var" not in tensor.name:  # means and blends are small: activations stay finite
                values *= 0.1
            state[tensor.name] = values
        yield make_task(f"task-{index:04d}", masks, state=state, training={"entropy": 1.0})


def _source_hash(*packages: object) -> str:
    """Twelve hexadecimal digits over the Python sources of packages."""
    total = hashlib.sha256()
    for package in packages:
        (folder,) = package.__path__  # type: ignore[attr-defined]  # modules that are packages
        for file in sorted(Path(folder).rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()[:12]


def normal_images(count: int) -> npt.NDArray[np.float32]:
    """Standard normal inputs, ``float32 (count, 784)``; the same ones every time."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, *INPUT_SHAPE)).astype(np.float32)


def packed_rows(bench: BenchBank) -> npt.NDArray[np.uint8]:
    """All masks as a model stores them: ``uint8 (tasks, row_bytes)``, padding bits zero."""
    parameters = bench.bank.network.parameters
    rows = np.zeros((len(bench.bank), bench.row_bytes), np.uint8)
    for row, task in zip(rows, bench.bank, strict=True):
        bits = np.concatenate([unpack_mask(task.masks[p.name], (p.size,)) for p in parameters])
        packed = np.packbits(bits, bitorder="little")
        row[: len(packed)] = packed
    return rows


def float_masks(rows: npt.NDArray[np.uint8], num_masked: int) -> torch.Tensor:
    """Packed rows as ``float32 (tasks, num_masked)`` of ones and zeros."""
    masks = torch.empty((len(rows), num_masked), dtype=torch.float32)
    for mask, row in zip(masks.numpy(), rows, strict=True):
        mask[:] = np.unpackbits(row, count=num_masked, bitorder="little")
    return masks


def task_weights(bank: MaskBank, index: int) -> dict[str, npt.NDArray[np.float32]]:
    """The masked weights of one task, by name."""
    masks = bank.task(index).masks
    pairs = zip(bank.network.parameters, bank.network.weights(), strict=True)
    return {p.name: weight * unpack_mask(masks[p.name], p.shape) for p, weight in pairs}


def float_model(bank: MaskBank, index: int, *, overridable: bool = False) -> bytes:
    """A plain float32 ONNX model of one task: `x` in, `logits` out.

    Args:
        bank: Where the network and the task are.
        index: The task.
        overridable: Keep the weights among the inputs too, so that a caller can replace them.
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
