"""A bank as a model stores it (docs/CONTRACT.md, "Rows and flat weights")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from supsup_export.graph import refuse_large
from supsup_runtime.arrays import Bits, Bytes, Floats
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import pack_mask, unpack_mask
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.task import Origin, origin_of
from supsup_runtime.errors import BankError

ROW_BITS = 256
"""Weights per block; rows are whole blocks."""
BLOCK_BYTES = ROW_BITS // 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """The arrays of a model.

    Attributes:
        network: Shapes and order of parameters and state.
        masks: ``uint8 (tasks, row_bytes)``.
        signs: ``uint8 (row_bytes,)``; bit 1 is ``+c``; 0 of stored weights.
        counts: Ones per weight over all tasks, the narrowest unsigned ``(num_masked,)``.
        state: ``float32 (tasks, num_state)``.
        labels: Label names of each task.
        origins: `origin_of` each task.
        screen: Blocks that screening scores first, sorted ``int64 (blocks,)``, or none.
    """

    network: Network
    masks: Bytes
    signs: Bytes
    counts: npt.NDArray[np.unsignedinteger]
    state: Floats
    labels: tuple[tuple[str, ...], ...]
    origins: tuple[Origin, ...]
    screen: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def parts(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Blocks of each part stored on its own: the screen, and the rest."""
        blocks = np.arange(self.signs.size // BLOCK_BYTES)
        if not self.screen.size:
            return (blocks,)
        return self.screen, np.setdiff1d(blocks, self.screen)

    @cached_property
    def packed(self) -> tuple[Bytes, ...]:
        """Masks of `parts`, ``uint8 (tasks, blocks, 32)``; always the same arrays."""
        masks = self.masks.reshape(len(self.masks), -1, BLOCK_BYTES)
        return tuple(masks[:, part] for part in self.parts) if self.screen.size else (masks,)


def row_bytes(network: Network) -> int:
    """Return the bytes of a task's row."""
    return -(-network.num_masked // ROW_BITS) * ROW_BITS // 8


def lay_out(bank: MaskBank) -> Layout:
    """Read every task of a bank.

    Raises:
        BankError: If the bank is empty, a task breaks a rule, or the model would exceed 2 GB.
    """
    network, num_tasks = bank.network, len(bank)
    if num_tasks == 0:
        raise BankError(f"{bank.path}: the bank has no tasks; train or add one first")
    width = row_bytes(network)
    counts = np.zeros(network.num_masked, np.min_scalar_type(num_tasks))
    expected = (num_tasks + 1) * width + counts.nbytes + 4 * num_tasks * network.num_state
    expected += 4 * sum(p.size for p in network.stored)
    refuse_large(bank.path, expected, f"these {num_tasks} tasks need {expected}; split the bank")
    masks = np.zeros((num_tasks, width), np.uint8)
    state = np.zeros((num_tasks, network.num_state), np.float32)
    labels, origins = [], []
    for index, task in enumerate(bank):
        labels.append(task.labels)
        origins.append(origin_of(task))
        bits = _join((task.masks[p.name] for p in network.parameters), network)
        counts += bits
        _put(masks[index], bits)
        if network.state:
            state[index] = np.concatenate([task.state[s.name].reshape(-1) for s in network.state])
    signs = np.zeros(width, np.uint8)
    planes = (p.signs(network.weight_seed, i) for i, p in enumerate(network.parameters))
    _put(signs, _join(planes, network))
    return Layout(
        network=network,
        masks=masks,
        signs=signs,
        counts=counts,
        state=state,
        labels=tuple(labels),
        origins=tuple(origins),
    )


def _join(packed: Iterable[Bytes], network: Network) -> Bits:
    pairs = zip(packed, network.parameters, strict=True)
    bits = [unpack_mask(mask, (p.size,)) for mask, p in pairs]
    return np.concatenate([np.zeros(0, np.bool_), *bits])


def _put(row: Bytes, bits: Bits) -> None:
    packed = pack_mask(bits)
    row[: packed.size] = packed
