"""Small banks with a Hopfield store, of networks whose units are masked: random masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from banks import programs
from supsup_runtime.arrays import Images
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import TaskMasks, make_task
from supsup_runtime.hopfield.file import encode_into
from supsup_runtime.preprocessing import Preprocessing

MODEL = "bnnet-65-33"  # awkward: rows end inside a byte


def store_bank(
    path: Path,
    *,
    tasks: int = 2,
    model: str = MODEL,
    dtype: str = "float32",
    rule: str = "storkey",
    entropy: float | None = 1.0,
    preprocessing: Preprocessing | None = None,
) -> MaskBank:
    """A bank with random unit masks, all of them encoded; `entropy` is recorded with each."""
    forward, gradient, network = programs(model, 5, 5)
    network = replace(network, preprocessing=preprocessing)
    bank = MaskBank.create(path, network, forward=forward, gradient=gradient)
    bank.extend(unit_task(network, f"task-{i}", seed=i, entropy=entropy) for i in range(tasks))
    encode_into(bank, bank.task_names, rule=rule, dtype=dtype)
    return bank


def unit_task(network: Network, name: str, *, seed: int, entropy: float | None = None) -> TaskMasks:
    """Random masks; statistics that are positive, and no blend, as training writes them."""
    rng = np.random.default_rng(seed)
    state = {}
    for tensor in network.state:
        value = rng.uniform(0.5, 2, tensor.shape)
        state[tensor.name] = value.astype(np.float32) * (not tensor.name.endswith(".blend"))
    return make_task(
        name,
        {p.name: rng.random(p.shape) < 0.5 for p in network.parameters},
        state=state,
        labels=("a", "b", "c"),
        training={} if entropy is None else {"entropy": entropy},
    )


def flat_mask(bank: MaskBank, task: int) -> npt.NDArray[np.bool_]:
    """A task's masks as recovery has them: ``bool (num_masked,)``."""
    masks = bank.task(task).masks
    return np.concatenate(
        [unpack_mask(masks[p.name], p.shape).reshape(-1) for p in bank.network.parameters]
    )


def images(rows: int, seed: int = 0) -> Images:
    """Random inputs of `MODEL`."""
    return np.random.default_rng(seed).standard_normal((rows, 30)).astype(np.float32)


def stream(count: int) -> Iterator[Images]:
    """Batches of four random inputs, without a length."""
    return (images(4, seed) for seed in range(count))
